"""What a loss is worth downstream: rank correlations with scores, and which tasks stand for their category.

Shape legend: R runs (or models), B bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from isoembed.core import Frozen, InputError
from isoembed.fitting.intervals import Interval, expanded_tail, finite, percentile
from isoembed.fitting.io.ledger import Target, loss_of
from isoembed.laws.points import Floats
from isoembed.records import RunRecord, ScoreName

#: of a task's metrics the first of these that it has stands for it; else the first by name
MAIN_METRICS = ("ndcg@10", "spearman")
#: fewer runs make no interval worth the name
LEAST_RUNS = 8
_DRAWS = 1000


class Correlation(Frozen):
    """Loss against one score."""

    score: str
    runs: int
    rho: Interval


class Choice(Frozen):
    """The task that stands for its category, and how close each of its tasks comes to the category's mean."""

    category: str
    task: str
    rho: Interval
    candidates: dict[str, float | None]
    rows: int


def spearman(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Interval:
    """Rank correlation with a bootstrap interval over runs; no value where one side is the same for all."""
    a_R, b_R = np.array(first), np.array(second)
    if np.ptp(a_R) == 0 or np.ptp(b_R) == 0:
        return Interval(value=None, low=None, high=None)
    chance = np.random.default_rng(seed)
    rows_BR = chance.integers(len(a_R), size=(_DRAWS, len(a_R)))
    draw_B = np.array([_rank_correlation(a_R[rows_R], b_R[rows_R]) for rows_R in rows_BR])
    return percentile(_rank_correlation(a_R, b_R), draw_B[np.isfinite(draw_B)], expanded_tail(len(a_R)))


def _rank_correlation(a_R: Floats, b_R: Floats) -> float:
    # imported here so that nothing that only plots needs scipy's statistics
    from scipy.stats import rankdata

    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(rankdata(a_R), rankdata(b_R))[0, 1])


def main_scores(names: Iterable[str]) -> list[ScoreName]:
    """Of each task that a name of `names` is a score of the one that stands for it; ordered by task."""
    metrics: dict[str, set[str]] = {}
    for name in map(ScoreName.of, names):
        metrics.setdefault(name.task, set()).add(name.metric)
    return [
        ScoreName(task, next((name for name in MAIN_METRICS if name in found), min(found)))
        for task, found in sorted(metrics.items())
    ]


def correlate(records: Sequence[RunRecord], *, target: Target = "heldout") -> tuple[Correlation, ...]:
    """The loss against each score that at least eight runs have, and against the mean of the tasks' main scores.

    A run's mean is over all tasks, so only runs scored on all of them count there; the paper's appendix C correlates
    that mean (of its MTEB subset) with the final training loss, -0.892.

    Raises InputError where fewer than eight runs have a loss and a score, or their losses do not compare.
    """
    scored = [(record, loss) for record in records if record.scores and (loss := loss_of(record, target)) is not None]
    if len(scored) < LEAST_RUNS:
        raise InputError(
            f"A correlation needs at least {LEAST_RUNS} runs with a {target} loss and scores; there are {len(scored)}. "
            "Plan the sweep with `task`, which scores its runs."
        )
    sets = {record.heldout.fingerprint for record, _ in scored if record.heldout is not None}
    if target == "heldout" and len(sets) > 1:
        raise InputError(
            f"Losses compare only on one held-out set; the scored runs have {len(sets)} ({', '.join(sorted(sets))}). "
            "Put the others into a ledger of their own."
        )
    names = sorted({name for record, _ in scored for name in record.scores})
    found = []
    for name in names:
        known = [(loss, record.scores[name]) for record, loss in scored if name in record.scores]
        if len(known) >= LEAST_RUNS:
            found.append(_correlation(name, known))
    main = [str(name) for name in main_scores(names)]
    whole = [
        (loss, float(np.mean([record.scores[name] for name in main])))
        for record, loss in scored
        if all(name in record.scores for name in main)
    ]
    if len(main) > 1 and len(whole) >= LEAST_RUNS:
        found.append(_correlation(f"mean of {len(main)} tasks", whole))
    return tuple(found)


def _correlation(name: str, known: Sequence[tuple[float, float]]) -> Correlation:
    losses, scores = zip(*known, strict=True)
    return Correlation(score=name, runs=len(known), rho=spearman(losses, scores))


def choose(scores: Mapping[str, Sequence[float | None]], categories: Mapping[str, str]) -> tuple[Choice, ...]:
    """Of each category the task whose scores correlate most (Spearman) with the category's mean, as in appendix B.

    scores: task -> one score a model (or run), None where it was not scored; categories: task -> its category.
    The mean is over all tasks of the category, the task itself among them, and over the models scored on all of them.
    Assumed, because the paper does not say: rank correlation, and that the mean holds the task itself.

    Raises InputError where fewer than three models have all scores of a category.
    """
    members: dict[str, list[str]] = {}
    for task, category in categories.items():
        members.setdefault(category, []).append(task)
    return tuple(_choice(category, tasks, scores) for category, tasks in sorted(members.items()))


def _choice(category: str, tasks: Sequence[str], scores: Mapping[str, Sequence[float | None]]) -> Choice:
    table_RT = np.array([[np.nan if value is None else value for value in scores[task]] for task in tasks], float).T
    table_RT = table_RT[np.isfinite(table_RT).all(axis=1)]
    if len(table_RT) < 3:
        raise InputError(
            f"A choice needs at least three models scored on all tasks of {category}; there are {len(table_RT)}. Leave "
            f"out the task that is missing most, of {', '.join(tasks)}."
        )
    mean_R = table_RT.mean(axis=1)
    found = {task: finite(_rank_correlation(task_R, mean_R)) for task, task_R in zip(tasks, table_RT.T, strict=True)}
    best = max(tasks, key=lambda task: -2.0 if (rho := found[task]) is None else rho)
    rho = spearman(table_RT[:, tasks.index(best)].tolist(), mean_R.tolist())
    return Choice(category=category, task=best, rho=rho, candidates=found, rows=len(table_RT))
