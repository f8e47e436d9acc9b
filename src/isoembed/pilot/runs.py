"""Runs as a pilot's planner sees them: size, tokens, cost and method, so that a table of published runs and our own
recipes are planned alike.

Shapes: J runs, those that could be made or those that ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from isoembed.core import Frozen
from isoembed.fitting.isoflop import SAME_BUDGET
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points

#: a pilot of fewer or shorter runs is no basis for a recommendation
LEAST_RUNS = 12
LEAST_STEPS = 100
#: two sizes tell no power of N from a constant: a method's first runs are on three, or on all there are
LEAST_SIZES = 3
#: by how many times the noise the law drifts from a run a factor e below the target; chosen on the published tables of
#: the replay
DRIFT = 1.0


class PossibleRun(Frozen):
    """A run that could be made.  `key` is the caller's own and says nothing here but who is who."""

    key: str
    params: float = Field(gt=0, description="N")
    tokens: float = Field(gt=0, description="D")
    flop: float = Field(gt=0, description="C: what the run costs")
    method: str = "full"
    fraction: float = Field(1.0, ge=0, le=1, description="S, the trained share of the parameters")
    steps: int | None = Field(None, description="optimiser steps; None where the table does not say")
    branch: str | None = Field(None, description="equal for runs of which a longer one goes on from a shorter one")
    trunk_flop: float = Field(0.0, ge=0, description="of C, what a longer run of its branch does not spend again")

    @property
    def long_enough(self) -> bool:
        """Whether the run has the steps that a pilot needs, as far as known."""
        return self.steps is None or self.steps >= LEAST_STEPS


class PilotRun(Frozen):
    """A run that ended and its held-out loss in nats."""

    planned: PossibleRun
    loss: float = Field(gt=0)


class PilotTarget(Frozen):
    """The budget to decide for, and what could be run there."""

    flop: float = Field(gt=0)
    candidates: tuple[PossibleRun, ...] = Field(min_length=1)


def points_of(runs: Sequence[PossibleRun], loss: Floats | None = None, weight: Floats | None = None) -> Points:
    """Runs as points; a loss of one stands in where none is known."""
    return Points.of(
        [run.params for run in runs],
        [run.tokens for run in runs],
        np.ones(len(runs)) if loss is None else loss,
        flop=[run.flop for run in runs],
        fraction=[run.fraction for run in runs],
        weight=weight,
    )


def relative_variance(runs: Sequence[PossibleRun], target: PilotTarget) -> Floats:
    """Variance (J,) of a run about the law at the target, over its variance at the target's own budget:
    1 + (DRIFT ln(C_target / C))^2."""
    return 1 + (DRIFT * np.log(target.flop / np.array([run.flop for run in runs]))) ** 2


def price(runs: Sequence[PossibleRun], done: Sequence[PossibleRun] = ()) -> float:
    """FLOP that `runs` cost after those `done`: each goes on from the longest shorter one of its branch."""
    known = [*done, *runs]

    def inherited(run: PossibleRun) -> float:
        if run.branch is None:
            return 0.0
        shorter = (each for each in known if each.branch == run.branch and each.tokens < run.tokens)
        return max((each.trunk_flop for each in shorter), default=0.0)

    return sum(run.flop - inherited(run) for run in runs)


def cheapest(runs: Sequence[PossibleRun], count: int, done: Sequence[PossibleRun] = ()) -> list[PossibleRun]:
    """Up to `count` of `runs` on `LEAST_SIZES` sizes or all there are, each the one that costs least after those `done`
    and those before it.  The sizes of `done` count."""
    left, picked = sorted(runs, key=lambda run: (run.flop, run.key)), list[PossibleRun]()
    while left and len(picked) < count:
        known = {run.params for run in (*done, *picked)}
        others = [run for run in left if run.params not in known]
        new = others if 0 < LEAST_SIZES - len(known) >= count - len(picked) else []
        picked.append(min(new or left, key=lambda run: price([run], [*done, *picked])))
        left.remove(picked[-1])
    return picked


def on_enough_sizes(picked: Sequence[PossibleRun], runs: Sequence[PossibleRun]) -> bool:
    """Whether those picked are on `LEAST_SIZES` sizes, or on all sizes of `runs`."""
    sizes = {run.params for run in picked}
    return len(sizes) >= LEAST_SIZES or sizes >= {run.params for run in runs}


def least_runs(law: Law) -> int:
    """Different settings of one method that show a misfit of the law: two more than it has parameters (where the
    trained share does not vary, two of the embedding law's are held)."""
    return len(law.parameters) + 2 - len(law.held(Points.of([1.0], [1.0], [1.0])))


def near_envelope(runs: Sequence[PilotRun], near: float, least: int) -> list[PilotRun]:
    """The runs at most `near` above the lowest ln loss that as much FLOP or less has bought; at least the nearest
    `least`."""
    if not runs:
        return []
    above_R = above_envelope(np.log([run.loss for run in runs]), np.array([run.planned.flop for run in runs]))
    reach = max(near, np.sort(above_R)[min(least, len(runs)) - 1])
    return [run for run, above in zip(runs, above_R, strict=True) if above <= reach]


def above_envelope(log_loss_J: Floats, flop_J: Floats) -> Floats:
    """How far each ln loss (J,) lies above the lowest one among those of as much FLOP or less."""
    bought_JJ = flop_J[None, :] <= flop_J[:, None] * (1 + SAME_BUDGET)
    return np.asarray(log_loss_J - np.where(bought_JJ, log_loss_J[None, :], np.inf).min(axis=1))
