"""Minimise the summed Huber loss of many problems at once: all starts of a fit, or all samples of a bootstrap.

Damped Gauss-Newton with analytic gradients, vectorised over problems:

1. psi = Huber'(residual), gradient g = J' W psi.
2. Curvature H = J' W diag(h) J with h = 1 inside the Huber zone (Madsen and Nielsen 1990) and damping * delta / |r|
   outside.  Undamped it is Newton's step on the piecewise quadratic; at damping 1 it is the reweighted least-squares
   step, which never needs a point inside the zone.  Both are invariant to the objective's scale and to linear changes
   of parameters, so that a mean in place of a sum, or other units, give the same steps.
3. Where delta is far below the residuals the zone is nearly empty at first: delta falls by quarters from the
   residuals' own size to its final value.

Shapes: B problems, P parameters, R rows, L problems still moving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Rows

#: problems worked on together: few enough that their Jacobians stay in the cache
_CHUNK = 64
#: rows of all of them together at most, for the same reason
_MOST_ROWS = 1 << 17
#: a predicted relative gain below which a problem is done
_DONE = 1e-12
#: damping above which no step helps any more
_STUCK = 1e10


@dataclass(frozen=True)
class Problem:
    """What all problems share: the law, the rows, the bounds.  `raw` takes residuals of the loss, not of its log."""

    law: Law
    rows: Rows
    loss_R: Floats
    low_P: Floats
    high_P: Floats
    raw: bool = False

    def residuals(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Residuals (B, R) and their Jacobian (B, P, R); a loss that is not positive is taken as e^-1000, which no step
        is accepted into."""
        loss_BR, gradient_BPR = self.law.loss_and_gradient(theta_BP, self.rows)
        if self.raw:
            return loss_BR - self.loss_R, gradient_BPR
        positive_BR = np.where(loss_BR > 0, loss_BR, 1.0)
        residual_BR = np.where(loss_BR > 0, np.log(positive_BR / self.loss_R), -1000.0)
        return residual_BR, gradient_BPR / positive_BR[:, None]


@dataclass(frozen=True)
class Minimum:
    """Where each problem ended: parameters, summed objective, and its relative decrease predicted of one more step."""

    theta_BP: Floats
    objective_B: Floats
    predicted_decrease_B: Floats


def huber_sum(residual_BR: Floats, weight_BR: Floats, delta: Floats | float) -> Floats:
    """Sum over rows (never the mean) of weight * Huber: r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    size = np.abs(residual_BR)
    inside = np.minimum(size, delta)
    return np.asarray(np.sum(weight_BR * inside * (size - 0.5 * inside), axis=-1))


def minimise(problem: Problem, theta_BP: Floats, weight_BR: Floats, delta: float) -> Minimum:
    """Take every row of `theta_BP` to a local minimum under its own row weights."""
    size = max(1, min(_CHUNK, _MOST_ROWS // len(problem.loss_R)))
    parts = [
        _anneal(problem, theta_BP[at : at + size], weight_BR[at : at + size], delta)
        for at in range(0, len(theta_BP), size)
    ]
    return Minimum(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _anneal(problem: Problem, theta_BP: Floats, weight_BR: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
    zone_B = np.maximum(3.0 * np.median(np.abs(problem.residuals(theta_BP)[0]), axis=1), delta)
    while np.any(zone_B > delta):
        theta_BP, _, _ = _descend(problem, theta_BP, weight_BR, zone_B, done=1e-4, most=12)
        zone_B = np.maximum(zone_B / 4.0, delta)
    return _descend(problem, theta_BP, weight_BR, zone_B, done=_DONE, most=300)


def _descend(
    problem: Problem, theta_BP: Floats, weight_BR: Floats, delta_B: Floats, *, done: float, most: int
) -> tuple[Floats, Floats, Floats]:
    theta_BP = theta_BP.copy()
    predicted_decrease_B = np.full(len(theta_BP), np.inf)
    residual, jacobian = problem.residuals(theta_BP)
    objective_B = huber_sum(residual, weight_BR, delta_B[:, None])
    live_L = np.arange(len(theta_BP))
    theta, value, weight, delta = theta_BP.copy(), objective_B.copy(), weight_BR, delta_B[:, None]
    damping = np.full(len(live_L), 0.1)
    for _ in range(most):
        if not len(live_L):
            break
        step, gain = _step(problem, theta, residual, jacobian, weight, delta, damping)
        trial = np.clip(theta + step, problem.low_P, problem.high_P)
        trial_residual, trial_jacobian = problem.residuals(trial)
        trial_value = huber_sum(trial_residual, weight, delta)
        better = trial_value < value
        theta[better], value[better] = trial[better], trial_value[better]
        residual[better], jacobian[better] = trial_residual[better], trial_jacobian[better]
        damping = np.where(better, np.maximum(damping / 6.0, 1e-9), damping * 5.0)
        decrease = gain / np.maximum(value, 1e-20)
        theta_BP[live_L], objective_B[live_L], predicted_decrease_B[live_L] = theta, value, decrease
        moving = ((decrease > done) | (damping > 2.0)) & (damping < _STUCK)
        if not moving.all():
            live_L, theta, residual, jacobian = live_L[moving], theta[moving], residual[moving], jacobian[moving]
            value, weight, delta, damping = value[moving], weight[moving], delta[moving], damping[moving]
    return theta_BP, objective_B, predicted_decrease_B


def _step(
    problem: Problem,
    theta: Floats,
    residual: Floats,
    jacobian: Floats,
    weight: Floats,
    delta: Floats,
    damping: Floats,
) -> tuple[Floats, Floats]:
    """The damped step (L, P), zero for parameters pressed against a bound, and the decrease that it predicts (L,)."""
    size = np.abs(residual)
    inside = size <= delta
    psi = weight * np.clip(residual, -delta, delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = np.where(inside, 0.0, delta / size)
    curvature = weight * (inside * (1.0 + damping[:, None]) + outside * damping[:, None])
    gradient = np.matmul(jacobian, psi[..., None])[..., 0]
    matrix = np.matmul(jacobian * curvature[:, None, :], jacobian.swapaxes(1, 2))

    pressed = ((theta <= problem.low_P) & (gradient > 0)) | ((theta >= problem.high_P) & (gradient < 0))
    held = pressed | (problem.low_P == problem.high_P)
    diagonal = np.einsum("lpp->lp", matrix)
    norm = 1.0 / np.sqrt(np.where(held | (diagonal <= 0), 1.0, diagonal))
    matrix = matrix * norm[:, :, None] * norm[:, None, :]
    matrix[held] = 0.0
    matrix.swapaxes(1, 2)[held] = 0.0
    index = np.arange(matrix.shape[1])
    matrix[:, index, index] = np.where(held, 1.0, matrix[:, index, index] + 1e-12)
    right = np.where(held, 0.0, -gradient * norm)
    step = np.linalg.solve(matrix, right[..., None])[..., 0]
    return step * norm, 0.5 * np.sum(right * step, axis=1)
