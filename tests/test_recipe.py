"""Setups: what is left open, from whom it then comes, and the one comparison."""

from __future__ import annotations

import pytest

from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.settings import Settings
from isoembed.methods import Full
from isoembed.recipe import DataStats, Options, PartialSetup, Recipe, Setup, family_setup, solve

SETUP = Setup(batch_pairs=32, context_tokens=75, temperature=0.05, pooling="max", options=Options(mask_margin=0.1))


def test_what_is_open_comes_from_the_first_that_says_it() -> None:
    named = PartialSetup(batch_pairs=16, pooling="last")
    made = named.completed(PartialSetup(temperature=0.1, pooling="first"), SETUP, family_setup(NANO))
    assert (made.batch_pairs, made.context_tokens, made.temperature, made.pooling) == (16, 75, 0.1, "last")
    assert made.options == SETUP.options
    assert named.completed(family_setup(NANO)) == Setup(batch_pairs=16, context_tokens=75, pooling="last")
    with pytest.raises(InputError, match="context_tokens"):
        PartialSetup(batch_pairs=16).completed()


def test_differences_name_what_both_say_otherwise_whatever_else_they_hold() -> None:
    """What one of them leaves open is none; a recipe and a law's settings compare by what they share."""
    recipe = solve(1e12, NANO.models[0], Full(), 1e-3, SETUP, DataStats(), family="nano")
    assert recipe.setup == SETUP
    assert SETUP.differences(recipe) == recipe.differences(SETUP) == {}
    law = Settings(family="other", batch_pairs=64, temperature=0.05, options=Options())
    assert list(law.differences(recipe)) == ["batch_pairs", "options"]
    assert law.differences(recipe)["batch_pairs"] == "batch pairs 64 there, 32 here"
    asked = Settings.of("nano", recipe, DataStats(tokenizer="t"), heldout=None)
    assert list(law.differences(asked)) == ["family", "batch_pairs", "options"]


def test_a_recipe_is_flat_and_its_key_does_not_hang_on_the_order_of_fields() -> None:
    recipe = solve(1e12, NANO.models[0], Full(), 1e-3, SETUP, DataStats(), family="nano")
    value = recipe.model_dump(mode="json")
    assert {"batch_pairs", "context_tokens", "temperature", "pooling", "options", "model", "learning_rate"} <= set(
        value
    )
    again = Recipe.model_validate(dict(reversed(value.items())))
    assert again.key == recipe.key
