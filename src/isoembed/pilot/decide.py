"""The decision at the target: the candidate of lowest expected ln loss over the bootstrap samples, and how sure it is
(`isoembed.fitting.decision`).

All losses are compared in ln: a regret of 0.01 is 1 % of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import Frozen
from isoembed.fitting.decision import CandidateSamples
from isoembed.pilot.notes import PilotNote, warning
from isoembed.pilot.posterior import Posterior
from isoembed.pilot.runs import LEAST_RUNS, LEAST_STEPS, PilotRun, PilotTarget, PossibleRun


class Decision(Frozen):
    """What the pilot says so far.  `candidate` is None where no candidate's method has a law."""

    candidate: PossibleRun | None = Field(serialization_alias="cell")
    trusted: bool = Field(description="False: fall back on the family's rule, for the reasons in `notes`")
    expected_regret: float | None = Field(description="ln loss above the best candidate, mean over bootstrap samples")
    probability_best: float | None = Field(description="share of bootstrap samples in which no candidate is better")
    predicted_loss: float | None = Field(description="nats, geometric mean over bootstrap samples")
    noise: float | None = Field(description="noise of ln loss between runs of the chosen method")
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
        if self.candidate is None or self.expected_regret is None or self.probability_best is None:
            return f"no choice after {self.runs} runs: {'; '.join(self.warnings)}"
        words = (
            f"{self.candidate.key} after {self.runs} runs and {self.flop_spent:.3g} FLOP: best with probability "
            f"{self.probability_best:.2f}, expected regret {self.expected_regret:.2%} of the loss"
        )
        return words if self.trusted else f"not to be trusted: {words}; {'; '.join(self.warnings)}"


def decision_from(posterior: Posterior, done: Sequence[PilotRun], target: PilotTarget) -> Decision:
    """The candidate at the target budget that the finished runs speak for, by the laws fitted to them.

    done: finished runs below the target; at least 12 of at least 100 steps, or the decision is not trusted and says so.
    """
    runs = sum(run.planned.long_enough for run in done)
    spent = math.fsum(run.planned.flop for run in done)
    candidates = sorted((each for each in target.candidates if posterior.knows(each)), key=lambda each: each.key)
    notes = list(posterior.unfit.values())
    if unseen := sorted({each.method for each in target.candidates} - set(posterior.laws) - set(posterior.unfit)):
        notes.append(warning("no-runs-of-method", methods=tuple(unseen)))
    if runs < LEAST_RUNS:
        notes.append(warning("few-runs", runs=runs, steps=LEAST_STEPS, least=LEAST_RUNS))
    if not candidates:
        return Decision(
            candidate=None, trusted=False, expected_regret=None, probability_best=None, predicted_loss=None, noise=None,
            runs=runs, flop_spent=spent, notes=tuple(notes),
        )  # fmt: skip
    samples = CandidateSamples(posterior.log_loss(candidates))
    best = samples.best
    if (fitted := posterior.laws[candidates[best].method].fit).reasons:
        notes.append(warning("not-good", method=candidates[best].method, status=fitted.standing))
    beyond = target.flop / max(run.planned.flop for run in done)
    if beyond > 10:
        notes.append(warning("far", ratio=beyond))
    return Decision(
        candidate=candidates[best],
        trusted=runs >= LEAST_RUNS,
        expected_regret=samples.regret(best),
        probability_best=float(samples.probabilities[best]),
        predicted_loss=float(np.exp(samples.means[best])),
        noise=float(posterior.noise([candidates[best]])[0]),
        runs=runs,
        flop_spent=spent,
        notes=tuple(notes),
    )
