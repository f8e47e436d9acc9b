"""The plan: a pure function of what was asked and what has ended; what it leaves out, it names."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rich.console import Console

from isoembed.families import NANO, PYTHIA
from isoembed.families.base import Family, ModelSpec
from isoembed.families.bloom import BLOOM
from isoembed.families.opt import OPT
from isoembed.methods import Freeze, LoRA, Norms
from isoembed.options import Options, Teacher
from isoembed.recipe import Setup
from isoembed.records import FailedRun, Ledger, Outcome, ended
from isoembed.report.terminal.sweep import plan_text
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.pilot import candidates
from isoembed.sweep.plan import Plan, Planner, at_most, variants
from isoembed.sweep.rates import RateFit, RateOptimum, fit_rates, setting_of
from isoembed.sweep.request import RateSearch, SweepRequest, some_of
from isoembed.sweep.stage import RATES, REMEDIES, Stage
from tests.sweep.fake import SEARCH, record, request, went_on


def complete(asked: SweepRequest) -> Plan:
    """Plan to the end, every run ending with its planted loss."""
    done: list[tuple[PlannedRun, Outcome]] = []
    while not (plan := Planner(asked, done).plan()).complete:
        done = [(run, went_on(run)) for run in plan.runs]
    return plan


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_study_that_ships_is_planned_again_key_for_key() -> None:
    """A recipe's key is its run's name: one that changes orphans every run made before.  The request and the records
    are as an older version wrote them; each run is planned from those before it."""
    asked = SweepRequest.model_validate_json((RESULTS / "nano_study.request.json").read_bytes())
    outcomes = Ledger.open(RESULTS / "nano_study.jsonl.gz").outcomes()
    plan = Planner(
        asked, [(PlannedRun(recipe=each.recipe, part=Stage(kind="other")), each) for each in outcomes]
    ).plan()
    assert plan.complete
    assert len(plan.runs) == 267
    assert {run.key for run in plan.runs} <= {each.key for each in outcomes}


def test_rates_of_another_processor_are_those_of_the_runs_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares ended in another last digit there: every run of a sweep that went on was planned anew."""
    asked = request(rates=SEARCH)
    there = complete(asked)
    done = [(run, went_on(run)) for run in there.runs]

    def elsewhere(found: Iterable[RateOptimum]) -> dict[str, RateFit]:
        return {
            name: fit.model_copy(
                update={"law": fit.law.model_copy(update={"constant": fit.law.constant * (1 + 1e-14)})}
            )
            for name, fit in fit_rates(found).items()
        }

    monkeypatch.setattr("isoembed.sweep.plan.fit_rates", elsewhere)
    here = Planner(asked, done).plan()
    assert here.complete
    assert [run.key for run in here.runs] == [run.key for run in there.runs]
    assert not {run.key for run in complete(asked).runs} <= {run.key for run in there.runs}  # it makes a difference


@pytest.mark.parametrize("family", [OPT, BLOOM], ids=lambda family: family.name)
def test_planning_twice_adds_nothing_where_rates_of_two_settings_are_a_digit_apart(
    family: Family, tmp_path: Path
) -> None:
    """1e-05 of one setting was taken for the 9.999999999999999e-06 of another."""
    models = tuple(model.name for model in family.models[:6])
    flop = 6 * max(model.params for model in family.models[:6]) * 60 * 32 * 150
    search = RateSearch(models=some_of(models))
    asked = request(
        family=family, models=models, budgets=(flop, 4 * flop), methods=("full", "freeze", "lora"), rates=search
    )
    assert plan_sweep(tmp_path, asked)[1]
    assert plan_sweep(tmp_path)[1] == 0


def test_every_run_has_the_requests_setup() -> None:
    """The temperature was put on afterwards, by hand, and missing from what a pilot decides between."""
    setup = Setup(batch_pairs=64, context_tokens=48, temperature=0.07, pooling="max", options=Options(mask_margin=0.1))
    asked = request(**dict(setup), rates=SEARCH)
    assert all(run.recipe.setup == setup for run in Planner(asked, []).plan().runs)
    pilot = asked.model_copy(update={"target_flop": 1e14, "allowance_flop": 5e12})
    assert all(recipe.setup == setup for recipe in candidates(pilot).values())


def test_hyperparameters_as_in_the_paper() -> None:
    """Sixths of 6 and 12 blocks, eighths of 16 and more, every block of fewer; LoRA ranks relative to the width."""
    fractions = {
        m.name: [v.fraction for v in variants("freeze", m, 2.0) if isinstance(v, Freeze)] for m in PYTHIA.models
    }
    assert fractions["pythia-70m"] == fractions["pythia-160m"] == pytest.approx([n / 6 for n in range(1, 7)])
    assert fractions["pythia-1b"] == fractions["pythia-2.8b"] == pytest.approx([n / 8 for n in range(1, 9)])
    assert [v.fraction for v in variants("freeze", NANO.model("nano-28k"), 2.0) if isinstance(v, Freeze)] == [
        0.25,
        0.5,
        0.75,
        1.0,
    ]
    ranks = [v for v in variants("lora", NANO.model("nano-1.6m"), 2.0) if isinstance(v, LoRA)]
    assert [(v.rank, v.alpha) for v in ranks] == [(8, 16.0), (16, 32.0), (32, 64.0), (64, 128.0)]


def test_other_methods_are_swept_over_the_same_ranks() -> None:
    model = NANO.model("nano-1.6m")
    ranks = ["qlora r=8", "qlora r=16", "qlora r=32", "qlora r=64"]
    assert [m.label for m in variants("qlora", model, 2.0)] == ranks
    assert variants("norms", model, 2.0) == [Norms()]
    runs = Planner(request(methods=("norms", "lora-top"), pooling="max"), []).plan().runs
    assert {run.recipe.method.name for run in runs} == {"norms", "lora-top"}
    assert {run.recipe.pooling for run in runs} == {"max"}


LIMITS = [
    ("max_params", 60_000, lambda size: size.params),
    ("max_index_bytes", 4 * 64, lambda size: 4 * size.hidden),
    ("max_query_flop", 2 * 20 * 60_000, lambda size: 2 * 20 * size.params),  # queries of 20 tokens
]


@pytest.mark.parametrize(("limit", "most", "measure"), LIMITS, ids=[name for name, *_ in LIMITS])
def test_sizes_above_a_limit_are_left_out_by_reason(
    limit: str, most: float, measure: Callable[[ModelSpec], float]
) -> None:
    """A sweep spent its allowance on sizes that could not be served; and searched for rates on them."""
    free = request(rates=SEARCH, seeds=(0, 1))
    asked = request(rates=SEARCH, seeds=(0, 1), **{limit: most})
    left = {size.name for size in map(NANO.model, asked.models) if measure(size) <= most}
    assert 0 < len(left) < len(asked.models)
    plan = complete(asked)
    assert {run.recipe.model.name for run in plan.runs} == left
    searched = {run.recipe.model.name for run in plan.runs if run.part == RATES}
    assert (searched <= left, len(searched)) == (True, min(3, len(left)))  # not one of three, where the others are out
    out = [skip for skip in plan.skipped if skip.kind == limit]
    assert {skip.model for skip in out} == set(asked.models) - left
    grid = sum(
        len(variants(name, NANO.model(model), 2.0)) for name in asked.methods for model in set(asked.models) - left
    )
    assert len(out) == grid * len(asked.budgets)
    assert {(skip.model, skip.fact.fields["seen"]) for skip in out} == {
        (name, measure(NANO.model(name))) for name in set(asked.models) - left
    }
    kept = [run.key for run in Planner(request(**{limit: most}), []).plan().runs]
    every = Planner(request(), []).plan().runs
    assert set(kept) == {run.key for run in every if run.recipe.model.name in left}  # a limit is in no run's key
    assert {f"`{limit}`"} <= set(REMEDIES[limit].replace(",", "").split())  # type: ignore[index]
    assert limit in asked.differences(free)
    nothing = Planner(request(rates=SEARCH, seeds=(0, 1), **{limit: 1}), []).plan()
    assert (nothing.runs, nothing.complete) == ((), True)
    said = io.StringIO()  # headings stood over nothing
    asked = request(**{limit: 1})
    Console(file=said, width=200).print(plan_text(asked, nothing, at_most(asked), 0))
    assert "No run is planned" in said.getvalue()
    assert "what it is for" not in said.getvalue()


def test_narrower_matryoshka_keeps_a_wide_size() -> None:
    narrow = request(max_index_bytes=4 * 32, options=Options(matryoshka=(32,)))
    assert [size.name for size in narrow.sizes] == list(narrow.models)
    assert 0 < len(request(max_index_bytes=4 * 32).sizes) < len(narrow.models)


def test_each_stage_waits_for_the_one_before() -> None:
    plan = Planner(request(rates=SEARCH), []).plan()
    assert {run.stage for run in plan.runs} == {"rates"}
    assert not plan.complete
    plan = Planner(request(), []).plan()
    assert {run.stage for run in plan.runs} == {"budget 1e+11"}


def test_with_wsd_larger_budgets_extend_smaller_ones_at_one_rate() -> None:
    """The rate is looked for at the smallest budget alone; what a run inherits is not counted again."""
    names = ("nano-28k", "nano-113k", "nano-389k")
    few = {"models": names, "methods": ("full", "lora")}
    asked = request(rates=RateSearch(models=names, steps=()), options=Options(schedule="wsd"), prune=None, **few)
    plan = complete(asked)
    search = [run for run in plan.runs if run.part == RATES]
    ladders: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs[len(search) :]:
        ladders.setdefault((run.recipe.model.name, run.recipe.method.label), []).append(run)
    assert max(map(len, ladders.values())) == len(asked.budgets)
    for ladder in ladders.values():
        assert len({(run.recipe.learning_rate, run.recipe.whole_warmup_tokens) for run in ladder}) == 1
        first, name = ladder[0].recipe, ladder[0].recipe.model.name
        assert ladder[0].extends is None
        assert {
            run.recipe.train_tokens
            for run in search
            if run.recipe.model.name == name and run.recipe.method == first.method
        } <= {first.train_tokens}
        for shorter, run in itertools.pairwise(ladder):
            trunk = shorter.recipe.trunk_tokens
            assert (run.extends, shorter.keeps_trunk) == (shorter.key, True)
            assert trunk is not None
            assert run.inherited_flop == pytest.approx(trunk * run.recipe.flop / run.recipe.train_tokens)
        assert not any(run.keeps_trunk for run in ladder if run.recipe.flop > 0.99 * asked.budgets[-1])
    assert plan.flop == pytest.approx(sum(run.recipe.flop - run.inherited_flop for run in plan.runs))
    assert plan.flop < 0.9 * sum(run.recipe.flop for run in plan.runs)
    assert {run.extends for run in complete(request(rates=SEARCH)).runs} == {None}


def test_what_a_teacher_read_for_a_shorter_run_is_not_paid_again() -> None:
    taught = Options(
        schedule="wsd", teacher=Teacher(source="./t", weights="w", params=10_000, width=8, context=128, weight=0.5)
    )
    names = ("nano-28k", "nano-113k", "nano-389k")
    rates = RateSearch(models=names, steps=())
    asked = request(models=names, methods=("full",), options=taught, rates=rates, prune=None)
    plan = complete(asked)
    longer = [run for run in plan.runs if run.extends]
    assert longer
    for run in longer:
        share = run.inherited_flop / run.recipe.flop
        assert run.inherited_teacher_flop == pytest.approx(share * run.recipe.teacher_flop)
    spent = sum(run.recipe.total_flop - run.inherited_flop - run.inherited_teacher_flop for run in plan.runs)
    assert plan.flop == pytest.approx(spent)


def test_planning_again_changes_nothing() -> None:
    plan = complete(request(rates=SEARCH))
    done: list[tuple[PlannedRun, Outcome]] = [(run, record(run.recipe)) for run in plan.runs]
    again = Planner(request(rates=SEARCH), reversed(done)).plan()
    assert [run.key for run in again.runs] == [run.key for run in plan.runs]


def test_a_failed_run_does_not_hold_up_the_next_stage() -> None:
    first = Planner(request(), []).plan()
    bad = first.runs[0]
    failed = FailedRun(recipe=bad.recipe, key=bad.key, notes=(ended("diverged", "text", text="x"),), created="now")
    done: list[tuple[PlannedRun, Outcome]] = [(bad, failed), *((run, record(run.recipe)) for run in first.runs[1:])]
    assert Planner(request(), done).plan().stage == "budget 4e+11"


def test_no_run_repeats_the_data_or_is_too_short() -> None:
    asked = request(budgets=(1e11, 4e11, 6.4e12), prune=None)
    plan = complete(asked)
    assert all((run.recipe.epochs or 0) <= 1 and run.recipe.steps >= 100 for run in plan.runs)
    reasons = {
        skip.why.split(" ", 1)[1].split(",")[0] if "steps" in skip.why else skip.why[:22] for skip in plan.skipped
    }
    assert reasons == {"steps", "the data would repeat "}
    kinds = sum(len(variants(name, model, 2.0)) for name in asked.methods for model in NANO.models[:6])
    assert len(plan.runs) + len(plan.skipped) == 3 * kinds


def test_high_budgets_are_pruned_around_the_optimum_only() -> None:
    full, pruned = complete(request(prune=None)), complete(request(prune=4.0))
    assert len(pruned.runs) < len(full.runs)
    assert pruned.flop < full.flop
    top = [record(run.recipe) for run in full.runs if run.stage == "budget 6.4e+12"]
    best = min(top, key=lambda run: run.heldout.loss if run.heldout else 9)
    assert best.key in {run.key for run in pruned.runs}
    assert any("from the expected best" in skip.why for skip in pruned.skipped)
    assert any("not beside the best" in skip.why for skip in pruned.skipped)


def test_the_allowance_is_never_exceeded() -> None:
    for allowance in (1e12, 1e13):
        plan = complete(request(rates=SEARCH, allowance_flop=allowance))
        assert plan.flop <= allowance
        assert any(skip.why == "the allowance is spent" for skip in plan.skipped)


def test_the_promised_time_contains_what_runs_and_workers_take_beside_steps() -> None:
    """27 s were promised and 104 s taken: an allowance of time would be overspent too."""
    names = [model.name for model in NANO.models[:6]]
    pace = {"speeds": dict.fromkeys(names, 1e12), "run_seconds": dict.fromkeys(names, 3.0), "startup_seconds": 20.0}
    plan = Planner(request(**pace), []).plan()
    assert plan.seconds == pytest.approx(20.0 + 3.0 * len(plan.runs) + plan.flop / 1e12)
    allowed = Planner(request(**pace, allowance_seconds=30.0), []).plan()
    assert len(allowed.runs) == 3
    assert allowed.seconds is not None
    assert allowed.seconds <= 30.0


def test_runs_that_need_more_memory_are_named() -> None:
    plan = Planner(request(max_bytes=1.0), []).plan()
    assert not plan.runs
    assert any("GiB of memory" in skip.why for skip in plan.skipped)


def test_no_sweep_has_more_runs_than_it_said_at_most() -> None:
    """The search for rates is widened where the best one lies on an edge, and what it finds is no rate that was tried:
    67 runs of 58 "at most"."""
    asked = request(rates=RateSearch(models=SEARCH.models, factor=1.2), methods=("full", "lora"), prune=None)
    bound, plan = at_most(asked), complete(asked)
    searched = sum(run.part == RATES for run in plan.runs)
    assert searched > 3 * len({setting_of(run.recipe) for run in plan.runs if run.part == RATES})
    kept = [run for run in plan.runs if run.part.kind in ("rates", "noise", "budget")]
    assert len(kept) <= len(bound.runs)
    assert sum(run.recipe.flop for run in kept) <= bound.flop
