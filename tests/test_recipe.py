"""Setups: what is left open, from whom it then comes, and the one comparison."""

from __future__ import annotations

import pytest

from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.settings import Settings
from isoembed.methods import Full, read_label
from isoembed.options import Options
from isoembed.recipe import DataStats, PartialSetup, Recipe, Setup, check_trained, family_setup, solve
from isoembed.recommendation.request import Request

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
    differs = law.differences(recipe)["batch_pairs"]
    assert differs.fields == {"what": "batch pairs", "there": 64, "here": 32}
    assert str(differs) == "batch pairs 64 there, 32 here"
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


#: label of the method, fields of the setup, key and tokens as the version before wrote them (1e12 FLOP on nano-28k)
EARLIER: list[tuple[str, dict[str, object], str, int]] = [
    ("dora r=8", {}, "a39f7c98b419520a", 5_136_423),
    ("rslora r=8", {}, "7832750afa65a63d", 5_276_933),
    ("full", {"pooling": "weighted-mean"}, "20f394ad35e6127f", 5_758_246),
    ("full", {"options": {"mask_margin": 0.1}}, "d8cf133b974ee016", 5_758_246),
]


@pytest.mark.parametrize(("label", "fields", "key", "tokens"), EARLIER)
def test_recipes_of_what_is_not_trained_any_more_are_read_as_before(
    label: str, fields: dict[str, object], key: str, tokens: int
) -> None:
    """Their records would be lost, or be other runs' by their keys."""
    setup = Setup.model_validate({"batch_pairs": 32, "context_tokens": 75, **fields})
    made = solve(1e12, NANO.models[0], read_label(label), 1e-3, setup, DataStats(), family="nano")
    recipe = Recipe.model_validate_json(made.model_dump_json())
    assert recipe == made
    assert (recipe.key, recipe.train_tokens, recipe.method.label) == (key, tokens, label)


@pytest.mark.parametrize("name", ["weighted-mean", "first"])
def test_poolings_that_are_not_trained_any_more_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(InputError, match=f"one of mean, last, max; {name} is not trained any more.*Use mean"):
        check_trained(PartialSetup.model_validate({"pooling": name}))
    for kept in ("mean", "last", "max", None):
        check_trained(PartialSetup.model_validate({"pooling": kept}))


def test_asking_for_what_is_not_trained_any_more_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"`mask_margin` is not trained with any more.*got 0\.1\. Leave it out"):
        Request.of(1e12, "nano", PartialSetup(options=Options(mask_margin=0.1)))
    with pytest.raises(InputError, match="first is not trained any more"):
        Request.of(Request.of(1e12, "nano"), pooling="first")
    with pytest.raises(InputError, match="`dora` is not trained any more"):
        Request.of(1e12, "nano", method="dora")
