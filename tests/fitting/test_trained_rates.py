"""Recipes by a law are trained at the rates of its runs, by a factor on the family's own rule and no more."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from isoembed.families import NANO
from isoembed.families.base import BORROWED_RATES, Family, RateRule
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.fitting.trained_rates import RateFactor, TrainedRate, rate_factor
from isoembed.laws import law_named
from isoembed.methods import Full
from isoembed.recipe import Recipe
from isoembed.recommendation.recommend import recommend
from isoembed.records import RunRecord
from isoembed.workflows.models import family_named
from isoembed.workflows.pilot import pilot_laws
from tests.fitting.ledgers import BUDGETS, TRUTH, lora, planned, runs
from tests.sweep.fake import record, request

ONLY_FULL = {"full": TRUTH["full"]}
RECIPES = [
    planned(flop, model, method) for flop in BUDGETS[4:] for model in NANO.models for method in (Full(), lora(model))
]


def own_rate(recipe: Recipe, family: Family = NANO) -> float:
    return family.peak_rate(recipe.model, recipe.method, steps=recipe.steps)[0]


def at(rate: Callable[[Recipe], float], recipes: list[Recipe] = RECIPES) -> list[Recipe]:
    return [each.model_copy(update={"learning_rate": rate(each)}) for each in recipes]


def factor(recipes: list[Recipe], family: Family = NANO) -> RateFactor | None:
    return rate_factor(map(TrainedRate.of, recipes), family)


def test_the_factor_on_the_family_s_rule_is_found() -> None:
    found = factor(at(lambda each: 3 * own_rate(each)))
    assert found is not None
    assert found.factor == pytest.approx(3.0, rel=0.01)
    assert found.runs == len(RECIPES)
    assert found.noise < 0.02
    assert factor(at(own_rate)) is None


def test_one_run_says_no_exponent() -> None:
    """A rule through few runs was off by a factor of hundreds at a budget ten times theirs."""
    only = factor(at(lambda each: 2 * own_rate(each), RECIPES[:1]))
    assert only is not None
    assert only.factor == pytest.approx(2.0, rel=1e-3)
    assert only.runs == 1


def test_a_family_s_own_rules_are_compared_with() -> None:
    """A family of the user's own was compared with borrowed rules."""
    rates = (RateRule(method="full", fixed=6e-4, source="mine"), *BORROWED_RATES[1:])
    mine = Family(name="mine", models=NANO.models, rates=rates, about="")
    assert factor(at(lambda each: own_rate(each, mine)), mine) is None


def test_the_factor_is_that_of_all_runs_whichever_models_are_asked_about() -> None:
    """It was that of the runs on the models listed: none of a family without them, another one of some of them."""
    recipes = at(lambda each: (5 if each.model.name in ("nano-51k", "nano-113k") else 1) * own_rate(each))
    found = factor(recipes)
    assert found is not None
    some = NANO.model_copy(update={"models": (NANO.model("nano-28k"), NANO.model("nano-51k"))})
    assert factor(recipes, some) == found
    cuts, others = family_named("nano-1.6m@1,2"), family_named("nano-1.6m@3")
    runs = [planned(flop, model, Full()) for flop in BUDGETS[4:] for model in cuts.models]
    seen = factor(at(lambda each: 3 * own_rate(each, cuts), runs), others)
    assert seen is not None
    assert seen.factor == pytest.approx(3.0, rel=0.01)


def law_of(records: list[RunRecord]) -> LawSet:
    law = law_named("hoffmann")
    groups = group_runs(records, [law])
    return LawSet(laws=tuple(study([law], group, source="runs", draws=200, by=()) for group in groups))


def test_a_recipe_by_a_law_has_the_rates_of_its_runs() -> None:
    """Fails where the search of a user's sweep is forgotten, and recipes by its law get the family's rates."""
    found = runs()
    recipes = at(lambda each: 3 * own_rate(each), [each.recipe for each in found])
    laws = law_of([each.model_copy(update={"recipe": made}) for each, made in zip(found, recipes, strict=True)])
    small = NANO.models[1]
    for method in (Full(), lora(small)):
        advice = recommend("1e12", NANO, law=laws, model=small.name, method=method, other_settings=True)
        assert advice.recipe.learning_rate == pytest.approx(3 * own_rate(advice.recipe), rel=0.02)
        assert any("times that, as the law's own" in each.describe() for each in advice.notes)
    without = LawSet(laws=tuple(law.model_copy(update={"trained_rates": ()}) for law in laws.laws))
    other = recommend("1e12", NANO, law=without, method="full").recipe
    assert other.learning_rate == pytest.approx(own_rate(other))
    given = recommend("1e12", NANO, law=laws, method="full", setup=laws.settings).recipe
    assert given == recommend("1e12", NANO, law=laws, method="full").recipe


def test_runs_that_a_law_sets_aside_say_nothing_of_its_rate() -> None:
    """Rates that are too high end at chance, and raised the factor of the runs that did not."""
    high = ("nano-200k", "nano-389k")
    records = []
    for each in runs(methods=ONLY_FULL):
        spoilt = each.recipe.model.name in high
        rate = (30 if spoilt else 3) * own_rate(each.recipe)
        heldout = each.heldout
        assert heldout is not None
        if spoilt:
            heldout = heldout.model_copy(update={"loss": math.log(heldout.candidates) + 0.01})
        recipe = each.recipe.model_copy(update={"learning_rate": rate})
        records.append(each.model_copy(update={"recipe": recipe, "heldout": heldout}))
    law = law_named("interaction-odds")
    (group,) = group_runs(records, [law])
    found = study([law], group, source="runs", draws=0, by=())
    assert found.n_points < len(records)
    assert sum(each.runs for each in found.trained_rates) == found.n_points
    seen = rate_factor(found.trained_rates, NANO)
    assert seen is not None
    assert seen.factor == pytest.approx(3.0, rel=0.02)


def test_each_law_has_the_rates_of_its_own_runs() -> None:
    """Laws of two ranks had one factor, which was neither's."""
    made = []
    for times, share in ((4, 8), (1, 2)):
        for each in runs():
            if each.recipe.method.name != "lora":
                continue
            method = lora(each.recipe.model, 1 / share)
            recipe = planned(each.recipe.flop, each.recipe.model, method)
            recipe = recipe.model_copy(update={"learning_rate": times * own_rate(recipe)})
            assert each.heldout is not None
            made.append(record(recipe, each.heldout.loss))
    laws = law_of(made)
    assert len(laws.laws) == 2
    for times, share in ((4, 8), (1, 2)):
        model = NANO.models[2]
        method = lora(model, 1 / share)
        found = recommend("1e12", NANO, law=laws, model=model.name, method=method, other_settings=True).recipe
        assert found.learning_rate == pytest.approx(times * own_rate(found), rel=0.02)


def test_a_pilot_s_laws_keep_the_rates_of_their_runs() -> None:
    found = runs(methods=ONLY_FULL)
    recipes = at(lambda each: 3 * own_rate(each), [each.recipe for each in found])
    records = [each.model_copy(update={"recipe": made}) for each, made in zip(found, recipes, strict=True)]
    laws, _ = pilot_laws(records, request(target_flop=1e13, allowance_flop=1e12, methods=("full",), batch_pairs=64))
    assert laws is not None
    assert all(sum(each.runs for each in law.trained_rates) == law.n_points for law in laws.laws)
