"""What finished pilot runs say about a larger budget: which candidate there is best, and how sure that is.

The pilot is planned on abstract cells, so that a table of published runs and our own recipes are planned alike.

1. Runs far above the lower envelope of loss over FLOP are left out of the fit: a model trained on less than a token a
   parameter is in another regime, which no sum of powers describes.
2. The others are weighted by how near to the target they are: the exponents of one range are not those of the next, so
   that a run far below says less about the target than its own scatter would have it.
3. One law a method (Hoffmann's by default), each with its own bootstrap; methods whose runs do not identify the law
   have no say.
4. The decision is the candidate of least mean predicted ln loss over the draws; its expected regret is the mean over
   draws of how far it lies above that draw's best candidate.

All losses are compared in ln: a regret of 0.01 is 1 % of the loss.

Shapes: B draws, J cells (pilot cells or candidates), R finished runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import Frozen, InputError
from isoembed.fitting.bootstrap import Bootstrap, bootstrap
from isoembed.fitting.decision import CandidateSamples
from isoembed.fitting.intervals import tamed
from isoembed.fitting.isoflop import SAME_BUDGET
from isoembed.laws.base import Law
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.laws.points import Floats, Points
from isoembed.pilot.notes import PilotNote, warning

#: a pilot of fewer or shorter runs is no basis for a recommendation
LEAST_RUNS = 12
LEAST_STEPS = 100
#: ln loss above the envelope beyond which a run is in another regime; chosen on the published tables of the replay
NEAR = 0.15
#: by how many times the noise the law drifts from a run a factor e below the target; chosen there too
DRIFT = 1.0
#: a fit to few runs shows less scatter than there is: never less than 0.1 % of the loss
_LEAST_NOISE = 1e-3


class PilotCell(Frozen):
    """A run that could be made.  `key` is the caller's own and says nothing here but who is who."""

    key: str
    params: float = Field(gt=0, description="N")
    tokens: float = Field(gt=0, description="D")
    flop: float = Field(gt=0, description="C: what the run costs")
    method: str = "full"
    fraction: float = Field(1.0, ge=0, le=1, description="S, the trained share of the parameters")
    steps: int | None = Field(None, description="optimiser steps; None where the table does not say")

    @property
    def long_enough(self) -> bool:
        """Whether the run has the steps that a pilot needs, as far as known."""
        return self.steps is None or self.steps >= LEAST_STEPS


class PilotRun(Frozen):
    """A finished cell and its held-out loss in nats."""

    cell: PilotCell
    loss: float = Field(gt=0)


class Target(Frozen):
    """The budget to decide for, and what could be run there."""

    flop: float = Field(gt=0)
    cells: tuple[PilotCell, ...] = Field(min_length=1)


class Decision(Frozen):
    """What the pilot says so far.  `cell` is None where no candidate's method has a law."""

    cell: PilotCell | None
    trusted: bool = Field(description="False: fall back on the family's rule, for the reasons in `notes`")
    expected_regret: float | None = Field(description="ln loss above the best candidate, mean over draws")
    probability_best: float | None = Field(description="share of draws in which no candidate is better")
    predicted_loss: float | None = Field(description="nats, geometric mean over draws")
    noise: float | None = Field(description="scatter of ln loss between runs of the chosen method")
    runs: int = Field(description="finished runs of enough steps")
    flop_spent: float
    notes: tuple[PilotNote, ...] = Field((), description="what speaks against it")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against it, in words."""
        return tuple(note.describe() for note in self.notes)

    def describe(self) -> str:
        """The decision in one sentence."""
        if self.cell is None or self.expected_regret is None or self.probability_best is None:
            return f"no choice after {self.runs} runs: {'; '.join(self.warnings)}"
        words = (
            f"{self.cell.key} after {self.runs} runs and {self.flop_spent:.3g} FLOP: best with probability "
            f"{self.probability_best:.2f}, expected regret {self.expected_regret:.2%} of the loss"
        )
        return words if self.trusted else f"not to be trusted: {words}; {'; '.join(self.warnings)}"


@dataclass(frozen=True, eq=False)
class Belief:
    """One bootstrapped law a method, for one target."""

    target: Target
    laws: dict[str, Bootstrap]
    unfit: dict[str, PilotNote]
    """methods without a law, and why"""

    def knows(self, cell: PilotCell) -> bool:
        """Whether the cell's method has a law."""
        return cell.method in self.laws

    def log_loss(self, cells: Sequence[PilotCell]) -> Floats:
        """Predicted ln loss (B, J) of cells that it knows, draw by draw.

        Draws of a few runs have wild outliers, which are clipped.
        """
        draws = len(next(iter(self.laws.values())).theta_BP)
        loss_BJ = np.empty((draws, len(cells)))
        for method, boot in self.laws.items():
            mine = [index for index, cell in enumerate(cells) if cell.method == method]
            if mine:
                rows = points_of([cells[index] for index in mine]).rows
                loss_BJ[:, mine] = boot.loss(rows)
        return np.log(tamed(loss_BJ))

    def noise(self, cells: Sequence[PilotCell]) -> Floats:
        """Standard deviation (J,) of one more run's ln loss around the law that holds at the target."""
        return np.array([self._noise[cell.method] for cell in cells]) * np.sqrt(doubt(cells, self.target))

    @cached_property
    def _noise(self) -> dict[str, float]:
        # the fit's own scatter, with the degrees of freedom that its parameters took
        scatter = {}
        for method, boot in self.laws.items():
            fitted = boot.fit
            free = max(fitted.n_points - (len(fitted.params) - len(fitted.held)), 1)
            scatter[method] = max(fitted.noise * math.sqrt(fitted.n_points / free), _LEAST_NOISE)
        return scatter


def points_of(cells: Sequence[PilotCell], loss: Floats | None = None, weight: Floats | None = None) -> Points:
    """Cells as points; a loss of one stands in where none is known."""
    return Points.of(
        [cell.params for cell in cells],
        [cell.tokens for cell in cells],
        np.ones(len(cells)) if loss is None else loss,
        flop=[cell.flop for cell in cells],
        fraction=[cell.fraction for cell in cells],
        weight=weight,
    )


def doubt(cells: Sequence[PilotCell], target: Target) -> Floats:
    """Variance (J,) of a run about the law at the target, over its variance at the target's own budget:
    1 + (DRIFT ln(C_target / C))^2."""
    return 1 + (DRIFT * np.log(target.flop / np.array([cell.flop for cell in cells]))) ** 2


def least_runs(law: Law) -> int:
    """Different settings of one method that show a misfit of the law: two more than it has parameters (where the
    trained share does not vary, two of the embedding law's are held)."""
    return len(law.parameters) + 2 - len(law.held(Points.of([1.0], [1.0], [1.0])))


def believe(
    done: Sequence[PilotRun],
    target: Target,
    *,
    law: Law = HOFFMANN,
    near: float = NEAR,
    draws: int = 200,
    seed: int = 0,
) -> Belief:
    """Fit `law` to each method's runs near the envelope, with `draws` bootstrap draws.

    Runs of too few steps are not used.  A method whose runs do not identify the law is named with the reason.  Raises
    InputError where a finished run is as large as the target.
    """
    if any(run.cell.flop >= target.flop for run in done):
        raise InputError(
            f"A pilot looks at nothing as dear as the target: {max(run.cell.flop for run in done):.3g} FLOP >= "
            f"{target.flop:.3g}; leave such runs out."
        )
    laws: dict[str, Bootstrap] = {}
    unfit: dict[str, PilotNote] = {}
    usable = sorted((run for run in done if run.cell.long_enough), key=lambda run: run.cell.key)
    for index, method in enumerate(sorted({run.cell.method for run in done})):
        mine = near_envelope([run for run in usable if run.cell.method == method], near, least_runs(law))
        if len(mine) < least_runs(law):
            unfit[method] = warning(
                "few-runs-of-method", runs=len(mine), method=method, law=law.name, least=least_runs(law)
            )
            continue
        cells = [run.cell for run in mine]
        points = points_of(cells, np.array([run.loss for run in mine]), 1 / doubt(cells, target))
        try:
            # a seed a method: equal ones would draw the same runs for each, and correlate what is independent
            laws[method] = bootstrap(law, points, draws=draws, seed=seed + 1_000_003 * index)
        except InputError as error:
            unfit[method] = warning("unfit", error=str(error))
    return Belief(target, laws, unfit)


def near_envelope(runs: Sequence[PilotRun], near: float, least: int) -> list[PilotRun]:
    """The runs at most `near` above the lowest ln loss that as much FLOP or less has bought; at least the nearest
    `least`."""
    if not runs:
        return []
    above_R = above_envelope(np.log([run.loss for run in runs]), np.array([run.cell.flop for run in runs]))
    reach = max(near, np.sort(above_R)[min(least, len(runs)) - 1])
    return [run for run, above in zip(runs, above_R, strict=True) if above <= reach]


def above_envelope(log_loss_J: Floats, flop_J: Floats) -> Floats:
    """How far each ln loss (J,) lies above the lowest one among those of as much FLOP or less."""
    bought_JJ = flop_J[None, :] <= flop_J[:, None] * (1 + SAME_BUDGET)
    return np.asarray(log_loss_J - np.where(bought_JJ, log_loss_J[None, :], np.inf).min(axis=1))


def decide(
    done: Sequence[PilotRun],
    target: Target,
    *,
    law: Law = HOFFMANN,
    near: float = NEAR,
    draws: int = 200,
    seed: int = 0,
) -> Decision:
    """The candidate at the target budget that the finished runs speak for.

    done: finished runs below the target; at least 12 of at least 100 steps, or the decision is not trusted and says so.
    law: fitted to each method apart.  Raises InputError where a finished run is as large as the target.
    """
    belief = believe(done, target, law=law, near=near, draws=draws, seed=seed)
    return decision_from(belief, done, target)


def decision_from(belief: Belief, done: Sequence[PilotRun], target: Target) -> Decision:
    """The decision, from laws fitted already."""
    runs = sum(run.cell.long_enough for run in done)
    spent = math.fsum(run.cell.flop for run in done)
    cells = sorted((cell for cell in target.cells if belief.knows(cell)), key=lambda cell: cell.key)
    notes = list(belief.unfit.values())
    if unseen := sorted({cell.method for cell in target.cells} - set(belief.laws) - set(belief.unfit)):
        notes.append(warning("no-runs-of-method", methods=", ".join(unseen)))
    if runs < LEAST_RUNS:
        notes.append(warning("few-runs", runs=runs, steps=LEAST_STEPS, least=LEAST_RUNS))
    if not cells:
        return Decision(
            cell=None, trusted=False, expected_regret=None, probability_best=None, predicted_loss=None, noise=None,
            runs=runs, flop_spent=spent, notes=tuple(notes),
        )  # fmt: skip
    samples = CandidateSamples(belief.log_loss(cells))
    best = samples.best
    if (fitted := belief.laws[cells[best].method].fit).why:
        notes.append(warning("not-good", method=cells[best].method, status=fitted.says()))
    beyond = target.flop / max(run.cell.flop for run in done)
    if beyond > 10:
        notes.append(warning("far", ratio=beyond))
    return Decision(
        cell=cells[best],
        trusted=runs >= LEAST_RUNS,
        expected_regret=samples.regret(best),
        probability_best=float(samples.probabilities[best]),
        predicted_loss=float(np.exp(samples.means[best])),
        noise=float(belief.noise([cells[best]])[0]),
        runs=runs,
        flop_spent=spent,
        notes=tuple(notes),
    )
