"""The page's budget slider: recommendations computed here, once a stop, by `recommend`; the page only shows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from isoembed.budget import DEVICES, Budget
from isoembed.core import InputError, number_of
from isoembed.methods import Freeze, LoRA
from isoembed.recipe import Recipe
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.result import RankedRecipe, Recommendation
from isoembed.report.data import ReportData
from isoembed.report.forecast_grid import BEYOND, fitted_budgets
from isoembed.report.terminal.laws import law_rows
from isoembed.report.terminal.layout import duration, si
from isoembed.report.terminal.recommendation import device_rows, recipe_rows

_STOPS = 41


def stop_budgets(report_data: ReportData) -> list[Budget]:
    """Budgets of three digits, even in ln C, from the smallest fitted one to `BEYOND` times the largest."""
    assert report_data.laws is not None
    low, high = fitted_budgets(report_data.laws)
    texts = dict.fromkeys(f"{flop:.3g}" for flop in np.geomspace(low, BEYOND * high, _STOPS))
    return [Budget.parse(text) for text in texts]


def recommended(report_data: ReportData, budget: Budget) -> Recommendation:
    """The recommendation that the page shows: for the family and the data of the ledger's runs, under its laws."""
    return recommend(budget, report_data.family, law=report_data.laws, data=report_data.data)


def stops(report_data: ReportData) -> tuple[list[dict[str, Any]], str | None]:
    """Every stop that can be afforded, ready to be shown, and why there is none (None where there is one)."""
    if report_data.laws is None:
        return [], next(iter(report_data.notes), "there is no law")
    found: list[dict[str, Any]] = []
    reason = None
    for budget in stop_budgets(report_data):
        try:
            found.append(shown(report_data, recommended(report_data, budget)))
        except InputError as error:
            reason = str(error)
    return found, None if found else reason


def shown(report_data: ReportData, recommendation: Recommendation) -> dict[str, Any]:
    """One stop: numbers as they are, and the words of `isoembed recipe`."""
    recipe, sure = recommendation.recipe, recommendation.certainty
    assert sure is not None
    assert recommendation.reach is not None
    loss, reach = recommendation.loss, recommendation.reach
    return {
        "flop": recommendation.budget.flop,
        "budget": recommendation.budget.stated,
        "model": recipe.model.name,
        "method": recipe.method.label,
        "params": recipe.model.params,
        "tokens": recipe.train_tokens,
        "rate": recipe.learning_rate,
        "loss": None if loss is None else [loss.value, loss.low, loss.high],
        "headline": f"{recipe.method.label} on {recipe.model.name}, {si(recipe.train_tokens)} tokens",
        "sentence": in_a_sentence(recipe),
        "held": _held_out(report_data, recipe),
        "predicted": f"none: {recommendation.no_forecast}" if loss is None else loss.describe(),
        "beyond": reach.outside,
        "reach": reach.describe(),
        "sure": [[name, share] for name, share in sure.methods.items()],
        "details": [
            *recipe_rows(recipe),
            *law_rows(recommendation),
            *(("known", line) for line in recommendation.known),
            *(("assumed", line) for line in recommendation.assumed),
        ],
        "cautions": "; ".join(dict.fromkeys(note.title for note in recommendation.notes if note.kind == "warning")),
        "warnings": list(recommendation.warnings),
        "devices": {device.name: device_rows(recommendation, device.name) for device in DEVICES},
        "measured": _measured(report_data, recommendation),
        "others": [_ranked(each) for each in recommendation.methods],
    }


def in_a_sentence(recipe: Recipe) -> str:
    """The recipe as a person reads it aloud: `Fine-tune the first 3 blocks of smollm2-135m fully on 5,200 pairs.`"""
    method, model = recipe.method, recipe.model
    what = model.name if model.depth is None else f"the first {model.depth} blocks of {model.whole}"
    by = {"full": "fully", "bias": "in its biases alone", "norms": "in its norms alone"}.get(method.name)
    if isinstance(method, Freeze):
        by = f"in the last {method.fraction:.0%} of its blocks"
    elif isinstance(method, LoRA):
        by = f"with LoRA of rank {method.rank}"
    pairs = round(recipe.pairs)
    often = "" if recipe.epochs is None or recipe.epochs <= 1 else f", {recipe.epochs:.2g} times over"
    return f"Fine-tune {what} {by or f'by {method.label}'} on {number_of(pairs, 'pair')}{often}."


def _held_out(report_data: ReportData, recipe: Recipe) -> str:
    """How the forecasts of these laws came out where runs had been held out."""
    tested = [
        (law, each) for law in report_data.law_files for each in law.holdout.values() if each.verdict != "untested"
    ]
    if not tested:
        return "no runs were held out"
    good = sum(each.verdict == "good" for _, each in tested)
    own = [
        f"{each.by.replace('-', ' ')} of {law.method} {each.held_error:.1%} off"
        for law, each in tested
        if recipe.method.name in {tested.method.name for tested in law.tested_settings} and each.held_error is not None
    ]
    return "\n".join((f"{good} of {number_of(len(tested), 'hold-out')} within what the laws allow", *own))


def _ranked(ranked: RankedRecipe) -> list[str]:
    """A method's best candidate as a row: method, model, tokens, loss, probability of being the best ranked."""
    recipe = ranked.recipe
    return [
        recipe.method.label,
        recipe.model.name,
        si(recipe.train_tokens),
        "-" if ranked.loss is None else ranked.loss.describe(),
        "-" if ranked.best is None else f"{ranked.best:.2f}",
    ]


def _measured(report_data: ReportData, recommendation: Recommendation) -> str | None:
    """Time at the median speed of the ledger's own runs of this model and method; None where there was none."""
    recipe = recommendation.recipe
    speeds = [
        record.tokens_per_second
        for record in report_data.records
        if record.recipe.model.name == recipe.model.name and record.recipe.method.name == recipe.method.name
    ]
    if not speeds:
        return None
    speed = float(np.median(speeds))
    return (
        f"about {duration(recipe.train_tokens / speed)} at {speed:,.0f} tokens/s, the median of {len(speeds)} such runs"
    )
