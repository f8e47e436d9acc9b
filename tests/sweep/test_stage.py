"""Stages are facts: nothing reads them out of words, but for files of before there were facts."""

from __future__ import annotations

import json

import pytest

from isoembed.notes import Refusal
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.plan import Planner
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.stage import RATES, REASONS, SkipNote, Stage
from tests.sweep.fake import planned_run, record, request

STAGES = (
    RATES,
    Stage(kind="budget", budget=7.8125e10),
    Stage(kind="pilot", batch=2),
    Stage(kind="other", name="claim"),
)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_planned_run_is_read_back_and_one_of_an_older_file_too(stage: Stage) -> None:
    planned = planned_run().model_copy(update={"part": stage})
    value = planned.model_dump(mode="json")
    assert value["stage"] == str(stage)  # what other people's tools read
    assert PlannedRun.model_validate_json(planned.model_dump_json()) == planned
    del value["part"]
    old = PlannedRun.model_validate_json(json.dumps(value))
    assert (old.part.kind, old.stage, old.key) == (stage.kind, planned.stage, planned.key)


def test_budgets_alike_to_three_digits_are_stages_of_their_own() -> None:
    """By its label the second budget took the first one's runs for its own: its best was looked for among both."""
    asked = request(budgets=(1.001e12, 1.002e12, 1.6e12), prune=None)
    done: list[tuple[PlannedRun, object]] = []
    plan = Planner(asked, []).plan()
    assert {each.part.budget for each in plan.runs} == {1.001e12}
    done = [(each, record(each.recipe)) for each in plan.runs]
    planner = Planner(asked, done)  # type: ignore[arg-type] # records are outcomes
    assert {each.part.budget for each in planner.plan().runs} == {1.001e12, 1.002e12}
    assert not planner._grid([1.002e12])
    assert len(planner._grid([1.001e12])) == len(done)


def test_what_is_left_out_has_a_kind_beside_its_words() -> None:
    plan = Planner(request(min_steps=10_000), []).plan()
    assert plan.skipped
    assert {(skip.kind, skip.reason) for skip in plan.skipped} <= set(REASONS.items())
    assert {skip.method_name for skip in plan.skipped} == {"full", "freeze", "bias", "lora"}


def test_a_budget_that_pays_for_no_step_says_which_and_how_far() -> None:
    skipped = Planner(request(budgets=(1e5,), rates=None), []).plan().skipped[0]
    refused = skipped.fact.fields["error"]
    assert isinstance(refused, Refusal)
    assert (skipped.kind, refused.code, refused.fields["flop"]) == ("no-recipe", "one-step", 1e5)
    assert skipped.why == refused.describe()
    assert SkipNote.model_validate_json(skipped.fact.model_dump_json()) == skipped.fact
    assert SkipNote(code="no-recipe", fields={"error": "of an older file"}).reason == "of an older file"


@pytest.mark.parametrize("words", [None, 3, {"kind": "rates"}, "budget much", "pilot 1.5"])
def test_a_stage_that_is_no_words_is_refused(words: object) -> None:
    with pytest.raises(ValueError, match=r"stage must be text|could not convert|invalid literal"):
        Stage.of_older_file(words)


def test_older_names_of_fields_are_read_and_written() -> None:
    """A sweep.json of before the fields had their names goes on, and whoever reads `--json` finds what they did."""
    asked = request(prune=2.0, max_pair_epochs=9.0)
    written = asked.model_dump(mode="json")
    assert (written["thin"], written["max_passes"]) == (2.0, 9.0)
    assert SweepRequest.model_validate(written) == asked == request(thin=2.0, max_passes=9.0)
    assert len(Planner(asked, []).plan().model_dump(mode="json")["cells"]) > 0
