"""Scarce pairs as an axis: the best runs and their neighbours on few unique pairs, and no other stage disturbed."""

from __future__ import annotations

import pytest

from isoembed.core import InputError
from isoembed.fitting.io.ledger import group_runs
from isoembed.laws import law_named
from isoembed.recipe import Recipe
from isoembed.records import RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.plan import Plan, Planner
from isoembed.sweep.repetition import compare, pairs_named
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.stage import REPETITION
from tests.sweep.fake import DATA, planted_loss, record, request

PAIRS = (20_000, 40_000)


def outcome(recipe: Recipe) -> RunRecord:
    """The planted loss; each pass beyond the first costs 0.01 nats."""
    passes = recipe.epochs or 0.0
    return record(recipe, planted_loss(recipe) + 0.01 * max(0.0, passes - 1.0))


def finished(asked: SweepRequest) -> tuple[Plan, list[tuple[PlannedRun, RunRecord]]]:
    done: list[tuple[PlannedRun, RunRecord]] = []
    while not (plan := Planner(asked, done).plan()).complete:
        done = [(run, outcome(run.recipe)) for run in plan.runs]
    return plan, done


def test_what_may_be_asked() -> None:
    assert pairs_named("8000,2000,8000") == (2000, 8000)
    for text in ("", "1", "0", "-5", "2e3", "2000,", "many"):
        with pytest.raises(InputError, match="numbers of unique pairs"):
            pairs_named(text)


def test_the_best_size_of_each_method_and_those_beside_it_are_run_on_few_pairs() -> None:
    asked = request(pairs=PAIRS)
    _, done = finished(asked)
    sizes = [model.params for model in asked.family.models]
    for name in asked.methods:
        top = {
            run.recipe: record.heldout.loss
            for run, record in done
            if run.stage == f"budget {asked.budgets[-1]:.3g}" and run.recipe.method.name == name and record.heldout
        }
        best = min(top, key=lambda recipe: top[recipe])
        own = [run.recipe for run, _ in done if run.part == REPETITION and run.recipe.method.name == name]
        assert {recipe.unique_pairs for recipe in own} == set(PAIRS)
        places = {sizes.index(recipe.model.params) - sizes.index(best.model.params) for recipe in own}
        assert {0} < places <= {-1, 0, 1}
        for recipe in own:
            single_epoch = recipe.model_copy(update={"unique_pairs": None})
            same_size = [loss for other, loss in top.items() if other.model == recipe.model]
            assert top[single_epoch] == min(same_size)
            assert recipe.key != single_epoch.key
            assert recipe.epochs is not None
            assert recipe.epochs == pytest.approx(single_epoch.pairs / (recipe.unique_pairs or 0))
            assert 1 < recipe.epochs <= asked.max_pair_epochs


def test_every_run_left_out_has_its_reason() -> None:
    asked = request(pairs=(16, 1000, 20_000, 900_000, 1_000_000), max_pair_epochs=30.0)
    plan, done = finished(asked)
    own = [run.recipe for run, _ in done if run.part == REPETITION]
    assert {recipe.unique_pairs for recipe in own} == {20_000}
    reasons = {skip.reason: skip.why for skip in plan.skipped}
    assert "do not fill a batch of 32" in reasons["fewer pairs than a batch"]
    assert "epochs over 1,000 pairs, 30 are the most" in reasons["too many epochs"]
    assert "epochs over 900,000 pairs" in reasons["the pairs would not repeat"]
    assert "no fewer than the data's 1,000,000" in reasons["no fewer pairs than all"]


def test_the_rest_of_the_sweep_is_the_same_without_it() -> None:
    (_, with_them), (_, without) = finished(request(pairs=PAIRS, seeds=(0, 1))), finished(request(seeds=(0, 1)))
    assert [run.key for run, _ in with_them if run.part != REPETITION] == [run.key for run, _ in without]
    assert max(run.order for run, _ in without) < min(run.order for run, _ in with_them if run.part == REPETITION)
    law = [law_named("hoffmann")]
    grouped, plain = (group_runs([record for _, record in done], law) for done in (with_them, without))
    assert [group.points.fingerprint for group in grouped] == [group.points.fingerprint for group in plain]
    assert sum(len(group.repeats.points) for group in grouped if group.repeats) == len(with_them) - len(without)


def test_what_scarcity_costs_is_what_was_planted() -> None:
    _, done = finished(request(pairs=PAIRS))
    found = compare([run for run, _ in done], {run.key: record for run, record in done})
    assert len(found) == sum(run.part == REPETITION for run, _ in done) > 8
    for each in found:
        assert each.difference == pytest.approx(0.01 * (each.epochs - 1), abs=1e-4)
    assert compare([], {}) == ()


def test_an_earlier_sweep_asks_for_none() -> None:
    old = request().model_dump(mode="json", exclude={"pairs", "max_pair_epochs"})
    assert SweepRequest.model_validate(old) == request()
    assert DATA.pairs == 1_000_000
