"""What a pilot's finished runs say of losses at the target: one bootstrapped law per method.

1. Runs far above the lower envelope of loss over FLOP are left out of the fit: a model trained on less than a token per
   parameter is in another regime, which no sum of powers describes.
2. The others are weighted by how near to the target they are: the exponents of one range are not those of the next, so
   that a run far below says less about the target than its own noise would have it.
3. One law per method (Hoffmann's by default), each with its own bootstrap; methods whose runs do not identify the law
   have no say.

All losses are compared in ln: 0.01 is 1 % of the loss.

Shapes: B bootstrap samples, J runs that could be made or candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from isoembed.core import InputError
from isoembed.fitting.bootstrap import Bootstrap, bootstrap
from isoembed.fitting.intervals import tamed
from isoembed.laws.base import Law
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.laws.points import Floats
from isoembed.notes import refusal_of
from isoembed.pilot.notes import PilotNote, warning
from isoembed.pilot.runs import (
    PilotRun,
    PilotTarget,
    PossibleRun,
    least_runs,
    near_envelope,
    points_of,
    relative_variance,
)

#: ln loss above the envelope beyond which a run is in another regime; chosen on the published tables of the replay
NEAR = 0.15
#: a regret in ln loss below what differs between seeds: 0.3 %, the low end of what is published
TOLERANCE = 0.003
#: a fit to few runs shows less noise than there is: never less than 0.1 % of the loss
_LEAST_NOISE = 1e-3

#: what a run is to cut: the expected regret of the decision, or the variance of what is expected of the candidates
Criterion = Literal["regret", "variance"]


@dataclass(frozen=True)
class Planning:
    """How a pilot is read and planned; raises InputError where that makes no sense."""

    law: Law = HOFFMANN
    """of each method; `tied` and `embedding` serve too"""
    near: float = NEAR
    """ln loss above the envelope that the fit still reads"""
    draws: int = 200
    """of each law's bootstrap"""
    seed: int = 0
    batch: int = 4
    """runs chosen at once; the start set is one batch of its own"""
    criterion: Criterion = "regret"
    tolerance: float = TOLERANCE
    """expected regret in ln loss below which a decision may settle"""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"`batch` must be at least 1 run; got {self.batch}.")
        if self.draws < 20:
            raise InputError(f"`draws` must be at least 20 to tell one candidate from another; got {self.draws}.")


#: as pilots are planned unless told otherwise
DEFAULT = Planning()


@dataclass(frozen=True, eq=False)
class Posterior:
    """One bootstrapped law per method, for one target."""

    target: PilotTarget
    laws: dict[str, Bootstrap]
    unfit: dict[str, PilotNote]
    """methods without a law, and why"""

    def knows(self, run: PossibleRun) -> bool:
        """Whether the run's method has a law."""
        return run.method in self.laws

    def log_loss(self, runs: Sequence[PossibleRun]) -> Floats:
        """Predicted ln loss (B, J) of runs that it knows, under each bootstrap sample.

        Refits to a few runs have wild outliers, which are clipped.
        """
        draws = len(next(iter(self.laws.values())).theta_BP)
        loss_BJ = np.empty((draws, len(runs)))
        for method, boot in self.laws.items():
            mine = [index for index, run in enumerate(runs) if run.method == method]
            if mine:
                rows = points_of([runs[index] for index in mine]).rows
                loss_BJ[:, mine] = boot.loss(rows)
        return np.log(tamed(loss_BJ))

    def noise(self, runs: Sequence[PossibleRun]) -> Floats:
        """Standard deviation (J,) of one more run's ln loss around the law that holds at the target."""
        return np.array([self._noise[run.method] for run in runs]) * np.sqrt(relative_variance(runs, self.target))

    @cached_property
    def _noise(self) -> dict[str, float]:
        # the fit's own noise, with the degrees of freedom that its parameters took
        found = {}
        for method, boot in self.laws.items():
            fitted = boot.fit
            free = max(fitted.n_points - (len(fitted.params) - len(fitted.held)), 1)
            found[method] = max(fitted.noise * math.sqrt(fitted.n_points / free), _LEAST_NOISE)
        return found


def fit_posterior(done: Sequence[PilotRun], target: PilotTarget, how: Planning = DEFAULT) -> Posterior:
    """Fit the law to each method's runs near the envelope, with its bootstrap.

    Runs of too few steps are not used.  A method whose runs do not identify the law is named with the reason.  Raises
    InputError where a finished run is as large as the target.
    """
    if any(run.planned.flop >= target.flop for run in done):
        raise InputError(
            f"A pilot looks at nothing as expensive as the target: {max(run.planned.flop for run in done):.3g} FLOP >= "
            f"{target.flop:.3g}; leave such runs out."
        )
    law, laws = how.law, dict[str, Bootstrap]()
    unfit: dict[str, PilotNote] = {}
    usable = sorted((run for run in done if run.planned.long_enough), key=lambda run: run.planned.key)
    for index, method in enumerate(sorted({run.planned.method for run in done})):
        mine = near_envelope([run for run in usable if run.planned.method == method], how.near, least_runs(law))
        if len(mine) < least_runs(law):
            unfit[method] = warning(
                "few-runs-of-method", runs=len(mine), method=method, law=law.name, least=least_runs(law)
            )
            continue
        runs = [run.planned for run in mine]
        points = points_of(runs, np.array([run.loss for run in mine]), 1 / relative_variance(runs, target))
        try:
            # one seed per method: equal ones would draw the same runs for each, and correlate what is independent
            laws[method] = bootstrap(law, points, draws=how.draws, seed=how.seed + 1_000_003 * index)
        except InputError as error:
            unfit[method] = warning("unfit", error=refusal_of(error))
    return Posterior(target, laws, unfit)
