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
from isoembed.recipe import DataStats
from isoembed.recommendation.candidates import sized
from isoembed.recommendation.frontier import Forecasts, Frontier
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import MethodCrossover

#: a forecast is drawn to four times the largest fitted budget, as far as forecasts of ours were held against runs
BEYOND = 4.0
_BUDGETS = 25


@dataclass(frozen=True)
class ForecastPoint:
    """Expected loss of the best candidate, of all, of a method or of one size, at a budget: the law's uncertainty,
    without the runs' noise."""

    name: str
    """as `full on nano-28k`"""
    flop: float
    params: int
    tokens: float
    loss: Interval


def fitted_budgets(laws: LawSet) -> tuple[float, float]:
    """Smallest and largest budget that any law was fitted to of those that choose a size, FLOP."""
    ranges = [law.range["flop"] for law in sized(laws)[0].laws]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


class ForecastGrid:
    """The laws on the sizes of `family`, trained as their runs were on `data` (None: the paper's corpus, without end),
    ready to be asked; laws without N, which name no size, are left out.  Raises InputError where none has it."""

    def __init__(self, laws: LawSet, family: Family, data: DataStats | None) -> None:
        self.laws = sized(laws)[0]
        asked = Request(budget=Budget(stated="any", flop=1.0), family=family, data=data)
        self.frontier = Frontier(self.laws, asked.complete(laws.settings))

    @property
    def fitted(self) -> tuple[float, float]:
        """Smallest and largest budget that any law was fitted to, FLOP."""
        return fitted_budgets(self.laws)

    @cached_property
    def budgets(self) -> list[Forecasts]:
        """Forecasts from the smallest fitted budget to `BEYOND` times the largest, where one pays for a step."""
        low, high = self.fitted
        found = []
        for flop in np.geomspace(low, BEYOND * high, _BUDGETS).tolist():
            with suppress(InputError):
                found.append(self.frontier.at(flop))
        return found

    def best(self, method: str | None = None) -> list[ForecastPoint]:
        """The best candidate of a method, or of all, at each budget of the grid; none of a method whose best one lies
        more than `BEYOND` times beyond the runs of its law."""
        return [
            _best(forecasts, mine)
            for forecasts in self.budgets
            if (mine := _candidates(forecasts, method))
            and forecasts.extrapolation(_lowest(forecasts, mine)).farthest <= 1.001 * BEYOND
        ]

    @cached_property
    def crossover(self) -> MethodCrossover | None:
        """Between the two methods that lead at the largest fitted budget; None where there are no two."""
        at = min(self.budgets, key=lambda each: abs(np.log(each.flop / self.fitted[1])), default=None)
        return None if at is None else self.frontier.leading_crossover(at)

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

    def best_params(self, method: str | None, forecasts: Forecasts) -> Interval | None:
        """N of the best candidate of the method, or of all, at one budget, with the uncertainty of which size that
        is."""
        mine = _candidates(forecasts, method)
        if not mine:
            return None
        samples = forecasts.samples.of(mine)
        params_K = np.array([float(forecasts.candidates[k].model.params) for k in mine])
        tail = min(forecasts.candidates[k].tail for k in mine)
        return percentile(float(params_K[samples.best]), params_K[samples.winners], tail)


def _candidates(forecasts: Forecasts, method: str | None) -> list[int]:
    return list(range(len(forecasts.candidates))) if method is None else forecasts.of_method(method)


def _lowest(forecasts: Forecasts, mine: list[int]) -> int:
    return mine[forecasts.samples.of(mine).best]


def _best(forecasts: Forecasts, mine: list[int]) -> ForecastPoint:
    """The candidate of `mine` of lowest expected loss."""
    k = _lowest(forecasts, mine)
    candidate, tokens = forecasts.candidates[k], float(forecasts.tokens_K[k])
    return ForecastPoint(candidate.name, forecasts.flop, candidate.model.params, tokens, forecasts.expected(k))
