"""Every family for one budget: best known first, nothing ranked that nobody measured."""

from __future__ import annotations

import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import FAMILIES, Family
from isoembed.recommendation.across import GROUNDS, FamilyChoice, across
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import Request
from tests.commands import mistake, ok


def at(flop: float) -> dict[str, str]:
    """Family -> ground, in order."""
    return {each.family: each.ground for each in across(lambda family: Request.of(flop, family))}


def test_every_family_is_there_best_known_first() -> None:
    for flop in (1e12, 1e17):
        found = at(flop)
        assert found.keys() == {family.name for family in FAMILIES}
        assert list(found.values()) == sorted(found.values(), key=GROUNDS.index)


def test_the_ground_is_that_of_the_family_alone() -> None:
    small, middle = at(1e12), at(1e17)
    assert (small["nano"], small["qwen3"]) == ("law", "refused")
    assert middle["pythia"] == "published rule"
    assert (middle["nano"], middle["qwen3"], middle["gpt2"]) == ("too small", "too large", "guess")


def test_a_family_that_a_limit_cuts_is_not_called_too_small() -> None:
    """The largest within the limit is the answer asked for, as it is for one family."""
    limits = Constraints(max_index_bytes=2000)
    found = {each.family: each for each in across(lambda family: Request.of(1e18, family, constraints=limits))}
    chosen = found["pythia"].recommendation
    assert chosen is not None
    assert (chosen.recipe.model.name, found["pythia"].ground) == ("pythia-31m", "published rule")
    assert found["nano"].ground == "too small"
    assert "`max_index_bytes` must leave a model" in (found["gpt2"].refused or "")


def test_why_a_family_is_refused_is_a_fact_and_a_sentence() -> None:
    found = {each.family: each for each in across(lambda family: Request.of(1e12, family))}
    (fact,) = found["qwen3"].notes
    assert (fact.code, fact.fields["flop"], fact.fields["model"]) == ("one-step", 1e12, "qwen3-0.6b-base")
    made = found["qwen3"].made_from  # a value: it was a sentence alone, of no benchmark
    assert made is not None
    assert (made.model, made.benchmark) == ("codefuse-ai/F2LLM-v2-0.6B", "MTEB(eng, v2)")
    assert found["qwen3"].published == f"F2LLM-v2-0.6B {100 * made.mean:.1f}"
    for each in (found["nano"], found["qwen3"]):
        assert FamilyChoice.model_validate_json(each.model_dump_json()) == each
    old = {"family": "qwen3", "ground": "refused", "recommendation": None, "refused": "Too dear.", "published": None}
    assert FamilyChoice.model_validate(old).refused == "Too dear."


def test_where_no_family_can_be_had_the_reason_is_said() -> None:
    with pytest.raises(InputError, match="must pay for one step"):
        at(1e3)


def test_what_is_asked_of_one_is_asked_of_all() -> None:
    def ask(family: Family) -> Request:
        return Request.of(1e17, family, method="lora r=8")

    hours = across(lambda family: Request.of(Budget.from_devices("h100", hours=1), family))
    assert hours[0].recommendation is not None  # a budget whose FLOP depend on the model

    methods = {each.recommendation.recipe.method.label for each in across(ask) if each.recommendation}
    assert methods == {"lora r=8"}


def test_the_command_says_how_weak_it_is() -> None:
    printed = ok("recipe", "--budget", "1e17", "--family", "any")
    assert "not by what is better" in printed
    assert printed.split("\n")[1].startswith("pythia")
    assert "are of one" in mistake("recipe", "--budget", "1e17", "--family", "any", "--model", "gpt2")
