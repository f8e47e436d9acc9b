"""Which pilot runs to make next: those of which one more would tell most, per FLOP (`isoembed.fitting.decision`).

The run with the largest cut per FLOP is taken, the covariance conditioned on it, and the next one looked for; within a
batch the means stay as they are.

Shapes: B bootstrap samples, X open runs, J open runs and candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoembed.fitting.decision import CandidateSamples, OneMoreRun
from isoembed.laws.points import Floats
from isoembed.pilot.posterior import Criterion, Planning, Posterior
from isoembed.pilot.runs import PossibleRun, above_envelope, price


def promising(
    done: Sequence[PossibleRun], open_runs: Sequence[PossibleRun], posterior: Posterior, near: float
) -> list[PossibleRun]:
    """The open runs predicted to come out near the envelope of their method; the others would be left out of its
    fit."""
    kept: list[PossibleRun] = []
    for method in posterior.laws:
        mine = [run for run in open_runs if run.method == method]
        all_runs = [*mine, *(run for run in done if run.method == method)]
        log_J = posterior.log_loss(all_runs).mean(axis=0)
        above_J = above_envelope(log_J, np.array([run.flop for run in all_runs]))
        kept += [run for run, above in zip(mine, above_J[: len(mine)], strict=True) if above <= near]
    return kept or list(open_runs)


def choose(
    posterior: Posterior,
    done: Sequence[PossibleRun],
    open_runs: Sequence[PossibleRun],
    candidates: Sequence[PossibleRun],
    allowance_left: float,
    how: Planning,
) -> list[PossibleRun]:
    """Up to `how.batch` runs, each the best per FLOP given that those before it are run."""
    log_BJ = posterior.log_loss([*open_runs, *candidates])
    method_J = np.array([run.method for run in (*open_runs, *candidates)])
    # methods are fitted apart: what their draws share is chance
    related_JJ = (method_J[:, None] == method_J[None, :]).astype(float)
    log_BX, log_BK = np.split(log_BJ, [len(open_runs)], axis=1)
    value = CandidateSamples(log_BK).one_more_run(log_BX, posterior.noise(open_runs), related_JJ)
    free_X = np.ones(len(open_runs), dtype=bool)
    picked: list[PossibleRun] = []
    while len(picked) < how.batch:
        flop_X = np.array([price([run], [*done, *picked]) for run in open_runs])
        free_X &= flop_X <= allowance_left
        if not free_X.any():
            break
        cut_X = _cut(value, how.criterion)
        if not np.any(cut_X[free_X] > 0):  # no single run would change the decision: learn what the laws leave open
            cut_X = _cut(value, "variance")
        index = int(np.argmax(np.where(free_X, cut_X / flop_X, -1.0)))
        picked.append(open_runs[index])
        free_X[index] = False
        allowance_left -= flop_X[index]
        value = value.after(index)
    return picked


def _cut(value: OneMoreRun, criterion: Criterion) -> Floats:
    return value.regret_cuts() if criterion == "regret" else value.variance_cuts()
