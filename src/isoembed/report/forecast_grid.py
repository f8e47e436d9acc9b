"""What the laws say beyond the runs: each method's best forecast at any budget, over the family's real sizes.

Read from the candidates and draws that `recommend` reads (`isoembed.recommendation.candidates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.fitting.intervals import Interval, percentile
from isoembed.recommendation.candidates import Frontier, Prospects
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.request import Request
from isoembed.report.data import Evidence

#: a forecast is drawn to ten times the largest fitted budget, as far as `recommend` looks for a crossover
BEYOND = 10.0
_BUDGETS = 25


@dataclass(frozen=True)
class Forecast:
    """Expected loss of a method at one budget, or of one size at it: the law's doubt, without the runs' scatter."""

    flop: float
    params: int
    tokens: float
    loss: Interval


class Outlook:
    """The laws of `evidence`, ready to be asked.  Raises InputError where there are none, or they name no size."""

    def __init__(self, evidence: Evidence) -> None:
        if evidence.laws is None:
            raise InputError("A forecast needs a law; give one with --law, or more runs.")
        self.laws = evidence.laws
        recipe = evidence.records[0].recipe
        request = Request(
            budget=Budget(stated="any", flop=1.0),
            family=evidence.family,
            data=recipe.data,
            batch_pairs=recipe.batch_pairs,
            context_tokens=recipe.context_tokens,
            constraints=Constraints(),
        )
        self.frontier = Frontier(self.laws, request)

    @property
    def fitted(self) -> tuple[float, float]:
        """Smallest and largest budget that any law was fitted to, FLOP."""
        ranges = [law.range["flop"] for law in self.laws.laws]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @cached_property
    def grid(self) -> list[Prospects]:
        """The prospects of budgets from the smallest fitted one to ten times the largest, where one pays for a step."""
        low, high = self.fitted
        found = []
        for flop in np.geomspace(low, BEYOND * high, _BUDGETS).tolist():
            try:
                found.append(self.frontier.at(flop))
            except InputError:
                continue
        return found

    def best(self, method: str) -> list[Forecast]:
        """A method's best candidate at each budget of the grid."""
        return [
            _least(prospects, mine)
            for prospects in self.grid
            if (mine := [k for k, arm in enumerate(prospects.arms) if arm.method.name == method])
        ]

    def sizes(self, method: str, flop: float) -> list[Forecast]:
        """A method's best candidate on each size at one budget, smallest size first."""
        try:
            prospects = self.frontier.at(flop)
        except InputError:
            return []
        found = []
        for model in sorted({arm.model.name: arm.model for arm in prospects.arms}.values(), key=lambda m: m.params):
            mine = [k for k, arm in enumerate(prospects.arms) if arm.method.name == method and arm.model is model]
            if mine:
                found.append(_least(prospects, mine))
        return found

    def best_params(self, method: str, prospects: Prospects) -> Interval | None:
        """N of the method's best candidate at one budget, with the doubt of which size that is."""
        mine = [k for k, arm in enumerate(prospects.arms) if arm.method.name == method]
        if not mine:
            return None
        params_K = np.array([float(prospects.arms[k].model.params) for k in mine])
        best_B = np.argmin(prospects.loss_BK[:, mine], axis=1)
        return percentile(float(params_K[best_B[0]]), params_K[best_B[1:]], _tail(prospects, mine))


def _least(prospects: Prospects, mine: list[int]) -> Forecast:
    """The candidate of `mine` of least expected loss."""
    k = mine[int(np.argmin(prospects.loss_BK[0, mine]))]
    return Forecast(
        prospects.flop,
        prospects.arms[k].model.params,
        float(prospects.tokens_K[k]),
        percentile(float(prospects.loss_BK[0, k]), prospects.draws[:, k], prospects.arms[k].tail),
    )


def _tail(prospects: Prospects, mine: list[int]) -> float:
    return min(prospects.arms[k].tail for k in mine)
