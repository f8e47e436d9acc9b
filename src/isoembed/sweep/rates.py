"""Peak learning rates from a cheap pre-sweep: per method, size, hyperparameter and horizon, then one smooth rule.

1. At each setting a few rates, a constant factor apart; where the best of them is the lowest or highest tried, one more
   beyond it, a few times over.
2. The optimum of a setting: the vertex of the parabola in ln rate through the best rate and its two neighbours.
3. Per method: ln rate = constant + a ln N + b ln steps (+ c ln share), by least squares through the optima.

A shared rate would decide between methods by itself: LoRA's best is several times full fine-tuning's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import Field

from isoembed.core import Frozen
from isoembed.families.base import RateLaw
from isoembed.methods import Method
from isoembed.recipe import Recipe
from isoembed.records import RunRecord

#: how often a grid of rates is extended beyond its edge
EXTENSIONS = 3


class RateOptimum(Frozen):
    """The best peak rate at one setting."""

    method: Method
    model: str
    params: int
    share: float
    steps: int
    rate: float
    loss: float
    tried: tuple[float, ...] = Field(description="rates tried, ascending")
    edge: Literal["low", "high"] | None = Field(
        description="where the best rate tried is the lowest or the highest one: the optimum may lie beyond"
    )


class RateFit(Frozen):
    """One method's rule through its optima."""

    method: str
    law: RateLaw
    optima: tuple[RateOptimum, ...]
    noise: float = Field(serialization_alias="scatter", description="root mean square of ln(optimum / rule)")


def setting_of(recipe: Recipe) -> tuple[str, str, int]:
    """What a search for a rate keeps fixed: method with hyperparameter, model, tokens."""
    return recipe.method.label, recipe.model.name, recipe.train_tokens


def optima(records: Iterable[RunRecord]) -> list[RateOptimum]:
    """The best rate of each setting that has three runs or more."""
    by_setting: dict[tuple[str, str, int], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.heldout is not None:
            by_setting[setting_of(record.recipe)].append(record)
    return [_optimum(runs) for _, runs in sorted(by_setting.items()) if len(runs) >= 3]


def _optimum(runs: list[RunRecord]) -> RateOptimum:
    runs = sorted(runs, key=lambda run: run.recipe.learning_rate)
    log_rate = np.log([run.recipe.learning_rate for run in runs])
    loss = np.array([run.heldout.loss for run in runs if run.heldout is not None])
    best = int(np.argmin(loss))
    where, lowest = float(log_rate[best]), float(loss[best])
    edge: Literal["low", "high"] | None = "low" if best == 0 else "high" if best == len(runs) - 1 else None
    if edge is None:
        bend, slope, constant = np.polyfit(log_rate[best - 1 : best + 2] - where, loss[best - 1 : best + 2], 2)
        where, lowest = where - slope / (2 * bend), float(constant - slope**2 / (4 * bend))
    recipe = runs[best].recipe
    return RateOptimum(
        method=recipe.method,
        model=recipe.model.name,
        params=recipe.model.params,
        share=recipe.method.share(recipe.model),
        steps=recipe.steps,
        rate=math.exp(where),
        loss=lowest,
        tried=tuple(run.recipe.learning_rate for run in runs),
        edge=edge,
    )


def beyond(optimum: RateOptimum, *, first: int) -> float | None:
    """The next rate to try where the best one lies on the edge of a grid that began with `first` rates; None where it
    does not, or the grid was extended often enough."""
    tried = optimum.tried
    if optimum.edge is None or len(tried) >= first + EXTENSIONS:
        return None
    factor = tried[1] / tried[0]
    return tried[-1] * factor if optimum.edge == "high" else tried[0] / factor


def fit_rates(found: Iterable[RateOptimum]) -> dict[str, RateFit]:
    """One rule a method, by its name.  A power whose feature does not vary between the optima is zero."""
    by_method: dict[str, list[RateOptimum]] = defaultdict(list)
    for optimum in found:
        by_method[optimum.method.name].append(optimum)
    fits = {}
    for name, group in sorted(by_method.items()):
        feature = np.log([[o.params, o.steps, o.share] for o in group])
        target = np.log([o.rate for o in group])
        varies = np.ptp(feature, axis=0) > 1e-9
        design = np.column_stack([np.ones(len(group)), feature[:, varies]])
        solved = np.linalg.lstsq(design, target, rcond=None)[0]
        powers = np.zeros(3)
        powers[varies] = solved[1:]
        fits[name] = RateFit(
            method=name,
            law=RateLaw(constant=solved[0], params=powers[0], steps=powers[1], share=powers[2]),
            optima=tuple(group),
            noise=float(np.sqrt(np.mean((target - design @ solved) ** 2))),
        )
    return fits
