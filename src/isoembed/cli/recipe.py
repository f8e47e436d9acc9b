"""`isoembed recipe`: the best recipe for a budget, named and not trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from isoembed.cli import terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.job import JobFileOptions
from isoembed.cli.options import AllLimitOptions, AsJson, BudgetOptions, LawOptions, ModelOptions, TrainingOptions
from isoembed.core import InputError, rejected
from isoembed.recipe import Recipe
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation

#: what `recipe_json` adds
_DERIVED = ("key", "flop", "pairs", "steps", "epochs", "forward_params", "backward_params", "updated_params")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a recipe is asked for."""

    budget: BudgetOptions
    model: ModelOptions
    training: TrainingOptions
    law: LawOptions
    limits: AllLimitOptions


def recipe(
    ctx: typer.Context,
    asked: Asked,
    job: JobFileOptions,
    device: Annotated[str | None, typer.Option(hidden=True, help="once the name of --gpu")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the best recipe for a budget, with what is known and what is assumed."""
    budget, device = asked.budget.with_device(device)
    if device is not None:
        raise InputError(f"`--device` is torch's, for run and train; a price list is --gpu. Leave {device} out.")
    spend, setup = budget.value(), asked.training.setup
    family, model, grown = asked.model.chosen_and_grown(spend)
    request = Request.of(
        spend,
        family,
        setup.value(resize_embeddings=grown),
        method=asked.model.chosen_method(),
        model=model,
        learning_rate=asked.training.learning_rate,
        seed=asked.training.seed,
        constraints=asked.limits.value(),
    )
    recommendation = recommend(request, law=asked.law.value(), other_settings=asked.law.other_settings)
    job.save(ctx)
    if as_json:
        terminal.print_json(recommendation_json(recommendation))
    else:
        from isoembed.report.terminal.recommendation import recommendation_text

        terminal.console().print(recommendation_text(flagged(recommendation, ctx), budget.gpu))


def read_recipe(file: Path) -> Recipe:
    """The recipe in a file: recipe.json or record.json of a finished run, or what `recipe --json` prints.

    Raises InputError where it holds none.
    """
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"`--recipe` must be a file of JSON that holds a recipe; {file} is none ({error}).") from None
    value = value.get("recipe", value) if isinstance(value, dict) else value
    if not isinstance(value, dict):
        raise InputError(f"`--recipe` must be a file of JSON that holds a recipe; {file} holds another value.")
    try:
        return Recipe.model_validate_json(json.dumps({key: each for key, each in value.items() if key not in _DERIVED}))
    except ValidationError as error:
        raise rejected(error, f"the recipe in {file}") from None


def flagged(recommendation: Recommendation, ctx: typer.Context) -> Recommendation:
    """The recommendation as it is shown: its notes name the command's options, not fields."""
    notes = []
    for each in recommendation.notes:
        said = {
            name: with_flags(value, ctx) if isinstance(value, str) else value for name, value in each.fields.items()
        }
        notes.append(each.model_copy(update={"fields": said}))
    return recommendation.model_copy(update={"notes": tuple(notes)})


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, with the numbers that follow from its fields beside them."""
    return {
        **recipe.model_dump(mode="json"),
        "key": recipe.key,
        "flop": recipe.flop,
        "pairs": recipe.pairs,
        "steps": recipe.steps,
        "epochs": recipe.epochs,
        "forward_params": recipe.cost.forward,
        "backward_params": recipe.cost.backward,
        "updated_params": recipe.cost.updated,
    }


def recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON."""
    value = recommendation.model_dump(mode="json")
    value["recipe"] = recipe_json(recommendation.recipe)
    for name, candidates in (("runners_up", recommendation.runners_up), ("methods", recommendation.methods)):
        for entry, candidate in zip(value[name], candidates, strict=True):
            entry["recipe"] = recipe_json(candidate.recipe)
    if recommendation.next_run is not None:
        value["next_run"]["recipe"] = recipe_json(recommendation.next_run.recipe)
    return value
