"""The peak learning rates of a law's runs beside those of a family's own rules: its forecasts are of runs that are
trained as those were, so its recipes are too.

The rules' exponents in N, steps and trained share are kept, and a factor on them is all that is learnt of the runs: few
runs say no exponent, and a recipe lies far beyond them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import Field

from isoembed.core import Frozen
from isoembed.families.base import Family, ModelSpec
from isoembed.methods import Method
from isoembed.recipe import Recipe

#: of ln(rate / rule) up to which runs are at their family's own rates: runs of one branch have the rate of the first
_AS_THE_RULE = 0.2


class TrainedRate(Frozen):
    """The peak rate of a law's runs of one model and method: geometric means, for rules are powers."""

    model: ModelSpec
    method: Method
    steps: float = Field(gt=0)
    rate: float = Field(gt=0)
    runs: int = Field(1, ge=1)

    @classmethod
    def of(cls, recipe: Recipe) -> TrainedRate:
        """That of one run."""
        model = recipe.published().model
        return cls(model=model, method=recipe.method, steps=recipe.steps, rate=recipe.learning_rate)


class RateFactor(Frozen):
    """What a law's runs had, times their family's rule."""

    factor: float
    noise: float  #: root mean square of ln(rate / (factor x rule)) between models and hyperparameters
    runs: int


def gathered(rates: Iterable[TrainedRate]) -> tuple[TrainedRate, ...]:
    """One for each model and method."""
    by_setting: dict[tuple[str, Method], list[TrainedRate]] = {}
    for each in rates:
        by_setting.setdefault((each.model.name, each.method), []).append(each)
    found = []
    for runs in by_setting.values():
        weight_R = [each.runs for each in runs]
        steps, rate = (
            float(np.exp(np.average(np.log([getattr(each, name) for each in runs]), weights=weight_R)))
            for name in ("steps", "rate")
        )
        found.append(runs[0].model_copy(update={"steps": steps, "rate": rate, "runs": sum(weight_R)}))
    return tuple(found)


def rate_factor(rates: Iterable[TrainedRate], family: Family) -> RateFactor | None:
    """None where the runs were at the rates of `family`'s own rules, or there are none."""
    off, runs = [], []
    for each in rates:
        own, _ = family.peak_rate(each.model, each.method, steps=max(1, round(each.steps)))
        off.append(float(np.log(each.rate / own)))
        runs.append(each.runs)
    mean = float(np.average(off, weights=runs)) if off else 0.0
    if abs(mean) <= _AS_THE_RULE:
        return None
    noise = float(np.sqrt(np.average((np.array(off) - mean) ** 2, weights=runs)))
    return RateFactor(factor=float(np.exp(mean)), noise=noise, runs=sum(runs))
