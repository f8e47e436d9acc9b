"""The recommendation: budget, family and data in, recipe out, with what is known, what is assumed, and how sure.

Where a law has been measured on the family, it speaks (`measured`); else the rules do (`rules`), each where it holds.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from isoembed.budget import Budget
from isoembed.constraints import Constraints
from isoembed.families import PYTHIA, Family, family_named
from isoembed.laws.files import LawSet
from isoembed.laws.settings import Settings
from isoembed.measured import by_law, speaks_of
from isoembed.methods import Method
from isoembed.recipe import PLAIN, DataStats, Options
from isoembed.recommendation import Recommendation
from isoembed.request import Request
from isoembed.rules import by_rule

__all__ = ["Recommendation", "recommend", "shipped_law"]

#: laws measured on built-in families, FAMILY.json each
LAWS_FOLDER = Path(str(files("isoembed"))) / "assets" / "laws"


def recommend(
    budget: Budget,
    family: Family | str = PYTHIA,
    *,
    law: LawSet | None = None,
    constraints: Constraints | None = None,
    other_settings: bool = False,
    data: DataStats | None = None,
    method: Method | None = None,
    model: str | None = None,
    batch_pairs: int | None = None,
    context_tokens: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    pooling: str = "mean",
    options: Options = PLAIN,
) -> Recommendation:
    """The recipe for `budget` on `family`.  Whatever the caller fixes (`method`, `model`, …) is kept and not judged.

    law: measured on this family; default: the one that ships for it, where one does and it speaks of what is asked.
    other_settings: use `law` although batch, context, temperature, pooling or options differ from those of its runs.
    Raises InputError where a law is of another family or of other settings, where the paper's rule would have to be
    extrapolated, or where no model of the family is affordable.
    """
    family = family_named(family) if isinstance(family, str) else family
    limits = constraints or Constraints()

    def request(settings: Settings) -> Request:
        """What is asked; batch and context that nobody named are those of the law's runs, or the family's."""
        context = context_tokens or settings.context_tokens or family.context_tokens
        return Request(
            budget=budget,
            family=family,
            data=limits.cap(data or DataStats.assumed(context)),
            batch_pairs=(settings.batch_pairs or family.batch_pairs) if batch_pairs is None else batch_pairs,
            context_tokens=context,
            constraints=limits,
            method=method,
            model=model,
            learning_rate=learning_rate,
            seed=seed,
            pooling=pooling,
            options=options,
        )

    if law is not None:
        return by_law(request(law.settings), law, other_settings=other_settings)
    shipped = shipped_law(family.name)
    if shipped is not None and speaks_of(shipped, request(shipped.settings)):
        return by_law(request(shipped.settings), shipped)
    return by_rule(request(Settings()))


def shipped_law(family: str) -> LawSet | None:
    """The law that ships for the family of that name; None where none was measured."""
    file = LAWS_FOLDER / f"{family}.json"
    return LawSet.load(file) if file.is_file() else None
