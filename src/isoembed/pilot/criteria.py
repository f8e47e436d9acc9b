"""What one more pilot run is worth, per FLOP.

The bootstrap's draws of ln loss are treated as a Gaussian over open cells and candidates, methods apart.  A run at x
with noise variance s^2 would
- `variance`: cut the candidates' summed variance by sum_k Cov(x, k)^2 / (Var(x) + s^2): V-optimal design weighted by
  cost, as in "Spend Less, Fit Better" (arXiv 2604.22753), with draws in place of the Jacobian;
- `regret`: cut the expected regret of the recommended candidate by the knowledge gradient for correlated beliefs
  (Frazier, Powell and Dayanik 2009): min_k m_k - E_z[min_k (m_k + Cov(x, k) z / sqrt(Var(x) + s^2))].

The cell with the largest cut per FLOP is taken, the covariance conditioned on it, and the next one looked for; within a
batch the means stay as they are.

Shapes: B draws, X open cells, K candidates, J both, Z quadrature nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from isoembed.laws.points import Floats
from isoembed.pilot.decide import Belief, PilotCell, above_envelope

Criterion = Literal["regret", "variance"]

#: nodes of the Gauss-Hermite rule for the expectation over one run's outcome
_NODES = 20
#: ln loss: a smaller cut of the regret is rounding
_ROUNDING = 1e-9


def promising(
    done: Sequence[PilotCell], open_cells: Sequence[PilotCell], belief: Belief, near: float
) -> list[PilotCell]:
    """The open cells predicted to come out near the envelope of their method; the others would be left out of its
    fit."""
    kept: list[PilotCell] = []
    for method in belief.laws:
        mine = [cell for cell in open_cells if cell.method == method]
        all_cells = [*mine, *(cell for cell in done if cell.method == method)]
        log_J = belief.log_loss(all_cells).mean(axis=0)
        above_J = above_envelope(log_J, np.array([cell.flop for cell in all_cells]))
        kept += [cell for cell, above in zip(mine, above_J[: len(mine)], strict=True) if above <= near]
    return kept or list(open_cells)


def choose(
    belief: Belief,
    open_cells: Sequence[PilotCell],
    candidates: Sequence[PilotCell],
    allowance_left: float,
    batch: int,
    criterion: Criterion,
) -> list[PilotCell]:
    """Up to `batch` cells, each the best per FLOP given that those before it are run."""
    both = [*open_cells, *candidates]
    log_BJ = belief.log_loss(both)
    mean_K = log_BJ.mean(axis=0)[len(open_cells) :]
    method_J = np.array([cell.method for cell in both])
    # methods are fitted apart: what their draws share is chance
    cov_JJ = np.cov(log_BJ, rowvar=False) * (method_J[:, None] == method_J[None, :])
    variance_X = belief.noise(open_cells) ** 2
    flop_X = np.array([cell.flop for cell in open_cells])
    free_X = np.ones(len(open_cells), dtype=bool)
    picked: list[PilotCell] = []
    while len(picked) < batch:
        free_X &= flop_X <= allowance_left
        if not free_X.any():
            break
        gain_X = gain(mean_K, cov_JJ, variance_X, criterion)
        if not np.any(gain_X[free_X] > 0):  # no single run would change the decision: learn what the laws leave open
            gain_X = gain(mean_K, cov_JJ, variance_X, "variance")
        index = int(np.argmax(np.where(free_X, gain_X / flop_X, -1.0)))
        picked.append(open_cells[index])
        free_X[index] = False
        allowance_left -= flop_X[index]
        column_J = cov_JJ[:, index]
        cov_JJ = cov_JJ - np.outer(column_J, column_J) / (column_J[index] + variance_X[index])
    return picked


def gain(mean_K: Floats, cov_JJ: Floats, variance_X: Floats, criterion: Criterion) -> Floats:
    """What one run at each open cell is expected to cut (X,): summed variance of the candidates' ln loss, or expected
    regret.  `cov_JJ` holds the open cells first, then the candidates; `variance_X` is the noise of one run.
    """
    cells = len(variance_X)
    spread_X = np.sqrt(np.diagonal(cov_JJ)[:cells] + variance_X)
    shift_XK = cov_JJ[:cells, cells:] / spread_X[:, None]
    if criterion == "variance":
        return np.asarray(np.sum(shift_XK**2, axis=1))
    node_Z, weight_Z = np.polynomial.hermite_e.hermegauss(_NODES)
    lowest_XZ = (mean_K[:, None] + shift_XK[:, :, None] * node_Z).min(axis=1)
    cut_X = mean_K.min() - lowest_XZ @ (weight_Z / weight_Z.sum())
    return np.asarray(np.where(cut_X > _ROUNDING, cut_X, 0.0))
