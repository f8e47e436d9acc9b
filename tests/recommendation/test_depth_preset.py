"""The law that ships along the depth of SmolLM2-135M: for the file that it was measured on, and for no other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.families.base import Family
from isoembed.families.known import has_measured_weights
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import LoRA
from isoembed.options import Options
from isoembed.recipe import DataStats, PartialSetup
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import recommend, shipped_law
from isoembed.records import Ledger, RunRecord
from isoembed.sweep.request import SweepRequest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REQUEST = SweepRequest.model_validate_json((RESULTS / "depth_study.request.json").read_bytes())


def records() -> list[RunRecord]:
    outcomes = Ledger.open(RESULTS / "depth_study.jsonl.gz").outcomes()
    return [outcome for outcome in outcomes if isinstance(outcome, RunRecord)]


def of_another_file(family: Family) -> Family:
    """The same shapes with other weights."""
    models = []
    for spec in family.models:
        assert spec.file is not None
        models.append(spec.model_copy(update={"file": spec.file.model_copy(update={"sha256": "0" * 64})}))
    return family.model_copy(update={"models": tuple(models)})


@pytest.mark.parametrize("flop", [4e12, 1.6e13])
def test_it_names_what_came_near_the_best_run_of_a_budget(flop: float) -> None:
    """Within 5 % of the least loss that was seen there, and its forecast within its interval."""
    found = recommend(flop, REQUEST.family, data=REQUEST.data)
    assert found.loss is not None
    assert found.recipe.batch_pairs == REQUEST.batch_pairs
    near = [each for each in records() if abs(each.model_flop / flop - 1) < 0.05 and each.steps != 60 and each.heldout]
    best = min(each.heldout.loss for each in near if each.heldout is not None)
    same = [
        each.heldout.loss
        for each in near
        if each.heldout is not None
        and (each.recipe.model.name, each.recipe.method) == (found.recipe.model.name, found.recipe.method)
    ]
    assert min(same) < 1.05 * best
    low, high = found.loss.ends
    assert low < min(same) < high


def test_other_weights_of_the_same_shape_have_no_law() -> None:
    assert all(map(has_measured_weights, REQUEST.family.models))
    other = of_another_file(REQUEST.family)
    assert not any(map(has_measured_weights, other.models))
    assert recommend("1.6e13", other, data=REQUEST.data).loss is None
    assert recommend("1.6e13", other, data=REQUEST.data, law=shipped_law("smollm2-135m@")).loss is not None


def test_a_method_without_its_hyperparameters_has_those_of_the_law() -> None:
    """`--method lora` was taken for rank 32, which no run had, and refused."""
    open_rank = recommend("1.6e13", REQUEST.family, data=REQUEST.data, method="lora")
    allowed = recommend("1.6e13", REQUEST.family, data=REQUEST.data, constraints=Constraints(methods=("lora",)))
    assert open_rank.recipe == allowed.recipe
    assert open_rank.loss == allowed.loss
    assert open_rank.loss is not None
    asked = [recommend(2e11, NANO, method=label) for label in ("lora", "lora r=6", "lora r=32", LoRA(rank=32))]
    assert asked[0].recipe.method != asked[2].recipe.method == asked[3].recipe.method == LoRA(rank=32)
    losses = [math.inf if each.loss is None or each.loss.value is None else each.loss.value for each in asked]
    assert losses[0] == min(losses) < math.inf


def test_at_other_settings_the_law_that_ships_gives_its_batch_and_when_asked_its_order() -> None:
    """An option took the whole family to its rule, at a batch of 1,024 and 9 steps, whatever was said."""
    setup = PartialSetup(options=Options(ema_decay=0.9))
    guess = recommend("1.6e13", REQUEST.family, data=REQUEST.data, setup=setup)
    assert (guess.recipe.batch_pairs, guess.loss) == (REQUEST.batch_pairs, None)
    assert "options none there, weights averaged, EMA of decay 0.9 here" in guess.assumed[-1]
    assert "can be had by `other_settings`" in guess.assumed[-1]
    plain = recommend("1.6e13", REQUEST.family, data=REQUEST.data)
    order = recommend("1.6e13", REQUEST.family, data=REQUEST.data, setup=setup, other_settings=True)
    assert (order.recipe.model, order.recipe.method) == (plain.recipe.model, plain.recipe.method)
    assert order.recipe.options.ema_decay == 0.9
    assert order.loss is None
    assert plain == recommend("1.6e13", REQUEST.family, data=REQUEST.data, other_settings=True)


def test_who_takes_the_advice_keeps_the_laws_order() -> None:
    """`recipe` named options that gain, and with them it fell back to the rule: full fine-tuning of one block."""
    plain = recommend("5e13", REQUEST.family, data=REQUEST.data)
    assert any(each.code == "objective-of-sources" for each in plain.notes)
    together = Options(hardness_strength=5, bidirectional=True)  # of three that were judged together
    for options in (Options(hardness_strength=5, batch_by="source"), Options(hardness_strength=5), together):
        found = recommend("5e13", REQUEST.family, data=REQUEST.data, setup=PartialSetup(options=options))
        assert (found.recipe.model, found.recipe.method) == (plain.recipe.model, plain.recipe.method)
        assert (found.recipe.options, found.loss) == (options, None)
        (said,) = [each for each in found.notes if each.code == "other-settings" and each.kind != "no-forecast"]
        assert said.kind == "assumed"
    deeper = REQUEST.family.model_copy(update={"models": REQUEST.family.models[2:5]})
    for family, setup in ((deeper, Options(hardness_strength=5)), (NANO, together)):  # the advice was given there too
        alone = recommend("1.6e13", family, data=REQUEST.data)
        found = recommend("1.6e13", family, data=REQUEST.data, setup=PartialSetup(options=setup))
        assert any(each.code.startswith("objective") for each in alone.notes)
        assert (found.recipe.model, found.recipe.method) == (alone.recipe.model, alone.recipe.method)
    laws = shipped_law("smollm2-135m@")
    assert laws is not None
    both_ways = LawSet(
        laws=tuple(
            law.model_copy(
                update={"settings": law.settings.model_copy(update={"options": Options(bidirectional=True)})}
            )
            for law in laws.laws
        )
    )
    advised = PartialSetup(options=Options(hardness_strength=5))
    with pytest.raises(InputError, match="attention both ways there"):  # the advice is beside plain runs
        recommend("5e13", REQUEST.family, data=REQUEST.data, law=both_ways, setup=advised)
    more = PartialSetup(options=Options(hardness_strength=5, ema_decay=0.9))  # which nobody judged together
    assert (
        "can be had by `other_settings`" in recommend("5e13", REQUEST.family, data=REQUEST.data, setup=more).assumed[-1]
    )


def test_hyperparameters_of_which_a_law_knows_nothing_go_by_the_rule() -> None:
    """They were refused, with no way to train them on the one model that a law ships for."""
    found = recommend("1.6e13", REQUEST.family, data=REQUEST.data, method="lora r=20", model="smollm2-135m@2")
    assert (found.recipe.method.label, found.recipe.model.name, found.loss) == ("lora r=20", "smollm2-135m@2", None)
    assert recommend("1e12", NANO, constraints=Constraints(methods=("qlora",))).recipe.method.name == "qlora"


def test_a_method_can_be_named_and_norms_have_no_law() -> None:
    laws = shipped_law("smollm2-135m@")
    assert laws is not None
    assert {law.method for law in laws.laws} == {"full", "freeze", "lora"}
    lora = recommend("1.6e13", REQUEST.family, data=REQUEST.data, method="lora r=36").recipe
    assert isinstance(lora.method, LoRA)
    assert lora.data == DataStats.model_validate(REQUEST.data)
