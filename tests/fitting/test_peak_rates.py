"""Recipes by a law are trained at the rates of its runs."""

from __future__ import annotations

import math
from itertools import product

import pytest

from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.peak_rates import peak_rates
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.methods import Full
from isoembed.recommendation.recommend import recommend
from tests.fitting.ledgers import BUDGETS, lora, planned, runs

RECIPES = [
    planned(flop, model, method(model))
    for flop, model, method in product(BUDGETS[3:], NANO.models[:4], (lambda _: Full(), lora))
]


def test_a_rule_that_runs_followed_is_found_again() -> None:
    """Fails where the search of a user's sweep is forgotten, and recipes by its law get the family's rates."""
    searched = [
        each.model_copy(update={"learning_rate": 40 * each.model.params**-0.5 * each.steps**-0.25}) for each in RECIPES
    ]
    found = peak_rates(searched)
    for each in searched:
        rule = found[each.method.name]
        assert rule.law.rate(each.model.params, each.steps, each.method.share(each.model)) == pytest.approx(
            each.learning_rate
        )
        assert rule.noise == pytest.approx(0, abs=1e-9)
    assert found["lora"].scale == 2.0


def test_the_family_s_own_rates_need_no_rule() -> None:
    own = [
        each.model_copy(update={"learning_rate": NANO.peak_rate(each.model, each.method, steps=each.steps)[0]})
        for each in RECIPES
    ]
    assert not peak_rates(own)


def test_a_recipe_by_a_law_has_the_rates_of_its_runs() -> None:
    law = law_named("hoffmann")
    (group,) = group_runs(runs(methods={"full": None}), [law])
    laws = LawSet(laws=(study([law], group, source="runs", draws=200, by=()),))
    assert laws == LawSet.model_validate_json(laws.model_dump_json(by_alias=True))
    found = recommend("1e12", NANO, law=laws, method="full")
    assert found.recipe.learning_rate == pytest.approx(1e-3)
    assert any("the rates of the law's own" in each.describe() for each in found.notes)
    assert recommend("1e12", NANO, law=laws, method="full", setup=laws.settings).recipe == found.recipe
    without = LawSet(laws=(laws.laws[0].model_copy(update={"peak_rate": None}),))
    other = recommend("1e12", NANO, law=without, method="full").recipe
    assert math.isclose(
        other.learning_rate, NANO.peak_rate(other.model, other.method, steps=other.steps)[0], rel_tol=1e-6
    )
