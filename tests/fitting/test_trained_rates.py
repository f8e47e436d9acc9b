"""Recipes by a law are trained at the rates of its runs, by a factor on the family's own rule and no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isoembed.families import NANO
from isoembed.families.base import BORROWED_RATES, Family, RateRule
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.fitting.trained_rates import rate_factors, trained_rates
from isoembed.laws import law_named
from isoembed.methods import Full
from isoembed.recipe import Recipe
from isoembed.recommendation.recommend import recommend
from isoembed.records import RunRecord
from tests.fitting.ledgers import BUDGETS, lora, planned, runs

RECIPES = [
    planned(flop, model, method) for flop in BUDGETS[4:] for model in NANO.models for method in (Full(), lora(model))
]


def own_rate(recipe: Recipe, family: Family = NANO) -> float:
    return family.peak_rate(recipe.model, recipe.method, steps=recipe.steps)[0]


def at(rate: Callable[[Recipe], float], recipes: list[Recipe] = RECIPES) -> list[Recipe]:
    return [each.model_copy(update={"learning_rate": rate(each)}) for each in recipes]


def test_the_factor_on_the_family_s_rule_is_found() -> None:
    found = rate_factors(trained_rates(at(lambda each: 3 * own_rate(each))), NANO)
    assert {name: each.factor for name, each in found.items()} == pytest.approx({"full": 3.0, "lora": 3.0}, rel=0.01)
    assert all(each.noise < 0.02 and each.runs == len(RECIPES) / 2 for each in found.values())
    assert not rate_factors(trained_rates(at(own_rate)), NANO)


def test_one_run_says_no_exponent() -> None:
    """A rule through few runs was off by a factor of hundreds at a budget ten times theirs."""
    (only,) = rate_factors(trained_rates(at(lambda each: 2 * own_rate(each), RECIPES[:1])), NANO).values()
    assert only.factor == pytest.approx(2.0, rel=1e-3)
    assert only.runs == 1


def test_a_family_s_own_rules_are_compared_with_and_others_are_left_alone() -> None:
    """A family of the user's own was compared with borrowed rules; and LoRA's rule is ten times full's, whatever the
    runs of full had."""
    rates = (RateRule(method="full", fixed=6e-4, source="mine"), *BORROWED_RATES[1:])
    mine = Family(name="mine", models=NANO.models, rates=rates, about="")
    assert not rate_factors(trained_rates(at(lambda each: own_rate(each, mine))), mine)
    full = [each for each in RECIPES if each.method == Full()]
    assert set(rate_factors(trained_rates(at(lambda _: 5e-3, full)), mine)) == {"full"}


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
