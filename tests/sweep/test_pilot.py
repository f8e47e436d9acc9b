"""A pilot planned as a sweep, with losses from a planted law: what it runs, what it decides, what it refuses."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from isoembed.core import InputError
from isoembed.methods import LoRA
from isoembed.notes import refusal_of
from isoembed.options import Options
from isoembed.pilot.runs import LEAST_RUNS
from isoembed.records import FailedRun, Outcome, RunRecord, ended
from isoembed.report.terminal.sweep import pilot_text
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.pilot import (
    PILOT_METHODS,
    PilotPlanner,
    PilotTooSmallError,
    candidates,
    pilot_budgets,
    pilot_stage,
)
from isoembed.sweep.plan import Plan
from isoembed.sweep.request import SweepRequest
from isoembed.workflows.pilot import fit_pilot
from tests.sweep.fake import planted_loss, record, request, went_on

BRANCHING = Options(schedule="wsd")


def pilot(target: float = 2e13, share: float = 0.05, **changes: object) -> SweepRequest:
    values: dict[str, object] = {
        "methods": PILOT_METHODS,
        "batch_pairs": 8,
        "target_flop": target,
        "allowance_flop": share * target,
    }
    asked = request(**(values | changes))
    return asked.model_copy(update={"budgets": pilot_budgets(asked)})


def complete(asked: SweepRequest) -> Plan:
    """Plan to the end, every run ending with its planted loss."""
    done: list[tuple[PlannedRun, Outcome]] = []
    while not (plan := PilotPlanner(asked, done).plan()).complete:
        known = {run.key for run, _ in done}
        done += [(run, went_on(run)) for run in plan.runs if run.key not in known]
    return plan


@pytest.fixture(scope="module")
def asked() -> SweepRequest:
    return pilot()


@pytest.fixture(scope="module")
def plan(asked: SweepRequest) -> Plan:
    return complete(asked)


def test_chooses_what_the_planted_law_holds_best(asked: SweepRequest, plan: Plan) -> None:
    assert plan.pilot is not None
    decision = plan.pilot.decision
    assert decision.trusted
    assert decision.candidate is not None
    true = {key: planted_loss(recipe) for key, recipe in candidates(asked).items()}
    assert true[decision.candidate.key] <= 1.02 * min(true.values())


def test_stays_within_its_allowance_and_stops_in_words(asked: SweepRequest, plan: Plan) -> None:
    assert asked.allowance_flop is not None
    assert plan.complete
    assert plan.flop <= asked.allowance_flop
    assert plan.pilot is not None
    assert plan.pilot.stop in ("settled", "allowance")
    assert plan.pilot.why
    assert len(plan.runs) >= LEAST_RUNS
    assert all(pilot_stage(run) and run.recipe.steps >= 100 for run in plan.runs)


@pytest.mark.parametrize(("limit", "most"), [("max_params", 60_000), ("max_index_bytes", 4 * 64)])
def test_a_limit_on_sizes_holds_for_what_is_decided_and_what_is_run(limit: str, most: float) -> None:
    """A pilot decided for a size that could not be served."""
    limited = pilot().model_copy(update={limit: most})
    left = {size.name for size in limited.sizes}
    assert 0 < len(left) < len(limited.models)
    assert {each.model.name for each in candidates(limited).values()} <= left
    assert {run.recipe.model.name for run in complete(limited).runs} <= left
    said = io.StringIO()
    Console(file=said, width=200).print(pilot_text(limited, PilotPlanner(limited, []).plan(), None))
    assert f"{len(left)} of {len(limited.family.models)} sizes are left, up to " in said.getvalue()
    with pytest.raises(InputError, match=f"`{limit}` must leave a model"):
        candidates(limited.model_copy(update={limit: 1}))


def test_a_pilot_that_takes_much_of_the_budget_says_what_that_did() -> None:
    said = {}
    for share in (0.1, 0.4):
        asked = pilot()
        assert asked.allowance_flop is not None
        asked = asked.model_copy(update={"target_flop": asked.allowance_flop * (1 - share) / share})
        out = io.StringIO()
        Console(file=out, width=200).print(pilot_text(asked, PilotPlanner(asked, []).plan(), None))
        said[share] = out.getvalue()
    assert "40% of all FLOP" in said[0.4]
    assert "of all FLOP" not in said[0.1]


def test_too_few_pairs_are_not_blamed_on_the_budget() -> None:
    """1e16 FLOP were said not to pay for 30 steps, of which 2,400 pairs at a batch of 1,024 have two."""
    few = pilot().data.model_copy(update={"pairs": 10 * pilot().batch_pairs})
    with pytest.raises(PilotTooSmallError, match=r"are 10 steps of .*Lower `batch_pairs`, or add pairs"):
        candidates(pilot().model_copy(update={"data": few}))


def test_an_allowance_that_would_do_is_not_blamed() -> None:
    """It said that 4.1e+10 FLOP were needed, of an allowance of 7.2e+10: the data were too few."""
    few = pilot().data.model_copy(update={"pairs": 240})
    with pytest.raises(PilotTooSmallError, match=r"the data would repeat \(\d+ runs\).*begin with, bring more pairs"):
        PilotPlanner(pilot(data=few), []).plan()
    with pytest.raises(InputError, match="`max_params` must leave a model"):
        pilot_budgets(pilot().model_copy(update={"max_params": 1}))  # was a traceback


def test_planning_again_changes_nothing(asked: SweepRequest, plan: Plan) -> None:
    done: list[tuple[PlannedRun, Outcome]] = [(run, record(run.recipe)) for run in plan.runs]
    again = PilotPlanner(asked, reversed(done)).plan()
    assert [run.key for run in again.runs] == [run.key for run in plan.runs]
    assert again.pilot == plan.pilot


def test_a_failed_run_is_paid_for_and_not_asked_for_again(asked: SweepRequest) -> None:
    first = PilotPlanner(asked, []).plan()
    bad = first.runs[0]
    failed = FailedRun(recipe=bad.recipe, key=bad.key, notes=(ended("diverged", "text", text="x"),), created="now")
    done: list[tuple[PlannedRun, Outcome]] = [(bad, failed), *((run, record(run.recipe)) for run in first.runs[1:])]
    plan = PilotPlanner(asked, done).plan()
    assert plan.stage == "pilot 2"
    assert [run.key for run in plan.runs].count(bad.key) == 1
    assert plan.pilot is not None
    assert plan.pilot.decision.runs == len(first.runs) - 1
    assert plan.flop == pytest.approx(math.fsum(run.recipe.flop for run in plan.runs))


def test_methods_that_the_allowance_does_not_pay_for_are_named() -> None:
    plan = PilotPlanner(pilot(share=0.022), []).plan()
    ran = {run.recipe.method.name for run in plan.runs}
    left_out = {skip.reason.removeprefix("no allowance for ") for skip in plan.skipped if "no allow" in skip.reason}
    assert "full" in ran
    assert left_out
    assert ran | left_out == set(PILOT_METHODS)
    assert not ran & left_out


def test_an_allowance_for_too_few_runs_is_refused() -> None:
    with pytest.raises(PilotTooSmallError, match=r"needs 12 runs of 100 steps .* Raise it or the budget"):
        PilotPlanner(pilot(target=1e12, share=0.01), []).plan()
    # no run at all lies below this target: "about nan FLOP" was needed
    with pytest.raises(PilotTooSmallError, match=r"about \d"):
        PilotPlanner(pilot(target=6e9), []).plan()
    with pytest.raises(InputError, match="target budget and an allowance"):
        pilot_budgets(request())


def needed(share: float, options: Options) -> float:
    """The allowance, FLOP, that a pilot refused for its own says it needs."""
    with pytest.raises(PilotTooSmallError) as refused:
        PilotPlanner(pilot(share=share, options=options), []).plan()
    fact = refusal_of(refused.value)
    assert fact.code == "pilot-allowance"
    return float(fact.fields["needed"])  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [Options(), BRANCHING])
@pytest.mark.parametrize("share", [1e-4, 1e-3, 2e-3])
def test_the_allowance_that_is_said_to_do_does(share: float, options: Options) -> None:
    """It was a mean of too few runs, so that who raised it to that was told a larger one."""
    flop = needed(share, options)
    assert PilotPlanner(pilot(share=1.02 * flop / 2e13, options=options), []).plan().runs
    with pytest.raises(PilotTooSmallError):
        PilotPlanner(pilot(share=flop / 2e13 / 2, options=options), []).plan()


def test_with_wsd_longer_runs_go_on_from_shorter_ones(asked: SweepRequest) -> None:
    """A pilot ran each of its runs from scratch; now what has been trained is not paid for again."""
    branching = asked.model_copy(update={"options": BRANCHING})
    plan = complete(branching)
    place = {run.key: number for number, run in enumerate(plan.runs)}
    going_on = [run for run in plan.runs if run.extends is not None]
    assert len(going_on) > len(plan.runs) / 4
    for run in going_on:
        assert run.extends is not None
        origin = plan.runs[place[run.extends]]
        assert place[origin.key] < place[run.key]
        assert origin.keeps_trunk
        assert run.inherited_flop == origin.recipe.trunk_flop > 0
        assert run.recipe == origin.recipe.extended(run.recipe.train_tokens)
    assert plan.flop == pytest.approx(sum(run.own_flop for run in plan.runs))
    assert branching.allowance_flop is not None
    assert plan.flop <= branching.allowance_flop
    assert plan.flop < 0.9 * sum(run.recipe.flop for run in plan.runs)
    assert plan.pilot is not None
    assert plan.pilot.decision.trusted
    assert needed(1e-3, BRANCHING) < 0.8 * needed(1e-3, Options())


@pytest.mark.parametrize("loss", ["trunk", "run"])
def test_what_is_lost_is_paid_from_the_allowance(loss: str) -> None:
    """Fails where a run that could not go on from another, whose trunk is gone or which failed, counts as if it had:
    a pilot spent up to a quarter more than it was allowed."""
    branching = pilot(options=BRANCHING)
    allowance = branching.allowance_flop
    assert allowance is not None
    done: list[tuple[PlannedRun, Outcome]] = []
    while not (plan := PilotPlanner(branching, done).plan()).complete:
        known = {run.key for run, _ in done}
        for run in plan.runs:
            if run.key in known:
                continue
            end: Outcome = record(run.recipe) if loss == "trunk" else went_on(run)
            if loss == "run" and len(done) < 5:
                note = ended("error", "text", text="x")
                end = FailedRun(recipe=run.recipe, key=run.key, notes=(note,), created="")
            done.append((run, end))
    spent = sum(
        run.recipe.flop if not isinstance(end, RunRecord) or end.inherited is None else end.own_flop
        for run, end in done
    )
    assert plan.flop == pytest.approx(spent)
    assert spent <= 1.05 * allowance, "the last batch alone may cost more than was planned"
    gone = {run.key for run, end in done if isinstance(end, FailedRun)}
    assert not gone & {run.extends for run in plan.runs if run.key not in gone}


def test_a_run_is_planned_after_those_of_its_batch_that_it_goes_on_from() -> None:
    """Two workers would train them side by side, each from scratch."""
    branching = pilot(options=BRANCHING)
    first = PilotPlanner(branching, []).plan()
    assert first.stage == "pilot 1"
    assert {run.extends for run in first.runs} == {None}
    done: list[tuple[PlannedRun, Outcome]] = [(run, went_on(run)) for run in first.runs]
    second = PilotPlanner(branching, done).plan()
    assert second.stage == "pilot 1"
    assert {run.extends for run in second.runs[len(first.runs) :]} <= {run.key for run in first.runs}
    assert len(second.runs) > len(first.runs)


def test_a_request_for_a_pilot_has_an_allowance() -> None:
    """A damaged `sweep.json` is refused when it is read."""
    asked = pilot().model_dump()
    for change, match in (
        ({"allowance_flop": None}, "for 2e\\+13 FLOP needs an allowance"),
        ({"target_flop": -1.0}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=match):
            SweepRequest.model_validate({**asked, **change})


def test_candidates_stay_within_one_pass_and_the_memory() -> None:
    found = candidates(pilot(target=1e15))
    assert all((recipe.epochs or 0) <= 1.001 for recipe in found.values())
    assert {recipe.model.name for recipe in found.values()} > {"nano-3.1m"}
    small = candidates(pilot(target=1e15, max_bytes=8.2e8))
    assert 0 < len(small) < len(found)


def test_its_laws_recommend_by_method_whatever_the_rank(asked: SweepRequest, plan: Plan, tmp_path: Path) -> None:
    """LoRA's rank goes with the width: on every size it is one method with one law."""
    folder = SweepFolder(tmp_path)
    folder.add_runs(list(plan.runs))
    for run in plan.runs:
        folder.ledger.add(record(run.recipe))
    assert plan.pilot is not None
    found = fit_pilot(folder, asked, plan.pilot)
    assert found.laws is not None
    assert found.flop == pytest.approx(plan.flop)
    assert (found.runs, found.facts) == (len(plan.runs), (plan.pilot.reason,))
    ranks = {run.recipe.method.rank for run in plan.runs if isinstance(run.recipe.method, LoRA)}
    assert len(ranks) > 1
    methods = [law.method for law in found.laws.laws]
    assert len(set(methods)) == len(methods)
    assert {"full", "lora"} <= set(methods)
    assert json.loads(found.laws.model_dump_json())["laws"][0]["settings"]["batch_pairs"] == 8


def test_a_pilot_not_to_be_trusted_has_no_laws(asked: SweepRequest, plan: Plan, tmp_path: Path) -> None:
    few = list(plan.runs)[: LEAST_RUNS - 1]
    folder = SweepFolder(tmp_path)
    folder.add_runs(few)
    for run in few:
        folder.ledger.add(record(run.recipe))
    choice = PilotPlanner(asked, [(run, record(run.recipe)) for run in few]).plan().pilot
    assert choice is not None
    found = fit_pilot(folder, asked, choice)
    assert found.laws is None
    few_runs = next(fact for fact in found.facts if fact.code == "few-runs")
    assert "are the least" in few_runs.describe()
