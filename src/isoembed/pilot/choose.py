"""Which pilot runs to make next: those that make the decision at the target budget surer, per FLOP.

1. Start: per method a space-filling set over ln N x ln D of cheap cells, enough runs to fit its law, 12 in all.
2. Then a batch at a time: fit each method's law with bootstrap draws (`isoembed.pilot.decide`) and take the cells whose
   runs cut the uncertainty of the decision most, per FLOP (`isoembed.pilot.criteria`), for at most half of what is
   left.
3. Stop when the same candidate was chosen `SETTLED` batches in a row at an expected regret below the noise of seeds,
   when the allowance pays for no further cell, or when no cell is left.

Assumed: the law holds near the envelope, from the cheapest cell to the target, up to the drift of
`isoembed.pilot.decide`.  Expected regret counts what the draws disagree about, not what the law gets wrong.

Shapes: X cells of a pool; 2 coordinates, ln N and ln D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import Frozen, InputError
from isoembed.laws.base import Law
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.laws.points import Floats
from isoembed.pilot.criteria import Criterion, choose, promising
from isoembed.pilot.decide import (
    LEAST_RUNS,
    NEAR,
    Decision,
    PilotCell,
    PilotRun,
    Target,
    believe,
    decision_from,
    least_runs,
)
from isoembed.pilot.notes import PilotNote, reason

Stop = Literal["settled", "allowance", "no-cells"]

#: batches in a row that must choose the same candidate
SETTLED = 3
#: a regret in ln loss below what differs between seeds: 0.3 %, the low end of what is published
TOLERANCE = 0.003
#: share of the allowance that the start set may cost
START_SHARE = 0.25
#: what it may cost where cells are few and dear
START_MOST = 0.6
#: share of the allowance left that one batch may cost, where any cell is that cheap
BATCH_SHARE = 0.5
#: pilot cells stay within the candidates' tokens a parameter, widened by this factor either way
ALIKE = 3.0


class Choice(Frozen):
    """The cells to run next; none where `stop` says why."""

    cells: tuple[PilotCell, ...]
    stop: Stop | None
    reason: PilotNote
    decision: Decision = Field(description="what the runs so far say")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why(self) -> str:
        """Why these cells, or none, in words."""
        return self.reason.describe()


def plan_next(
    done: Sequence[PilotRun],
    cells: Sequence[PilotCell],
    target: Target,
    *,
    allowance_left: float,
    batch: int = 4,
    criterion: Criterion = "regret",
    law: Law = HOFFMANN,
    near: float = NEAR,
    tolerance: float = TOLERANCE,
    earlier: Sequence[Decision] = (),
    draws: int = 200,
    seed: int = 0,
) -> Choice:
    """The next pilot cells, a pure function of what has ended: neither the order of `cells` nor of `done` matters.

    cells: whatever could be run; those done, at or above the target budget, too short or too dear are passed over.
    allowance_left: FLOP.  The cells chosen never cost more in sum.
    batch: cells chosen at once; the start set is one batch of its own.
    law: of each method; `tied` and `embedding` serve too.  Until every candidate method has the runs that its law
    needs, the start set is filled; a method whose cells do not suffice has no say, and the decision's warnings name it.
    near, tolerance: ln loss above the envelope that the fit still reads; regret below which a decision may settle.
    earlier: the decisions after each batch before, oldest first; without them the pilot never stops as settled.
    Raises InputError where two cells share a key, or batch, draws or allowance make no sense.
    """
    _check(cells, batch=batch, draws=draws, allowance_left=allowance_left)
    belief = believe(done, target, law=law, near=near, draws=draws, seed=seed)
    decision = decision_from(belief, done, target)

    def choice(stop: Stop | None, why: PilotNote, cells: Sequence[PilotCell] = ()) -> Choice:
        return Choice(cells=tuple(cells), stop=stop, reason=why, decision=decision)

    if settled((*earlier, decision), tolerance):
        return choice("settled", reason("settled", decisions=SETTLED, tolerance=tolerance))
    ended = {run.cell.key for run in done}
    left = sorted(
        (cell for cell in eligible(cells, target, law) if cell.key not in ended),
        key=lambda cell: (cell.flop, cell.key),
    )
    affordable = [cell for cell in left if cell.flop <= allowance_left]
    if not affordable:
        if left:
            return choice("allowance", reason("allowance", flop=left[0].flop, left=allowance_left))
        return choice("no-cells", reason("all-run"))
    start = _start([run.cell for run in done], affordable, target, law, allowance_left, seed)
    if start:
        return choice(None, reason("start"), start)
    known = promising([run.cell for run in done], [cell for cell in affordable if belief.knows(cell)], belief, near)
    candidates = sorted((cell for cell in target.cells if belief.knows(cell)), key=lambda cell: cell.key)
    if not known or not candidates:
        return choice("no-cells", reason("no-law"))
    # what a dear run says may overturn the plan: keep as much for after it
    within = [cell for cell in known if cell.flop <= BATCH_SHARE * allowance_left]
    if within:
        picked = choose(belief, within, candidates, BATCH_SHARE * allowance_left, batch, criterion)
    else:
        picked = choose(belief, known, candidates, allowance_left, batch, criterion)
    return choice(None, reason("largest-cut", criterion=criterion), picked)


def eligible(cells: Sequence[PilotCell], target: Target, law: Law) -> list[PilotCell]:
    """The cells that a pilot may run: below the target, long enough, and of tokens a parameter like the candidates'.

    A method with fewer of those than twice what its law needs keeps all of its cells, however far their ratios.
    """
    ratio = [cell.tokens / cell.params for cell in target.cells]
    low, high = min(ratio) / ALIKE, max(ratio) * ALIKE
    kept: list[PilotCell] = []
    for method in sorted({cell.method for cell in target.cells}):
        mine = [c for c in cells if c.method == method and c.flop < target.flop and c.long_enough]
        alike = [cell for cell in mine if low <= cell.tokens / cell.params <= high]
        kept += alike if len(alike) >= 2 * least_runs(law) else mine
    return kept


def methods_paid_for(
    methods: Sequence[str], cells: Sequence[PilotCell], allowance_flop: float, law: Law = HOFFMANN
) -> tuple[list[str], dict[str, float]]:
    """Of `methods`, in this order, those whose starts the allowance still pays for; and what each start costs at least.

    A start is the cheapest runs that the method's law needs, infinitely dear where there are not as many; all together
    may cost `START_MOST` of the allowance.  The first method enters whatever it costs: without it there is no pilot.
    """
    least = least_runs(law)
    cost: dict[str, float] = {}
    kept: list[str] = []
    for method in methods:
        flop = sorted(cell.flop for cell in cells if cell.method == method)[:least]
        cost[method] = math.fsum(flop) if len(flop) == least else math.inf
        spent = math.fsum(cost[each] for each in kept if math.isfinite(cost[each]))
        if not kept or spent + cost[method] <= START_MOST * allowance_flop:
            kept.append(method)
    return kept, cost


def settled(decisions: Sequence[Decision], tolerance: float = TOLERANCE) -> bool:
    """Whether the last `SETTLED` decisions agree and can be trusted, and the last expects a regret below `tolerance`
    (ln loss)."""
    last = decisions[-SETTLED:]
    if len(last) < SETTLED or not all(decision.trusted for decision in last):
        return False
    regret = last[-1].expected_regret
    return len({decision.cell for decision in last}) == 1 and regret is not None and regret < tolerance


def pilot(
    execute: Callable[[Sequence[PilotCell]], Sequence[PilotRun]],
    cells: Sequence[PilotCell],
    target: Target,
    *,
    allowance_flop: float,
    batch: int = 4,
    criterion: Criterion = "regret",
    law: Law = HOFFMANN,
    near: float = NEAR,
    tolerance: float = TOLERANCE,
    draws: int = 200,
    seed: int = 0,
) -> tuple[Choice, list[PilotRun]]:
    """Plan and run until the decision is settled or the allowance spent: the last choice, which says why, and the runs.

    execute: makes the runs of a batch.  A cell whose run it leaves out (a failure) is not asked for again, and its
    FLOP count as spent.
    """
    done: list[PilotRun] = []
    decisions: list[Decision] = []
    left, open_cells = allowance_flop, list(cells)
    while True:
        choice = plan_next(
            done, open_cells, target, allowance_left=left, batch=batch, criterion=criterion, law=law, near=near,
            tolerance=tolerance, earlier=decisions, draws=draws, seed=seed,
        )  # fmt: skip
        if choice.stop is not None:
            return choice, done
        decisions.append(choice.decision)
        done += execute(choice.cells)
        left = max(left - sum(cell.flop for cell in choice.cells), 0.0)  # rounding
        open_cells = [cell for cell in open_cells if cell not in choice.cells]


def _check(cells: Sequence[PilotCell], *, batch: int, draws: int, allowance_left: float) -> None:
    if batch < 1:
        raise InputError(f"`batch` must be at least 1 cell; got {batch}.")
    if draws < 20:
        raise InputError(f"`draws` must be at least 20 to tell one candidate from another; got {draws}.")
    if not allowance_left >= 0:
        raise InputError(f"`allowance_left` must be 0 FLOP or more; got {allowance_left:g}.")
    if len({cell.key for cell in cells}) < len(cells):
        raise InputError("Pilot cells must have keys of their own; two share one. Name them apart.")


# ---- the start ----


def _start(
    done: Sequence[PilotCell],
    affordable: Sequence[PilotCell],
    target: Target,
    law: Law,
    allowance_left: float,
    seed: int,
) -> list[PilotCell]:
    """What is missing of each candidate method's share of the start: empty once all have theirs, or where what is left
    cannot be paid."""
    methods = sorted({cell.method for cell in target.cells})
    share = max(least_runs(law), -(-LEAST_RUNS // len(methods)))
    chance = np.random.default_rng(seed)
    picked: list[PilotCell] = []
    for method in methods:
        mine = [cell for cell in done if cell.method == method and cell.long_enough]
        open_cells = [cell for cell in affordable if cell.method == method]
        missing = min(share - len(mine), len(open_cells))
        if missing <= 0:
            continue
        # the dearest cell that the start can afford throughout; where that leaves little choice, the cheapest cells
        most = START_SHARE * allowance_left / (share * len(methods))
        pools = [[cell for cell in open_cells if cell.flop <= most]]
        if len(pools[0]) < 2 * missing:
            pools = [open_cells[:size] for size in range(2 * missing, missing - 1, -1)]
        # of few cells those far apart are dear ones: fewer to choose from, until what is chosen leaves something over
        room = START_MOST * allowance_left / len(methods)
        spreads = (_spread(mine, pool, missing, chance) for pool in pools)
        chosen = next((spread for spread in spreads if sum(cell.flop for cell in spread) <= room), pools[-1][:missing])
        for cell in chosen:
            if sum(each.flop for each in picked) + cell.flop <= allowance_left:
                picked.append(cell)
    return picked


def _spread(
    taken: Sequence[PilotCell], pool: Sequence[PilotCell], count: int, chance: np.random.Generator
) -> list[PilotCell]:
    """`count` cells of `pool`, each the one farthest in (ln N, ln D) from those taken so far, the first by chance."""
    place_X2 = np.log([[cell.params, cell.tokens] for cell in pool])
    scale_2 = np.maximum(place_X2.std(axis=0), 1e-9)
    near_X = np.full(len(pool), np.inf)
    for cell in taken:
        near_X = np.minimum(near_X, _distance(place_X2, np.log([cell.params, cell.tokens]), scale_2))
    picked: list[PilotCell] = []
    for _ in range(count):
        index = int(chance.integers(len(pool))) if np.isinf(near_X).all() else int(np.argmax(near_X))
        picked.append(pool[index])
        near_X = np.minimum(near_X, _distance(place_X2, place_X2[index], scale_2))
        near_X[index] = -1.0
    return picked


def _distance(place_X2: Floats, from_2: Floats, scale_2: Floats) -> Floats:
    return np.asarray(np.linalg.norm((place_X2 - from_2) / scale_2, axis=1))
