"""`isoembed recipe`: the best recipe for a budget, named and not trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from isoembed.cli import terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.job import JobFileOptions
from isoembed.cli.options import (
    AllLimitOptions,
    AsJson,
    BudgetOptions,
    LawOptions,
    ModelOptions,
    TrainingOptions,
    request_of,
)
from isoembed.core import InputError
from isoembed.estimates import recipe_memory
from isoembed.families import Family
from isoembed.recipe import Recipe
from isoembed.recommendation.recommend import Request, recommend
from isoembed.recommendation.result import RankedRecipe, Recommendation

Noted = TypeVar("Noted", Recommendation, RankedRecipe)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What a recipe is asked for."""

    budget: BudgetOptions
    model: ModelOptions
    training: TrainingOptions
    law: LawOptions
    limits: AllLimitOptions


def recipe(
    ctx: typer.Context,
    asked: RecipeOptions,
    job: JobFileOptions,
    device: Annotated[str | None, typer.Option(hidden=True, help="once the name of --gpu")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the best recipe for a budget, with what is known and what is assumed."""
    budget, device = asked.budget.with_device(device)
    if device is not None:
        raise InputError(f"`--device` is torch's, for run and train; a price list is --gpu. Leave {device} out.")
    if asked.model.family == "any":
        _across(ctx, asked, job, budget, as_json=as_json)
        return
    request = request_of(budget, asked.model, asked.training, asked.limits)
    recommendation = recommend(request, law=asked.law.value(), other_settings=asked.law.other_settings)
    job.save(ctx)
    if as_json:
        terminal.print_json(recommendation_json(recommendation))
    else:
        from isoembed.report.terminal.recommendation import recommendation_text

        terminal.console().print(recommendation_text(flagged(recommendation, ctx), budget.gpu))


def _across(
    ctx: typer.Context, asked: RecipeOptions, job: JobFileOptions, budget: BudgetOptions, *, as_json: bool
) -> None:
    """Every family beside the others."""
    from isoembed.recommendation.across import across
    from isoembed.report.terminal.across import across_text

    if asked.model.model is not None or asked.law.value() is not None:
        raise InputError("`--family any` compares families; --model and --law are of one. Leave them out.")

    def ask(family: Family) -> Request:
        return request_of(budget, replace(asked.model, family=family.name), asked.training, asked.limits)

    found = across(ask)
    job.save(ctx)
    if as_json:
        value = [each.model_dump(mode="json", exclude={"recommendation"}) for each in found]
        for entry, each in zip(value, found, strict=True):
            entry["recommendation"] = None if each.recommendation is None else recommendation_json(each.recommendation)
        terminal.print_json({"families": value})
    else:
        terminal.console().print(across_text(found))


def flagged(recommendation: Recommendation, ctx: typer.Context) -> Recommendation:
    """The recommendation as it is shown: its notes, and those of other candidates, name the command's options."""
    candidates = {
        name: tuple(_flagged_notes(each, ctx) for each in getattr(recommendation, name))
        for name in ("runners_up", "methods")
    }
    return _flagged_notes(recommendation, ctx).model_copy(update=candidates)


def _flagged_notes(noted: Noted, ctx: typer.Context) -> Noted:
    voice = partial(with_flags, ctx=ctx)
    return noted.model_copy(update={"notes": tuple(each.spoken(voice) for each in noted.notes)})


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, with the numbers that follow from its fields beside them."""
    return recipe.model_dump(mode="json") | recipe.derived()


def recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON."""
    value = recommendation.model_dump(mode="json")
    recipe = recommendation.recipe
    memory = recipe_memory(recipe, bf16=recommendation.budget.device is not None)
    value["recipe"] = recipe_json(recipe)
    value["estimates"] = {
        "least_memory_bytes": memory.least,
        "whole_graph_memory_bytes": memory.whole,
        "most_hardware_flop": recipe.most_hardware_flop,
        "serving_flop_per_token": 2 * recipe.model.params,
    }
    for name, candidates in (("runners_up", recommendation.runners_up), ("methods", recommendation.methods)):
        for entry, candidate in zip(value[name], candidates, strict=True):
            entry["recipe"] = recipe_json(candidate.recipe)
    if recommendation.next_run is not None:
        value["next_run"]["recipe"] = recipe_json(recommendation.next_run.recipe)
    return value
