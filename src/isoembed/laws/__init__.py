"""Scaling laws: one file each, listed here."""

from isoembed.core import InputError
from isoembed.laws.base import Law, Parameter
from isoembed.laws.embedding import EMBEDDING
from isoembed.laws.frantar import FRANTAR
from isoembed.laws.hoffmann import HOFFMANN, TIED
from isoembed.laws.interaction import INTERACTION
from isoembed.laws.levelled import Levelled
from isoembed.laws.multiplicative import MULTIPLICATIVE
from isoembed.laws.odds import Odds
from isoembed.laws.points import Points
from isoembed.laws.power import POWER
from isoembed.laws.rectified import RECTIFIED

#: the law that forecasts contrastive losses best (docs/lab-notes/laws.md, 2026-11-28)
INTERACTION_ODDS = Odds(INTERACTION)
LAWS: tuple[Law, ...] = (
    HOFFMANN,
    TIED,
    EMBEDDING,
    POWER,
    MULTIPLICATIVE,
    FRANTAR,
    RECTIFIED,
    INTERACTION,
    Odds(HOFFMANN),
    Odds(FRANTAR),
    INTERACTION_ODDS,
)
#: laws of N and D that `law=best` lets compete, that of the odds where the candidates are known; the others need
#: columns or meanings of their own
COMPARED: tuple[Law, ...] = (HOFFMANN, TIED, EMBEDDING, MULTIPLICATIVE, INTERACTION_ODDS)

#: every law by its name, and each as it may be moved to other pairs
_NAMED: dict[str, Law] = {law.name: law for form in LAWS for law in (form, Levelled(form))}

__all__ = ["COMPARED", "LAWS", "Law", "Parameter", "Points", "law_named", "laws_named"]


def law_named(name: str) -> Law:
    """The law called `name`, one that was moved to other pairs among them."""
    if name not in _NAMED:
        raise InputError(f"`law` must be one of {', '.join(law.name for law in LAWS)}; got {name!r}.")
    return _NAMED[name]


def laws_named(text: str) -> tuple[Law, ...]:
    """`best`: those that compete; else the laws of these names, as `hoffmann,embedding`."""
    return COMPARED if text == "best" else tuple(law_named(name.strip()) for name in text.split(","))
