"""What the laws say beyond the runs: each method's best forecast at any budget, over the family's real sizes.

Read from the candidates and samples that `recommend` reads (`isoembed.recommendation.frontier`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import Family
from isoembed.families.base import ModelSpec
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.io.law_file import LawSet
from isoembed.recipe import Recipe
from isoembed.recommendation.frontier import Forecasts, Frontier
from isoembed.recommendation.request import Request

#: a forecast is drawn to ten times the largest fitted budget, as far as `recommend` looks for a crossover
BEYOND = 10.0
_BUDGETS = 25


@dataclass(frozen=True)
class ForecastPoint:
    """Expected loss of a method at one budget, or of one size at it: the law's uncertainty, without the runs' noise."""

    flop: float
    params: int
    tokens: float
    loss: Interval


class ForecastGrid:
    """The laws on the sizes of `family`, trained as `recipe` is, ready to be asked.  Raises InputError where the laws
    name no size."""

    def __init__(self, laws: LawSet, family: Family, recipe: Recipe) -> None:
        self.laws = laws
        asked = Request(budget=Budget(stated="any", flop=1.0), family=family, data=recipe.data)
        self.frontier = Frontier(self.laws, asked.complete(recipe))

    @property
    def fitted(self) -> tuple[float, float]:
        """Smallest and largest budget that any law was fitted to, FLOP."""
        ranges = [law.range["flop"] for law in self.laws.laws]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @cached_property
    def budgets(self) -> list[Forecasts]:
        """Forecasts from the smallest fitted budget to ten times the largest, where one pays for a step."""
        low, high = self.fitted
        found = []
        for flop in np.geomspace(low, BEYOND * high, _BUDGETS).tolist():
            with suppress(InputError):
                found.append(self.frontier.at(flop))
        return found

    def best(self, method: str) -> list[ForecastPoint]:
        """A method's best candidate at each budget of the grid."""
        return [_best(forecasts, mine) for forecasts in self.budgets if (mine := forecasts.of_method(method))]

    def sizes(self, method: str, flop: float) -> list[ForecastPoint]:
        """A method's best candidate on each size at one budget, smallest size first."""
        try:
            forecasts = self.frontier.at(flop)
        except InputError:
            return []
        of_size: dict[ModelSpec, list[int]] = {}
        for k in forecasts.of_method(method):
            of_size.setdefault(forecasts.candidates[k].model, []).append(k)
        return [_best(forecasts, of_size[model]) for model in sorted(of_size, key=lambda model: model.params)]

    def best_params(self, method: str, forecasts: Forecasts) -> Interval | None:
        """N of the method's best candidate at one budget, with the uncertainty of which size that is."""
        mine = forecasts.of_method(method)
        if not mine:
            return None
        samples = forecasts.samples.of(mine)
        params_K = np.array([float(forecasts.candidates[k].model.params) for k in mine])
        tail = min(forecasts.candidates[k].tail for k in mine)
        return percentile(float(params_K[samples.best]), params_K[samples.winners], tail)


def _best(forecasts: Forecasts, mine: list[int]) -> ForecastPoint:
    """The candidate of `mine` of lowest expected loss."""
    k = mine[forecasts.samples.of(mine).best]
    params, tokens = forecasts.candidates[k].model.params, float(forecasts.tokens_K[k])
    return ForecastPoint(forecasts.flop, params, tokens, forecasts.expected(k))
