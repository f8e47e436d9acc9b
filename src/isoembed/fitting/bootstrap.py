"""Uncertainty, from resampling runs (Efron 1979): percentile intervals for everything that is read off a law.

Never from an inverse Hessian: at a Huber width far below the noise that is too small by half.  Rows of one run (its
checkpoints) are drawn together.  `benchmarks/fit_coverage.py` measures what the intervals hold.

Shapes: B bootstrap samples, P parameters, R rows, F budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.fitting.fit import Fit, Solver, solve
from isoembed.fitting.intervals import Interval, expanded_tail, finite, percentile
from isoembed.fitting.isoflop import Optimum, surface_optimum
from isoembed.fitting.notes import FitNote, interval_note, reason
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points, Rows
from isoembed.notes import refusal

#: fewer independent runs than this make no bootstrap
_LEAST_RUNS = 4


class Crossover(Frozen):
    """The budget from which the second method stays ahead of the first one."""

    flop: Interval = Field(
        description="low None: the second may lead from the lowest budget on; high None: it may never"
    )
    never: float = Field(
        description="share of bootstrap samples in which the second method never leads at the highest budget"
    )
    always: float = Field(
        description="share of bootstrap samples in which the second method leads at every budget looked at"
    )


class BestSize(Frozen):
    """The compute optimum at one budget.  `beyond` is the budget over the largest fitted one."""

    flop: float
    params: Interval
    tokens: Interval
    loss: Interval
    beyond: float


class ComputeOptimum(Frozen):
    """N*(C) and D*(C) along C = 6 N D, and their exponents over these budgets."""

    sizes: tuple[BestSize, ...]
    params_exponent: Interval = Field(description="a of N* ~ C^a")
    tokens_exponent: Interval = Field(description="1 - a, for D* = C / (6 N*)")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A fit with its bootstrap samples: refits (B, P) to resampled runs, in the user's units."""

    law: Law
    fit: Fit
    theta_BP: Floats
    seed: int
    runs: int
    tail: float
    """probability that a percentile interval leaves out on each side, for so many runs"""

    def intervals(self) -> dict[str, Interval]:
        """A percentile interval for each parameter; a held parameter has none."""
        return {
            name: Interval(value=value, low=None, high=None)
            if name in self.fit.held
            else percentile(value, self.theta_BP[:, index], self.tail)
            for index, (name, value) in enumerate(self.fit.params.items())
        }

    def loss(self, points: Points | Rows) -> Floats:
        """Predicted loss (B, R) under each draw."""
        rows = points.rows if isinstance(points, Points) else points
        return self.law.loss_and_gradient(self.theta_BP, rows)[0]

    def loss_intervals(self, points: Points, *, noise: bool = False) -> list[Interval]:
        """For each row an interval of the law's loss, or of one more run's loss where `noise` adds the runs' noise."""
        value_R = self.law.predict(self.fit.params, points)
        draw_BR = self.loss(points)
        if noise:
            draw_BR = draw_BR * np.exp(np.random.default_rng(self.seed).normal(0.0, self.fit.noise, draw_BR.shape))
        return [percentile(float(value), draw_BR[:, row], self.tail) for row, value in enumerate(value_R)]

    def compute_optimum(self, flop_F: Floats, *, fraction: float = 1.0) -> ComputeOptimum:
        """The best sizes and their exponents; unbounded in a draw without an optimum at a budget."""
        best = self._optimum(flop_F, 6.0, fraction)
        slope_B = np.polyfit(np.log(flop_F), np.log(best.params_BF).T, 1)[0]
        slope_B = np.where(best.edge_BF.any(axis=1), best.unbounded()[:, -1], slope_B)
        return ComputeOptimum(
            sizes=tuple(self._sizes(best, flop_F)),
            params_exponent=percentile(finite(slope_B[0]), slope_B[1:], self.tail),
            tokens_exponent=percentile(finite(1.0 - slope_B[0]), 1.0 - slope_B[1:], self.tail),
        )

    def _sizes(self, best: Optimum, flop_F: Floats) -> list[BestSize]:
        """The optima of the fit and of its draws as intervals."""
        unbounded_BF = best.unbounded()
        params_BF = np.where(best.edge_BF, unbounded_BF, best.params_BF)
        tokens_BF = np.where(best.edge_BF, -unbounded_BF, best.tokens_BF)
        return [
            BestSize(
                flop=float(flop),
                params=percentile(finite(params_BF[0, f]), params_BF[1:, f], self.tail),
                tokens=percentile(finite(tokens_BF[0, f]), tokens_BF[1:, f], self.tail),
                loss=percentile(float(best.loss_BF[0, f]), best.loss_BF[1:, f], self.tail),
                beyond=float(flop) / self.fit.range["flop"][1],
            )
            for f, flop in enumerate(flop_F)
        ]

    def frontier(self, flop_F: Floats, *, flop_per_param_token: float = 6.0, fraction: float = 1.0) -> Floats:
        """Best loss at each budget (1 + B, F), the fit first and then its draws: what `crossover` compares."""
        if "params" in self.law.varies:
            return self._optimum(flop_F, flop_per_param_token, fraction).loss_BF
        log_flop_F = np.log(np.asarray(flop_F, dtype=np.float64))
        return self.law.loss_and_gradient(self._with_fit(), Rows(*(log_flop_F,) * 3, np.zeros_like(log_flop_F)))[0]

    def _optimum(self, flop_F: Floats, flop_per_param_token: float, fraction: float) -> Optimum:
        return surface_optimum(
            self.law, self._with_fit(), flop_F, flop_per_param_token=flop_per_param_token, fraction=fraction
        )

    def _with_fit(self) -> Floats:
        return np.concatenate([self.law.vector(self.fit.params)[None], self.theta_BP])


def bootstrap(law: Law, points: Points, *, draws: int = 1000, seed: int = 0, delta: float | None = None) -> Bootstrap:
    """Fit `law`, then refit it to `draws` resamples of the runs, each from the fit's own minimum and from the next
    best one."""
    runs = len(np.unique(points.run))
    if runs < _LEAST_RUNS:
        raise InputError(refusal("few-to-draw", least=_LEAST_RUNS, runs=runs))
    solver, fitted, start_BP = solve(Solver(law, points), delta)
    weight_BR = resample(points, draws, seed)
    width = np.inf if fitted.delta is None else fitted.delta
    ends = [solver.run(np.repeat(start_P[None], draws, axis=0), weight_BR, width) for start_P in start_BP]
    best_B = np.argmin([end.objective_B for end in ends], axis=0)
    theta_BP = np.stack([end.theta_BP for end in ends])[best_B, np.arange(draws)]
    boot = Bootstrap(law, fitted, law.physical(theta_BP, solver.units), seed, runs, expanded_tail(runs))
    return replace(boot, fit=fitted.with_reasons("weakly-identified", _loose_exponents(boot)))


def _loose_exponents(boot: Bootstrap) -> list[FitNote]:
    """Exponents whose interval is wider than their value: what twenty points leave of eight parameters."""
    exponents = [p.name for p in boot.law.parameters if p.low > 0 and p.name not in boot.fit.held]
    intervals = {name: interval for name, interval in boot.intervals().items() if name in exponents}
    return [
        reason("loose", parameter=name, interval=interval_note(interval))
        for name, interval in intervals.items()
        if interval.ends[1] - interval.ends[0] > boot.fit.params[name]
    ]


def resample(points: Points, draws: int, seed: int) -> Floats:
    """Weights (B, R): each run drawn as often as chance has it, with all its rows."""
    runs, row_run_R = np.unique(points.run, return_inverse=True)
    chance = np.random.default_rng(seed)
    count_BG = chance.multinomial(len(runs), np.full(len(runs), 1.0 / len(runs)), size=draws)
    return count_BG[:, row_run_R] * points.weight


def crossover(first_BF: Floats, second_BF: Floats, flop_F: Floats, *, tail: float) -> Crossover:
    """Where the second method's best loss falls below the first one's for good, over draws (row 0: the fits
    themselves).

    Budgets ascend; `tail` is that of the fit with fewer runs.  In a draw where the second does not lead at
    the highest budget the crossing is infinite; where it leads at all of them, minus infinity.
    """
    crossing_B = _crossings(np.log(second_BF) - np.log(first_BF), np.log(flop_F))
    draw_B = crossing_B[1:]
    return Crossover(
        flop=percentile(finite(crossing_B[0]), draw_B, tail),
        never=float(np.mean(np.isposinf(draw_B))),
        always=float(np.mean(np.isneginf(draw_B))),
    )


def _crossings(behind_BF: Floats, log_flop_F: Floats) -> Floats:
    """The last budget at which `behind_BF` turns negative, linear in ln C between budgets."""
    ahead_BF = behind_BF < 0
    lost_BF = ~ahead_BF
    last_B = behind_BF.shape[1] - 1 - np.argmax(lost_BF[:, ::-1], axis=1)
    row_B = np.arange(len(behind_BF))
    next_B = np.minimum(last_B + 1, behind_BF.shape[1] - 1)
    before, after = behind_BF[row_B, last_B], behind_BF[row_B, next_B]
    with np.errstate(divide="ignore", invalid="ignore"):
        share_B = np.where(before > after, before / (before - after), 0.0)
    log_B = log_flop_F[last_B] + share_B * (log_flop_F[next_B] - log_flop_F[last_B])
    return np.where(ahead_BF.all(axis=1), -np.inf, np.where(ahead_BF[:, -1], np.exp(log_B), np.inf))
