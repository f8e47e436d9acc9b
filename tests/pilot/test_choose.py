"""The pilot planner, on laws that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.laws import Points, law_named
from isoembed.pilot.choose import BATCH_SHARE, SETTLED, PilotBatch, eligible, plan_next, settled
from isoembed.pilot.decide import Decision, decision_from
from isoembed.pilot.posterior import DEFAULT, Criterion, Planning, fit_posterior
from isoembed.pilot.runs import LEAST_RUNS, PilotRun, PilotTarget, PossibleRun, above_envelope
from isoembed.pilot.start import START_MOST, methods_paid_for

FULL = {"E": 0.3, "A": 30.0, "B": 400.0, "alpha": 0.3, "beta": 0.35}
#: worse than FULL everywhere
LORA = {**FULL, "A": 33.0, "B": 440.0}
LAWS = {"full": FULL, "lora": LORA}
BUDGETS = 1e15 * 3.0 ** np.arange(7)
TARGET_FLOP = float(BUDGETS[-1])


def runs_at(flop: float, methods: Sequence[str] = ("full",), steps: int | None = None) -> list[PossibleRun]:
    return [
        PossibleRun(
            key=f"{method} {size:.3g} {flop:.3g}",
            params=size,
            tokens=flop / (6 * size),
            flop=flop,
            method=method,
            steps=steps,
        )
        for method in methods
        for size in 5e5 * 2.0 ** np.arange(8)
    ]


def grid(methods: Sequence[str] = ("full",)) -> list[PossibleRun]:
    """Every budget, the target's included: a planner must see for itself what it may not run."""
    return [run for flop in BUDGETS for run in runs_at(float(flop), methods)]


def decide(done: Sequence[PilotRun], target: PilotTarget, how: Planning = DEFAULT) -> Decision:
    return decision_from(fit_posterior(done, target, how), done, target)


def target(methods: Sequence[str] = ("full",)) -> PilotTarget:
    return PilotTarget(flop=TARGET_FLOP, candidates=tuple(runs_at(TARGET_FLOP, methods)))


def true_loss(run: PossibleRun) -> float:
    points = Points.of([run.params], [run.tokens], [1.0])
    return float(law_named("hoffmann").predict(LAWS[run.method], points)[0])


def run(runs: Sequence[PossibleRun], noise: float = 0.002) -> list[PilotRun]:
    """A run's noise is its own, whoever runs it and when."""
    seeds = [sum(run.key.encode()) for run in runs]
    return [
        PilotRun(planned=run, loss=true_loss(run) * math.exp(noise * np.random.default_rng(seed).normal()))
        for run, seed in zip(runs, seeds, strict=True)
    ]


def pilot(
    execute: Callable[[Sequence[PossibleRun]], Sequence[PilotRun]],
    runs: Sequence[PossibleRun],
    goal: PilotTarget,
    allowance_flop: float,
    how: Planning,
) -> tuple[PilotBatch, list[PilotRun]]:
    """Plan and run until the decision is settled or the allowance spent.  `execute` may leave out a run, a failure."""
    done: list[PilotRun] = []
    decisions: list[Decision] = []
    left, open_runs = allowance_flop, list(runs)
    while True:
        choice = plan_next(done, open_runs, goal, allowance_left=left, earlier=decisions, how=how)
        if choice.stop is not None:
            return choice, done
        decisions.append(choice.decision)
        done += execute(choice.runs)
        left = max(left - sum(run.flop for run in choice.runs), 0.0)  # rounding
        open_runs = [run for run in open_runs if run not in choice.runs]


def regret(decision: Decision, methods: Sequence[str] = ("full",)) -> float:
    assert decision.candidate is not None
    return math.log(true_loss(decision.candidate) / min(true_loss(run) for run in target(methods).candidates))


@pytest.fixture(scope="module")
def grid_flop() -> float:
    return sum(run.flop for run in grid() if run.flop < TARGET_FLOP)


@pytest.mark.parametrize("criterion", ["regret", "variance"])
def test_finds_the_best_candidate_for_a_tenth_of_the_grid(criterion: Criterion, grid_flop: float) -> None:
    allowance = 0.1 * grid_flop
    choice, done = pilot(run, grid(), target(), allowance, Planning(criterion=criterion, draws=100))
    assert choice.decision.trusted
    assert regret(choice.decision) < 0.003
    assert choice.stop in ("settled", "allowance")
    assert choice.decision.flop_spent == pytest.approx(sum(run.planned.flop for run in done))
    assert choice.decision.flop_spent <= allowance
    assert max(run.planned.flop for run in done) < TARGET_FLOP
    assert len({run.planned.key for run in done}) == len(done) >= LEAST_RUNS


def test_chooses_between_methods(grid_flop: float) -> None:
    both = ("full", "lora")
    choice, done = pilot(run, grid(both), target(both), 0.3 * grid_flop, Planning(draws=100))
    assert choice.decision.candidate is not None
    assert choice.decision.candidate.method == "full"
    assert {run.planned.method for run in done} == set(both)
    assert regret(choice.decision, both) < 0.003


def test_every_batch_fits_the_allowance(grid_flop: float) -> None:
    """The start set and the batches after it: an allowance that pays for half a batch buys half a batch."""
    done: list[PilotRun] = []
    for share in (0.0005, 0.002, 0.02):
        left = share * grid_flop
        choice = plan_next(done, grid(), target(), allowance_left=left, how=Planning(batch=8, draws=50))
        assert sum(run.flop for run in choice.runs) <= left
        done += run(choice.runs)
    nothing = plan_next(done, grid(), target(), allowance_left=0.0, how=Planning(draws=50))
    assert nothing.stop == "allowance"
    assert not nothing.runs


def test_a_batch_leaves_half_of_the_allowance(grid_flop: float) -> None:
    done = run(plan_next([], grid(), target(), allowance_left=0.1 * grid_flop, how=Planning(draws=50)).runs)
    left = 0.05 * grid_flop
    choice = plan_next(done, grid(), target(), allowance_left=left, how=Planning(batch=50, draws=50))
    assert 0 < sum(run.flop for run in choice.runs) <= BATCH_SHARE * left


def test_passes_over_the_target_short_runs_and_foreign_ratios() -> None:
    law = law_named("hoffmann")
    short = [run.model_copy(update={"key": f"short {run.key}", "steps": 99}) for run in grid()]
    odd = PossibleRun(key="odd", params=1e9, tokens=1e5, flop=6e14)
    kept = eligible([*grid(), *short, odd], target(), law)
    assert kept
    assert all(run.flop < TARGET_FLOP for run in kept)
    assert not [run for run in kept if run.key.startswith("short") or run.key == "odd"]


def test_neither_order_nor_names_of_methods_matter(grid_flop: float) -> None:
    both = ("full", "lora")
    start = plan_next([], grid(both), target(both), allowance_left=grid_flop, how=Planning(draws=50, seed=3))
    done = run(start.runs)
    shuffled = [grid(both)[index] for index in np.random.default_rng(0).permutation(len(grid(both)))]
    other = PilotTarget(flop=TARGET_FLOP, candidates=tuple(reversed(target(both).candidates)))
    again = plan_next([], shuffled, other, allowance_left=grid_flop, how=Planning(draws=50, seed=3))
    assert again == start
    first = plan_next(done, grid(both), target(both), allowance_left=grid_flop, how=Planning(draws=50, seed=3))
    second = plan_next(done[::-1], shuffled, other, allowance_left=grid_flop, how=Planning(draws=50, seed=3))
    assert first == second
    assert first.runs


def test_few_runs_fall_back_in_words() -> None:
    none = decide([], target())
    assert (none.candidate, none.trusted) == (None, False)
    assert "no choice after 0 runs" in none.describe()
    few = decide(run(grid()[8:19]), target(), Planning(draws=50))
    assert few.candidate is not None
    assert not few.trusted
    assert "11 runs of 100 steps or more; 12 are the least: fall back" in few.describe()
    short = [
        run.model_copy(update={"planned": run.planned.model_copy(update={"steps": 60})}) for run in run(grid()[:40])
    ]
    assert decide(short, target(), Planning(draws=50)).candidate is None


def test_a_method_without_a_law_is_named() -> None:
    both = ("full", "lora")
    runs = run([*grid()[:24], *grid(("lora",))[:3]])
    decision = decide(runs, target(both), Planning(draws=50))
    assert decision.candidate is not None
    assert decision.candidate.method == "full"
    assert "no law: 3 runs of lora; the hoffmann law needs 7" in decision.warnings
    assert "no law: no runs of lora" in decide(run(grid()[:24]), target(both), Planning(draws=50)).warnings


def test_runs_far_from_the_envelope_are_left_out() -> None:
    """A wrecked run a third above its budget's best changes nothing; one within the window does."""
    runs = run(grid()[:24])
    wreck = PilotRun(planned=grid()[9].model_copy(update={"key": "wreck"}), loss=10 * runs[9].loss)
    assert (
        decide([*runs, wreck], target(), Planning(draws=50)).predicted_loss
        == decide(runs, target(), Planning(draws=50)).predicted_loss
    )
    flop_J = np.array([1.0, 1.0, 2.0])
    assert above_envelope(np.array([2.0, 1.0, 1.5]), flop_J).tolist() == [1.0, 0.0, 0.5]


def test_a_run_as_expensive_as_the_target_is_refused() -> None:
    with pytest.raises(InputError, match="as expensive as the target"):
        decide(run(target().candidates), target())


def test_draws_of_two_methods_are_independent() -> None:
    both = ("full", "lora")
    posterior = fit_posterior(run(grid(both)[:64]), target(both))
    log_BJ = posterior.log_loss(target(both).candidates)
    half = log_BJ.shape[1] // 2
    across = np.asarray(np.corrcoef(log_BJ, rowvar=False))[:half, half:]
    assert np.abs(across).max() < 0.4


def test_settles_on_agreement_trust_and_small_regret() -> None:
    good = Decision(
        candidate=target().candidates[0], trusted=True, expected_regret=1e-4, probability_best=0.9, predicted_loss=2.0,
        noise=0.01, runs=20, flop_spent=1.0,
    )  # fmt: skip
    assert settled([good] * SETTLED)
    assert not settled([good] * (SETTLED - 1))
    for change in ({"candidate": target().candidates[1]}, {"trusted": False}, {"expected_regret": 0.02}):
        assert not settled([*[good] * (SETTLED - 1), good.model_copy(update=change)])


def test_a_failed_run_is_not_asked_for_again() -> None:
    asked: list[str] = []

    def execute(runs: Sequence[PossibleRun]) -> list[PilotRun]:
        asked.extend(run.key for run in runs)
        return run(runs[1:])

    pilot(execute, grid()[:24], target(), 1e20, Planning(batch=8, draws=20))
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(("change", "words"), [({"batch": 0}, "at least 1 run"), ({"draws": 3}, "at least 20")])
def test_senseless_arguments_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Planning(**change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 FLOP or more"):
        plan_next([], grid(), target(), allowance_left=-1.0)
    with pytest.raises(InputError, match="keys of their own"):
        plan_next([], [*grid(), grid()[0]], target(), allowance_left=1e20)


def test_methods_enter_while_the_allowance_pays_for_their_first_runs() -> None:
    """In order; the first one always, one of too few runs never; a dear one makes way for a cheap one."""
    runs = [*runs_at(1e15), *runs_at(3e15, ("lora",)), *runs_at(1e15, ("bias",)), *runs_at(1e15, ("few",))[:6]]
    order = ("full", "few", "lora", "bias")
    for allowance, expected in (
        (0.0, ["full"]),
        (14e15, ["full", "bias"]),
        (28e15, ["full", "lora"]),
        (35e15, ["full", "lora", "bias"]),
    ):
        kept, cost = methods_paid_for(order, runs, allowance / START_MOST * (1 + 1e-9))
        assert kept == expected
    assert cost == pytest.approx({"full": 7e15, "few": math.inf, "lora": 21e15, "bias": 7e15})


def test_the_first_runs_of_a_method_are_on_three_sizes() -> None:
    """Runs of a larger model begin dearer; of two sizes, all the cheapest, no power of N could be told."""
    runs = [
        PossibleRun(key=f"{method} {size} {step}", params=size, tokens=flop / size, flop=flop, method=method)
        for method in ("full", "lora")
        for size in (1e6, 2e6, 1e7, 2e7)
        for step in range(12)
        for flop in [1e9 * size * 1.25**step]
    ]
    goal = PilotTarget(flop=1e18, candidates=tuple(run.model_copy(update={"key": f"{run.key} goal"}) for run in runs))
    alone = [run for run in runs if run.method == "full"]
    least = 1e15 * (sum(1.25**step for step in range(5)) + 2 + 10)
    assert methods_paid_for(["full"], alone, 0.0)[1] == pytest.approx({"full": least})
    for allowance in (4.5e16, 6e16, 1e18):
        start = plan_next([], runs, goal, allowance_left=allowance).runs
        for method in ("full", "lora"):
            assert len({run.params for run in start if run.method == method}) >= 3
        assert sum(run.flop for run in start) <= allowance
