"""Pooling and options as axes: the best runs once more, one thing changed, and no law disturbed."""

from __future__ import annotations

import pytest

from isoembed.core import InputError
from isoembed.fitting.io.ledger import group_runs
from isoembed.laws import law_named
from isoembed.options import PLAIN, Options
from isoembed.recipe import Recipe, Setup
from isoembed.records import RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.plan import Planner
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.stage import VARIATIONS
from isoembed.sweep.variations import Variation, compare, variation_named
from tests.sweep.fake import planted_loss, record, request

SETUP = Setup(batch_pairs=32, context_tokens=75)
ASKED = ("pooling=max", "matryoshka=8,16", "bidirectional")


def varied(**changes: object) -> SweepRequest:
    return request(variations=tuple(variation_named(text, SETUP) for text in ASKED), **changes)


def outcome(recipe: Recipe) -> RunRecord:
    """The planted loss; max pooling costs a tenth of a nat."""
    return record(recipe, planted_loss(recipe) + 0.1 * (recipe.pooling == "max"))


def finished(asked: SweepRequest) -> list[tuple[PlannedRun, RunRecord]]:
    done: list[tuple[PlannedRun, RunRecord]] = []
    while not (plan := Planner(asked, done).plan()).complete:
        done = [(run, outcome(run.recipe)) for run in plan.runs]
    return done


def test_what_may_vary_and_what_may_not() -> None:
    assert variation_named("matryoshka=8,16", SETUP).options == Options(matryoshka=(16, 8))
    assert variation_named("pooling=max", SETUP).pooling == "max"
    assert variation_named("dimensions=8", SETUP).options == Options(dimensions=8)
    both_ways = SETUP.model_copy(update={"pooling": "last", "options": Options(bidirectional=True)})
    varied = variation_named("matryoshka=8", both_ways)
    assert (varied.pooling, varied.options) == ("last", Options(matryoshka=(8,), bidirectional=True))
    for text in (
        "pooling=last",
        "pooling=mean",
        "pooling=first",
        "mask-margin=0.1",
        "matryoshka=0",
        "dimensions=0",
        "prompt=x",
        "",
        "b",
    ):
        with pytest.raises(InputError):
            variation_named(text, SETUP)
    with pytest.raises(InputError, match="must change something"):
        variation_named("bidirectional", both_ways)


def test_the_best_run_of_each_method_is_run_again_with_one_thing_changed() -> None:
    asked = varied(seeds=(0, 1))
    done = finished(asked)
    own = [run for run, _ in done if run.part == VARIATIONS]
    assert len(own) == len(asked.methods) * len(ASKED) * 2
    top: dict[str, list[tuple[float, Recipe]]] = {}
    for run, made in done:
        if run.stage == f"budget {asked.budgets[-1]:.3g}":
            assert made.heldout is not None
            top.setdefault(run.recipe.method.name, []).append((made.heldout.loss, run.recipe))
    for run in own:
        _, best = min(top[run.recipe.method.name], key=lambda entry: entry[0])
        assert run.recipe.model_copy(update={"pooling": "mean", "options": PLAIN, "seed": best.seed}) == best
        assert (run.recipe.pooling != "mean") + (run.recipe.options != PLAIN) == 1


def test_differences_are_those_planted() -> None:
    done = finished(varied())
    found = compare([run for run, _ in done], {run.key: made for run, made in done})
    assert len(found) == 4 * len(ASKED)
    for each in found:
        assert each.difference == pytest.approx(0.1 if each.variation == "max pooling" else 0.0)
    assert {each.variation for each in found} == {"max pooling", "matryoshka 16, 8", "attention both ways"}


def test_laws_are_fitted_to_the_sweep_without_its_variations() -> None:
    """A ledger of which no pooling is most runs' is refused, as before."""
    records = [run for _, run in finished(varied())]
    plain = [run for run in records if (run.recipe.pooling, run.recipe.options) == ("mean", PLAIN)]
    assert len(records) == len(plain) + 4 * len(ASKED)
    with_them, without = (group_runs(runs, [law_named("hoffmann")]) for runs in (records, plain))
    assert [group.points.fingerprint for group in with_them] == [group.points.fingerprint for group in without]
    assert all("12 runs of another pooling or other options left out" in group.notes for group in with_them)
    few = [*plain[:2], *[run for run in records if run.recipe.pooling == "max"][:2]]
    with pytest.raises(InputError, match="pooling mean there, max here"):
        group_runs(few, [law_named("hoffmann")])


def test_variations_of_earlier_versions_are_compared() -> None:
    """Sweeps varied pooling and mask margin once: their ledgers are shown as before."""
    options = Options(mask_margin=0.1)
    asked = request(variations=tuple(Variation(pooling=p, options=o) for p, o in (("max", PLAIN), ("mean", options))))
    asked = SweepRequest.model_validate_json(asked.model_dump_json())
    done = finished(asked)
    found = compare([run for run, _ in done], {run.key: made for run, made in done})
    assert {each.variation for each in found} == {"max pooling", "candidates over 0.1 above the positive masked"}
