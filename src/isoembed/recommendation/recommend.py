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
        asked and its runs reach so far.  Options that gained by the tasks on the family keep its order of recipes.
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
    if law is not None:
        given = LawSet.load(law)
        check_trained(asked.setup_at(given.settings))
        return by_law(asked.complete(given.settings), given, other_settings=other_settings, far=far)
    shipped = shipped_law(asked.family.name)
    if shipped is None:
        return by_rule(asked.complete())
    if not all(map(has_measured_weights, asked.family.models)):
        guess = by_rule(asked.complete())
        return guess.model_copy(
            update={"notes": (*guess.notes, note("assumed", "other-weights", family=asked.family.name))}
        )
    complete = asked.complete(shipped.settings)
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
    file = LAWS_FOLDER / f"{family}.json"
    return LawSet.load(file) if file.is_file() else None
