"""Which pilot runs to make next: those that make the decision at the target budget surer, per FLOP.

1. Start: per method a space-filling set over ln N x ln D of cheap runs, enough runs to fit its law, 12 in all.
2. Then a batch at a time: fit each method's law with bootstrap samples (`isoembed.pilot.decide`) and take the runs
   that cut the uncertainty of the decision most, per FLOP (`isoembed.pilot.criteria`), for at most half of what is
   left.
3. Stop when the same candidate was chosen `SETTLED` batches in a row at an expected regret below the noise of seeds,
   when the allowance pays for no further run, or when no run is left.

Assumed: the law holds near the envelope, from the cheapest run to the target, up to the drift of
`isoembed.pilot.decide`.  Expected regret counts what the bootstrap samples disagree about, not what the law gets wrong.

Shapes: X runs of a pool; 2 coordinates, ln N and ln D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, computed_field

from isoembed.core import Frozen, InputError
from isoembed.laws.base import Law
from isoembed.pilot.criteria import choose, promising
from isoembed.pilot.decide import Decision, decision_from
from isoembed.pilot.notes import PilotNote, reason
from isoembed.pilot.posterior import DEFAULT, TOLERANCE, Planning, fit_posterior
from isoembed.pilot.runs import PilotRun, PilotTarget, PossibleRun, least_runs, price
from isoembed.pilot.start import start_set

Stop = Literal["settled", "allowance", "no-cells"]

#: batches in a row that must choose the same candidate
SETTLED = 3
#: share of the allowance left that one batch may cost, where any run is that cheap
BATCH_SHARE = 0.5
#: pilot runs stay within the candidates' tokens per parameter, widened by this factor either way
ALIKE = 3.0


class PilotBatch(Frozen):
    """The runs to make next; none where `stop` says why."""

    runs: tuple[PossibleRun, ...] = Field(serialization_alias="cells")
    stop: Stop | None
    reason: PilotNote
    decision: Decision = Field(description="what the runs so far say")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why(self) -> str:
        """Why these runs, or none, in words."""
        return self.reason.describe()


def plan_next(
    done: Sequence[PilotRun],
    runs: Sequence[PossibleRun],
    target: PilotTarget,
    *,
    allowance_left: float,
    earlier: Sequence[Decision] = (),
    how: Planning = DEFAULT,
) -> PilotBatch:
    """The next pilot runs, a pure function of what has ended: neither the order of `runs` nor of `done` matters.

    runs: whatever could be run; those done, at or above the target budget, too short or too expensive are passed over.
    allowance_left: FLOP.  The runs chosen never cost more in sum.
    Until every candidate method has the runs that its law needs, the start set is filled; a method whose runs do not
    suffice has no say, and the decision's warnings name it.
    earlier: the decisions after each batch before, oldest first; without them the pilot never stops as settled.
    Raises InputError where two runs share a key, or the allowance makes no sense.
    """
    if not allowance_left >= 0:
        raise InputError(f"`allowance_left` must be 0 FLOP or more; got {allowance_left:g}.")
    if len({run.key for run in runs}) < len(runs):
        raise InputError("Possible runs must have keys of their own; two share one. Name them apart.")
    posterior = fit_posterior(done, target, how)
    decision = decision_from(posterior, done, target)

    def choice(stop: Stop | None, why: PilotNote, runs: Sequence[PossibleRun] = ()) -> PilotBatch:
        return PilotBatch(runs=tuple(runs), stop=stop, reason=why, decision=decision)

    if settled((*earlier, decision), how.tolerance):
        return choice("settled", reason("settled", decisions=SETTLED, tolerance=how.tolerance))
    ended = {run.planned.key for run in done}
    left = sorted(
        (run for run in eligible(runs, target, how.law) if run.key not in ended),
        key=lambda run: (run.flop, run.key),
    )
    planned = [run.planned for run in done]
    affordable = [run for run in left if price([run], planned) <= allowance_left]
    if not affordable:
        if left:
            least = min(price([run], planned) for run in left)
            return choice("allowance", reason("allowance", flop=least, left=allowance_left))
        return choice("no-cells", reason("all-run"))
    start = start_set(planned, affordable, target, how.law, allowance_left, how.seed)
    if start:
        return choice(None, reason("start"), start)
    known = promising(planned, [run for run in affordable if posterior.knows(run)], posterior, how.near)
    candidates = sorted((run for run in target.candidates if posterior.knows(run)), key=lambda run: run.key)
    if not known or not candidates:
        return choice("no-cells", reason("no-law"))
    # what an expensive run says may overturn the plan: keep as much for after it
    within = [run for run in known if price([run], planned) <= BATCH_SHARE * allowance_left]
    if within:
        picked = choose(posterior, planned, within, candidates, BATCH_SHARE * allowance_left, how)
    else:
        picked = choose(posterior, planned, known, candidates, allowance_left, how)
    return choice(None, reason("largest-cut", criterion=how.criterion), picked)


def eligible(runs: Sequence[PossibleRun], target: PilotTarget, law: Law) -> list[PossibleRun]:
    """The runs that a pilot may make: below the target, long enough, and of tokens per parameter like the candidates'.

    A method with fewer of those than twice what its law needs keeps all of its runs, however far their ratios.
    """
    ratio = [run.tokens / run.params for run in target.candidates]
    low, high = min(ratio) / ALIKE, max(ratio) * ALIKE
    kept: list[PossibleRun] = []
    for method in sorted({run.method for run in target.candidates}):
        mine = [c for c in runs if c.method == method and c.flop < target.flop and c.long_enough]
        alike = [run for run in mine if low <= run.tokens / run.params <= high]
        kept += alike if len(alike) >= 2 * least_runs(law) else mine
    return kept


def settled(decisions: Sequence[Decision], tolerance: float = TOLERANCE) -> bool:
    """Whether the last `SETTLED` decisions agree and can be trusted, and the last expects a regret below `tolerance`
    (ln loss)."""
    last = decisions[-SETTLED:]
    if len(last) < SETTLED or not all(decision.trusted for decision in last):
        return False
    regret = last[-1].expected_regret
    return len({decision.candidate for decision in last}) == 1 and regret is not None and regret < tolerance
