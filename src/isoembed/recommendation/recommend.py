"""The recommendation: budget, family and data in, recipe out, with what is known, what is assumed, and how sure.

Where a law has been measured on the family, it speaks (`measured`); else the rules do (`rules`), each where it holds.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from isoembed.budget import Budget
from isoembed.core import checked
from isoembed.families import Family
from isoembed.families.known import has_measured_weights
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.settings import Settings
from isoembed.methods import Method
from isoembed.notes import refusal_of
from isoembed.recipe import DataStats, PartialSetup, check_trained
from isoembed.recommendation.applicable import applies_to, differences
from isoembed.recommendation.by_law import by_law
from isoembed.recommendation.by_rule import by_rule
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.frontier import OutOfReachError
from isoembed.recommendation.notes import note
from isoembed.recommendation.objectives import objective_notes
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation

__all__ = ["Recommendation", "Request", "recommend", "shipped_law"]

#: laws measured on built-in families, or along the depth of a model, FAMILY.json each
LAWS_FOLDER = Path(str(files("isoembed"))) / "assets" / "laws"


@checked
def recommend(
    request: Request | Budget | str | float,
    family: Family | str | None = None,
    *,
    law: LawSet | str | Path | None = None,
    setup: PartialSetup | None = None,
    data: DataStats | None = None,
    method: Method | str | None = None,
    model: str | None = None,
    constraints: Constraints | None = None,
    other_settings: bool = False,
    far: bool = False,
) -> Recommendation:
    """The recipe for what is asked.  Whatever the caller fixes (`method`, `model`, …) is kept and not judged.

    request: a `Request`; or its budget, FLOP as 1.5e12 or "1.5e12" or a `Budget` of time, money or epochs, with others
        of its fields beside it.
    family: default: `default_family`, for small budgets in FLOP alone.
    method: a value such as `LoRA(rank=32)`, or its label, as "lora r=32".
    law: measured on this family, or its file; default: the one that ships for it, where one does, it speaks of what is
        asked and its runs reach so far.  Options that gained by the tasks keep its order of recipes.
    other_settings: use the law although batch, context, temperature, pooling or options differ from those of its runs.
    far: where all lies beyond the reach of `law`, guess by its order instead of refusing.
    Raises InputError where a law is of another family or of other settings or does not reach so far, where the paper's
    rule would have to be extrapolated, or where no model of the family is affordable.
    """
    asked = Request.of(request, family, setup, data=data, method=method, model=model, constraints=constraints)
    found = _chosen(asked, law, other_settings=other_settings, far=far)
    found = found.model_copy(update={"notes": (*found.notes, *objective_notes(found.recipe))})
    if asked.budget.epochs is None:
        return found
    flop = found.recipe.total_flop
    spent = {"flop": flop, "stated": f"{asked.budget.stated}, {flop:.3g} FLOP"}
    return found.model_copy(update={"budget": asked.budget.model_copy(update=spent)})


def _chosen(asked: Request, law: LawSet | str | Path | None, *, other_settings: bool, far: bool) -> Recommendation:
    """By the law given, else by the one that ships where it speaks of what is asked, else by rule."""
    given = None if law is None else LawSet.load(law)
    shipped = law_of(asked.family) if given is None else None
    complete = asked.complete(*settings_of(given or shipped))
    if given is not None:
        check_trained(complete)
        return by_law(complete, given, other_settings=other_settings, far=far)
    if shipped is None:
        guess = by_rule(complete)
        elsewhere = [note("assumed", "other-weights", family=asked.family.name)] if _law_file(asked.family.name) else []
        return guess.model_copy(update={"notes": (*guess.notes, *elsewhere)})
    differs = tuple(differences(shipped, complete).values())
    if not applies_to(shipped, complete) and not (differs and other_settings):
        guess = by_rule(complete)
        apart = [note("assumed", "law-apart", differences=differs)] if differs else []
        return guess.model_copy(update={"notes": (*guess.notes, *apart)})
    try:
        return by_law(complete, shipped, other_settings=other_settings)
    except OutOfReachError as error:
        guess = by_rule(complete)
        beyond = note("basis", "by-rule-beyond"), note("warning", "out-of-reach", error=refusal_of(error))
        return guess.model_copy(update={"notes": (*beyond, *guess.notes)})


def shipped_law(family: str) -> LawSet | None:
    """The law that ships for the family of that name; None where none was measured."""
    file = _law_file(family)
    return None if file is None else LawSet.load(file)


def law_of(family: Family) -> LawSet | None:
    """The law that ships for the weights of `family`; None where none was measured on them."""
    return shipped_law(family.name) if all(map(has_measured_weights, family.models)) else None


def settings_of(law: LawSet | None) -> tuple[Settings, ...]:
    """Those of a law's runs, which a recipe has where nobody says otherwise, before what suits the family."""
    return () if law is None else (law.settings,)


def _law_file(family: str) -> Path | None:
    file = LAWS_FOLDER / f"{family}.json"
    return file if file.is_file() else None
