"""The best model size at a budget: from the fitted surface by default, or from the curve of one budget's runs.

A parabola in ln N is exact only where alpha = beta.  Noise-free and over sizes x16 either way it is 5 % off in D at
alpha / beta = 1.2 and 23 % at 3.

Shapes: B parameter vectors (draws), F budgets, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isoembed.core import InputError
from isoembed.fitting.notes import Judged, reason
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points, Rows

#: sizes between which an optimum without a closed form is looked for: beyond any model anyone trains
BRACKET = (1e3, 1e14)
#: runs whose ln C differ by less share a budget
SAME_BUDGET = 0.02
_GRID = 256
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class Optimum:
    """N, D and loss (B, F) that a law calls best at each budget; `edge_BF` where N ended at the bracket's edge."""

    params_BF: Floats
    tokens_BF: Floats
    loss_BF: Floats
    edge_BF: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    def unbounded(self) -> Floats:
        """Minus infinity (B, F) where N lies in the lower half of the bracket, else infinity."""
        return np.where(self.params_BF < np.sqrt(np.prod(BRACKET)), -np.inf, np.inf)


def surface_optimum(
    law: Law,
    theta_BP: Floats,
    flop_F: Floats,
    *,
    flop_per_param_token: float = 6.0,
    fraction: float = 1.0,
) -> Optimum:
    """Least loss along C = `flop_per_param_token` N D, within the sizes of `BRACKET`.

    Closed form where the law has one, else a grid over ln N refined by golden section.
    """
    if "params" not in law.varies:
        raise InputError(f"An optimal size needs a law with N in it; {law.name} has none. Fit hoffmann or embedding.")
    flop_F = np.asarray(flop_F, dtype=np.float64)
    log_bracket = np.log(BRACKET)
    closed = law.log_optimal_params(theta_BP, flop_F, flop_per_param_token)

    def loss(log_params: Floats, log_flop: Floats) -> Floats:
        log_tokens = log_flop - np.log(flop_per_param_token) - log_params
        rows = Rows(log_params, log_tokens, log_flop + 0.0 * log_params, np.full_like(log_params, 1.0 - fraction))
        return law.loss_and_gradient(theta_BP, rows)[0]

    if closed is not None:
        log_params_BF = np.clip(closed, *log_bracket)
    else:
        log_params_BF = np.stack([_search(loss, x, log_bracket) for x in np.log(flop_F)], axis=1)
    params_BF = np.exp(log_params_BF)
    slack = 1e-6 * (log_bracket[1] - log_bracket[0])
    edge_BF = (log_params_BF <= log_bracket[0] + slack) | (log_params_BF >= log_bracket[1] - slack)
    return Optimum(params_BF, flop_F / (flop_per_param_token * params_BF), loss(log_params_BF, np.log(flop_F)), edge_BF)


def _search(loss: Callable[[Floats, Floats], Floats], log_flop: Floats, log_bracket: Floats) -> Floats:
    """The ln N (B,) of least loss at one budget."""
    grid_R = np.linspace(log_bracket[0], log_bracket[1], _GRID)
    best_B = np.argmin(loss(grid_R, log_flop), axis=1)
    low, high = grid_R[np.maximum(best_B - 1, 0)][:, None], grid_R[np.minimum(best_B + 1, _GRID - 1)][:, None]
    for _ in range(48):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        go_left = loss(left, log_flop) < loss(right, log_flop)
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
    return np.asarray((low + high)[:, 0] / 2.0)


class CurveMinimum(Judged):
    """The lowest point of one budget's curve.  `params` is None unless the status is good."""

    flop: float
    params: float | None
    loss: float | None
    status: Literal["good", "edge", "not-convex", "too-few-sizes"]


def budgets(points: Points) -> list[Points]:
    """`points` split into budgets, ascending: rows whose C differ by less than 2 % from the next lower one."""
    order = np.argsort(points.flop, kind="stable")
    breaks = np.flatnonzero(np.diff(np.log(points.flop[order])) > SAME_BUDGET) + 1
    return [points[rows] for rows in np.split(order, breaks)]


def curve_minimum(points: Points, *, how: Literal["akima", "parabola"] = "akima") -> CurveMinimum:
    """The minimum of ln L over ln N among runs of one budget; runs of one size are averaged.

    akima: the lowest point of Akima's interpolation, which assumes no shape (Porian et al. 2024, arXiv 2406.19146).
    parabola: the vertex of a quadratic.
    """
    points = points[points.weight > 0]
    flop = float(np.exp(np.mean(np.log(points.flop))))
    sizes_R, index_R = np.unique(np.log(points.params), return_inverse=True)
    loss_R = np.bincount(index_R, points.weight * np.log(points.loss)) / np.bincount(index_R, points.weight)
    least = 5 if how == "akima" else 3
    if len(sizes_R) < least:
        few = reason("few-sizes", sizes=len(sizes_R), how=how, least=least)
        return CurveMinimum(flop=flop, params=None, loss=None, status="too-few-sizes", facts=(few,))
    if how == "parabola":
        bend, slope, constant = np.polyfit(sizes_R - sizes_R.mean(), loss_R, 2)
        if bend <= 0:
            return CurveMinimum(flop=flop, params=None, loss=None, status="not-convex", facts=(reason("bends-down"),))
        where = sizes_R.mean() - slope / (2 * bend)
        lowest = constant - slope**2 / (4 * bend)
        edge = not sizes_R[0] < where < sizes_R[-1]
    else:
        # imported here so that a recommendation starts without scipy
        from scipy.interpolate import Akima1DInterpolator

        fine = np.linspace(sizes_R[0], sizes_R[-1], 4001)
        curve = Akima1DInterpolator(sizes_R, loss_R)(fine)
        where, lowest = fine[np.argmin(curve)], curve.min()
        edge = int(np.argmin(loss_R)) in (0, len(sizes_R) - 1)
    if edge:
        side = "smaller" if where < sizes_R.mean() else "larger"
        return CurveMinimum(flop=flop, params=None, loss=None, status="edge", facts=(reason("edge", side=side),))
    return CurveMinimum(flop=flop, params=float(np.exp(where)), loss=float(np.exp(lowest)), status="good")
