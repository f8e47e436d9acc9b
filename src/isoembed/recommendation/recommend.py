"""The recommendation: budget, family and data in, recipe out, with what is known, what is assumed, and how sure.

Where a law has been measured on the family, it speaks (`measured`); else the rules do (`rules`), each where it holds.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from isoembed.budget import Budget
from isoembed.core import InputError, checked
from isoembed.families import FAMILIES, NANO, Family, family_named
from isoembed.families.known import is_built_in
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.settings import Settings
from isoembed.methods import Method, method_of
from isoembed.recipe import PLAIN, DataStats, Options
from isoembed.recommendation.applicable import applies_to
from isoembed.recommendation.by_law import by_law
from isoembed.recommendation.by_rule import by_rule
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.frontier import OutOfReachError
from isoembed.recommendation.notes import note
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation

__all__ = ["Recommendation", "recommend", "shipped_law"]

#: laws measured on built-in families, FAMILY.json each
LAWS_FOLDER = Path(str(files("isoembed"))) / "assets" / "laws"

#: the largest budget for which no family need be named: as far as the law that ships for nano reaches
DEFAULT_MOST_FLOP = 1.5e14


@checked
def recommend(
    budget: Budget | str | float,
    family: Family | str | None = None,
    *,
    law: LawSet | str | Path | None = None,
    constraints: Constraints | None = None,
    other_settings: bool = False,
    data: DataStats | None = None,
    method: Method | str | None = None,
    model: str | None = None,
    batch_pairs: int | None = None,
    context_tokens: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    pooling: str = "mean",
    options: Options = PLAIN,
    heldout: str | None = None,
    far: bool = False,
) -> Recommendation:
    """The recipe for `budget` on `family`.  Whatever the caller fixes (`method`, `model`, …) is kept and not judged.

    budget: FLOP, as 1.5e12 or "1.5e12", or a `Budget` of time or money.
    method: a value such as `LoRA(rank=32)`, or its label, as "lora r=32".
    family: default: `default_family`, for small budgets in FLOP alone.
    law: measured on this family, or its file; default: the one that ships for it, where one does, it speaks of what is
        asked and its runs reach so far.
    other_settings: use `law` although batch, context, temperature, pooling or options differ from those of its runs.
    heldout: fingerprint of the held-out set that the losses will be on, where that is known.
    far: where all lies beyond the reach of `law`, guess by its order instead of refusing.
    Raises InputError where a law is of another family or of other settings or does not reach so far, where the paper's
    rule would have to be extrapolated, or where no model of the family is affordable.
    """
    spend = Budget.parse(budget)
    suite = default_family(spend) if family is None else family_named(family)
    fixed = None if method is None else method_of(method)
    limits = constraints or Constraints()

    def request(settings: Settings) -> Request:
        """What is asked; batch and context that nobody named are those of the law's runs, or the family's."""
        context = context_tokens or settings.context_tokens or suite.context_tokens
        return Request(
            budget=spend,
            family=suite,
            data=limits.cap(data or DataStats.assumed(context)),
            batch_pairs=(settings.batch_pairs or suite.batch_pairs) if batch_pairs is None else batch_pairs,
            context_tokens=context,
            constraints=limits,
            method=fixed,
            model=model,
            learning_rate=learning_rate,
            seed=seed,
            pooling=pooling,
            options=options,
            heldout=heldout,
        )

    if law is not None:
        given = LawSet.load(law)
        return by_law(request(given.settings), given, other_settings=other_settings, far=far)
    as_shipped = all(is_built_in(spec.source) for spec in suite.models)  # others of that shape have other weights
    shipped = shipped_law(suite.name) if as_shipped else None
    if shipped is None or not applies_to(shipped, request(shipped.settings)):
        return by_rule(request(Settings()))
    try:
        return by_law(request(shipped.settings), shipped)
    except OutOfReachError as error:
        guess = by_rule(request(shipped.settings))
        basis = note("basis", "by-rule-beyond", basis=guess.basis)
        others = (each for each in guess.notes if each.kind != "basis")
        return guess.model_copy(update={"notes": (basis, note("warning", "out-of-reach", error=str(error)), *others)})


def default_family(budget: Budget) -> Family:
    """The family that ships, for a budget in FLOP that its law reaches; raises InputError for any other."""
    if budget.flop is None or budget.flop > DEFAULT_MOST_FLOP:
        named = ", ".join(family.name for family in FAMILIES if family.name != NANO.name)
        raise InputError(
            f"A budget in time or money, or above {DEFAULT_MOST_FLOP:.2g} FLOP, needs a named family; got "
            f"{budget.stated}. Give `family` ({named}), or `model` with a hub id or folder."
        )
    return NANO


def shipped_law(family: str) -> LawSet | None:
    """The law that ships for the family of that name; None where none was measured."""
    file = LAWS_FOLDER / f"{family}.json"
    return LawSet.load(file) if file.is_file() else None
