"""One budget, every family: what is known of each, side by side.  No measure ranks families; none is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field, model_validator

from isoembed.core import Frozen, InputError
from isoembed.families import FAMILIES, Family
from isoembed.notes import Noted, Refusal, refusal_of
from isoembed.published import published_scores
from isoembed.recommendation.by_rule import BRACKET
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation

Ground = Literal["law", "published rule", "guess", "too small", "too large", "refused"]
#: best known first; the last three are families for another budget
GROUNDS: tuple[Ground, ...] = ("law", "published rule", "guess", "too small", "too large", "refused")
#: family -> a finished model made from it by others, with far more compute than a budget here
MADE_FROM = {
    "qwen3": "codefuse-ai/F2LLM-v2-0.6B",
    "qwen3-embedding": "Qwen/Qwen3-Embedding-0.6B",
    "gemma3": "google/embeddinggemma-300m",
}
#: what no family is, and yet has a law
ALONG_DEPTH = (
    "Not among them: first blocks of one model. Of those of SmolLM2-135M-Instruct a law ships, 4e12 to 6e13 FLOP "
    "(docs/depth.md)."
)
#: of the published means
BENCHMARK = "MTEB(eng, v2)"
WEAK = (
    "The order is by what is known, not by what is better: no law spans families, and losses under two tokenizers, "
    "or of two held-out sets, do not compare. A pilot on your pairs in two or three of them would tell."
)


class MadeFrom(Frozen):
    """A finished model that others made from a family, and what it scores."""

    model: str = Field(description="on the hub")
    benchmark: str
    mean: float = Field(description="over the benchmark's tasks, a fraction of 1")

    def __str__(self) -> str:
        """`F2LLM-v2-0.6B 68.1`: percent."""
        return f"{self.model.rpartition('/')[2]} {100 * self.mean:.1f}"


class FamilyChoice(Noted):
    """What a family offers at the budget."""

    described: ClassVar = {"refused": "refused"}

    notes: tuple[Refusal, ...] = Field((), description="why it offers nothing")
    family: str
    ground: Ground = Field(description="what the choice rests on, or why the family suits another budget")
    recommendation: Recommendation | None = Field(None, description="None where it was refused")
    made_from: MadeFrom | None = Field(None, description="a finished model made from it by others")

    @model_validator(mode="before")
    @classmethod
    def _without_its_words(cls, given: Any) -> Any:
        return {name: given[name] for name in given if name != "published"} if isinstance(given, dict) else given

    @computed_field  # type: ignore[prop-decorator]
    @property
    def published(self) -> str | None:
        """The same in words."""
        return None if self.made_from is None else str(self.made_from)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def refused(self) -> str | None:
        """Why it offers nothing, in words."""
        return self._first_sentence("refused")


def across(ask: Callable[[Family], Request]) -> tuple[FamilyChoice, ...]:
    """What each built-in family offers for what `ask` asks of it, best known first.

    Raises InputError, the first family's, where all refuse.
    """
    found = [_choice(family, ask) for family in FAMILIES]
    if all(each.recommendation is None for each in found):
        raise InputError(*found[0].notes)
    return tuple(sorted(found, key=lambda each: GROUNDS.index(each.ground)))


def _choice(family: Family, ask: Callable[[Family], Request]) -> FamilyChoice:
    made = _made_from(family.name)
    try:
        found = recommend(ask(family))
    except InputError as error:
        return FamilyChoice(family=family.name, ground="refused", notes=(refusal_of(error),), made_from=made)
    return FamilyChoice(family=family.name, ground=_ground(family, found), recommendation=found, made_from=made)


def _made_from(family: str) -> MadeFrom | None:
    found = published_scores()
    for model in found.models:
        if model.name == MADE_FROM.get(family) and (mean := model.mean(found.benchmarks[BENCHMARK])) is not None:
            return MadeFrom(model=model.name, benchmark=BENCHMARK, mean=mean)
    return None


def _ground(family: Family, found: Recommendation) -> Ground:
    if found.certainty is not None:
        return "law"
    recipe = found.recipe
    times = recipe.train_tokens / recipe.model.params / family.tokens_per_param_at(recipe.flop)
    if times < 1 / BRACKET:
        return "too large"
    if times > BRACKET and recipe.model == family.models[-1]:  # a smaller one is the largest within the limits
        return "too small"
    return "guess" if family.method_rule is None else "published rule"
