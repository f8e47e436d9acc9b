"""The peak learning rates of a law's runs beside those of a family's own rules: its forecasts are of runs that are
trained as those were, so its recipes are too.

The rules' exponents in N, steps and trained share are kept, and a factor on them is all that is learnt of the runs: few
runs say no exponent, and a recipe lies far beyond them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.families.base import Family
from isoembed.methods import Method
from isoembed.recipe import Recipe

#: of ln(rate / rule) up to which runs are at their family's own rates
_AS_THE_RULE = 0.1


class TrainedRate(Frozen):
    """The peak rate of a law's runs of one model and method: geometric means, for rules are powers."""

    model: str
    method: Method
    steps: float = Field(gt=0)
    rate: float = Field(gt=0)
    runs: int = Field(ge=1)


class RateFactor(Frozen):
    """What a method's runs had, times their family's rule."""

    factor: float
    noise: float  #: root mean square of ln(rate / (factor x rule)) between models and hyperparameters
    runs: int


def trained_rates(recipes: Iterable[Recipe]) -> tuple[TrainedRate, ...]:
    """One for each model and method of the runs."""
    by_setting: dict[tuple[str, Method], list[Recipe]] = {}
    for recipe in recipes:
        by_setting.setdefault((recipe.model.name, recipe.method), []).append(recipe)
    return tuple(
        TrainedRate(
            model=model,
            method=method,
            steps=float(np.exp(np.mean(np.log([run.steps for run in runs])))),
            rate=float(np.exp(np.mean(np.log([run.learning_rate for run in runs])))),
            runs=len(runs),
        )
        for (model, method), runs in by_setting.items()
    )


def rate_factors(rates: Sequence[TrainedRate], family: Family) -> dict[str, RateFactor]:
    """By method; none of one whose runs were at the rates of `family`'s own rule, or on none of its models."""
    by_method: dict[str, list[tuple[float, int]]] = {}
    for each in rates:
        try:
            model = family.model(each.model)
        except InputError:
            continue
        own, _ = family.peak_rate(model, each.method, steps=max(1, round(each.steps)))
        by_method.setdefault(each.method.name, []).append((float(np.log(each.rate / own)), each.runs))
    found = {}
    for method, seen in by_method.items():
        off_R, runs_R = np.array(seen).T
        mean = float(np.average(off_R, weights=runs_R))
        if abs(mean) > _AS_THE_RULE:
            noise = float(np.sqrt(np.average((off_R - mean) ** 2, weights=runs_R)))
            found[method] = RateFactor(factor=float(np.exp(mean)), noise=noise, runs=int(runs_R.sum()))
    return found
