"""The start of a pilot: per method a space-filling set over ln N x ln D of cheap runs, enough to fit its law.

Shapes: X runs that could be made; 2 coordinates, ln N and ln D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isoembed.laws.base import Law
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.laws.points import Floats
from isoembed.pilot.runs import LEAST_RUNS, PilotTarget, PossibleRun, cheapest, least_runs, on_enough_sizes, price

#: share of the allowance that the start set may cost
START_SHARE = 0.25
#: what it may cost where runs are few and expensive
START_MOST = 0.6


def methods_paid_for(
    methods: Sequence[str], runs: Sequence[PossibleRun], allowance_flop: float, law: Law = HOFFMANN
) -> tuple[list[str], dict[str, float]]:
    """Of `methods`, in this order, those whose starts the allowance still pays for; and what each start costs at least.

    A start is the cheapest runs that the method's law needs, infinite where there are not as many; all together
    may cost `START_MOST` of the allowance.  The first method enters whatever it costs: without it there is no pilot.
    """
    least = least_runs(law)
    cost: dict[str, float] = {}
    kept: list[str] = []
    for method in methods:
        start = cheapest([run for run in runs if run.method == method], least)
        cost[method] = price(start) if len(start) == least else math.inf
        spent = math.fsum(cost[each] for each in kept if math.isfinite(cost[each]))
        if not kept or spent + cost[method] <= START_MOST * allowance_flop:
            kept.append(method)
    return kept, cost


def start_set(
    done: Sequence[PossibleRun],
    affordable: Sequence[PossibleRun],
    target: PilotTarget,
    law: Law,
    allowance_left: float,
    seed: int,
) -> list[PossibleRun]:
    """What is missing of each candidate method's share of the start: empty once all have theirs, or where what is left
    cannot be paid."""
    methods = sorted({run.method for run in target.candidates})
    share = max(least_runs(law), -(-LEAST_RUNS // len(methods)))
    chance = np.random.default_rng(seed)
    picked: list[PossibleRun] = []
    for method in methods:
        mine = [run for run in done if run.method == method and run.long_enough]
        open_runs = [run for run in affordable if run.method == method]
        missing = min(share - len(mine), len(open_runs))
        if missing <= 0:
            continue
        # up to what the start can afford throughout; where that leaves little choice, the cheapest runs
        most = START_SHARE * allowance_left / (share * len(methods))
        pools = [[run for run in open_runs if run.flop <= most]]
        if len(pools[0]) < 2 * missing or not on_enough_sizes([*mine, *pools[0]], open_runs):
            pools = [open_runs[:size] for size in range(2 * missing, missing - 1, -1)]
        # of few runs those far apart are expensive: fewer to choose from, until what is chosen leaves something over
        room = START_MOST * allowance_left / len(methods)
        spreads = (_spread(mine, pool, missing, chance) for pool in pools)
        suited = (
            spread for spread in spreads if price(spread, done) <= room and on_enough_sizes([*mine, *spread], open_runs)
        )
        chosen = next(suited, None) or cheapest(open_runs, missing, mine)
        for run in chosen:
            if price([*picked, run], done) <= allowance_left:
                picked.append(run)
    return picked


def _spread(
    taken: Sequence[PossibleRun], pool: Sequence[PossibleRun], count: int, chance: np.random.Generator
) -> list[PossibleRun]:
    """`count` runs of `pool`, each the one farthest in (ln N, ln D) from those taken so far, the first by chance."""
    place_X2 = np.log([[run.params, run.tokens] for run in pool])
    scale_2 = np.maximum(place_X2.std(axis=0), 1e-9)
    near_X = np.full(len(pool), np.inf)
    for run in taken:
        near_X = np.minimum(near_X, _distance(place_X2, np.log([run.params, run.tokens]), scale_2))
    picked: list[PossibleRun] = []
    for _ in range(count):
        index = int(chance.integers(len(pool))) if np.isinf(near_X).all() else int(np.argmax(near_X))
        picked.append(pool[index])
        near_X = np.minimum(near_X, _distance(place_X2, place_X2[index], scale_2))
        near_X[index] = -1.0
    return picked


def _distance(place_X2: Floats, from_2: Floats, scale_2: Floats) -> Floats:
    return np.asarray(np.linalg.norm((place_X2 - from_2) / scale_2, axis=1))
