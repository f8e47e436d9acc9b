"""Recommendation: the recipe, what it rests on, how sure it is, and what else was considered."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, computed_field

from isoembed.budget import Budget
from isoembed.core import Frozen, Summarised
from isoembed.fitting.bootstrap import Crossover
from isoembed.fitting.intervals import Interval
from isoembed.notes import Noted
from isoembed.recipe import Recipe
from isoembed.recommendation.notes import RecipeNote, note


class RankedRecipe(Noted):
    """One feasible recipe and what speaks against it.  Losses are there where a law was at hand."""

    described: ClassVar = {"remarks": "warning"}

    notes: tuple[RecipeNote, ...] = ()
    recipe: Recipe
    tokens_per_param: float
    loss: Interval | None = Field(
        None,
        description="predicted loss of one run: mean over the law's bootstrap samples, with the runs' noise",
    )
    behind: Interval | None = Field(None, description="the loss less the chosen recipe's, in nats")
    best: float | None = Field(None, description="probability that no other candidate has a lower expected loss")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def remarks(self) -> tuple[str, ...]:
        """What speaks against it, in words."""
        return self._sentences("warning")


class Certainty(Frozen):
    """How sure, over bootstrap samples of every law: uncertainty about the laws' parameters, and about their form as
    far as the held-out runs do not tell forms apart."""

    methods: dict[str, float] = Field(description="probability that each method is the best one; they add up to 1")
    method: float = Field(description="that of the method chosen")
    recipe: float = Field(description="probability that this very recipe is the best candidate")
    regret: float | None = Field(
        description="expected loss above that of the best candidate, in nats; None where no loss is forecast"
    )


class Extrapolation(Frozen):
    """Where a recipe lies beside the runs that its law was fitted to: ratios to the largest and the smallest values."""

    flop: float = Field(description="the budget over the largest fitted one")
    params: float
    tokens: float
    below: float = Field(description="the budget over the smallest fitted one; under 1 it lies below all runs")
    params_below: float
    tokens_below: float

    @property
    def farthest(self) -> float:
        """By what factor the recipe lies outside the runs in that of C, N and D in which it is most; 1 or less:
        inside."""
        return max(self.flop, self.params, self.tokens, 1 / self.below, 1 / self.params_below, 1 / self.tokens_below)

    @property
    def outside(self) -> bool:
        """Whether it lies beyond the runs at either end."""
        return self.farthest > 1.01

    @property
    def facts(self) -> tuple[RecipeNote, ...]:
        """In what it lies beyond the runs, or that all lies within."""
        ends = (
            ("budget", self.flop, self.below),
            ("model", self.params, self.params_below),
            ("number of tokens", self.tokens, self.tokens_below),
        )
        beyond = [note("known", "beyond", ratio=ratio, what=name) for name, ratio, _ in ends if ratio > 1.01]
        beyond += [note("known", "below", ratio=1 / ratio, what=name) for name, _, ratio in ends if ratio < 0.99]
        return tuple(beyond) or (note("known", "within"),)

    def describe(self) -> str:
        """`8x beyond the largest fitted budget`, or that all lies within."""
        return ", ".join(map(str, self.facts))


class NextRun(Frozen):
    """The affordable run that would tell most, for its FLOP, about which of the two leading recipes is better."""

    recipe: Recipe
    removes: float = Field(description="share of the variance of the two recipes' difference that it would remove")


class MethodCrossover(Crossover):
    """The budget from which method `second`, ahead at the highest budget looked at, stays ahead of `first`."""

    first: str
    second: str
    looked_at: tuple[float, float] = Field(description="lowest and highest budget looked at, FLOP")

    def describe(self) -> str:
        """The crossover in words, with what is unbounded said."""
        low, high = (f"{flop:.2g}" for flop in self.looked_at)
        if self.always > 0.995:
            return f"{self.second} is ahead of {self.first} at every budget from {low} to {high} FLOP"
        start = f"from {self.flop.value:.2g} FLOP on" if self.flop.value is not None else f"from below {low} FLOP on"
        least = f"below {low}" if self.flop.low is None else f"{self.flop.low:.2g}"
        most = "unbounded above" if self.flop.high is None else f"{self.flop.high:.2g}"
        return (
            f"{self.second} is ahead of {self.first} {start} (95 %: {least} to {most}; looked at up to {high}); in "
            f"{self.never:.0%} of bootstrap samples it never is"
        )


class Recommendation(Summarised, Noted):
    """The recipe, what it rests on, and what else was considered."""

    described: ClassVar = {
        "basis": "basis",
        "known": "known",
        "assumed": "assumed",
        "warnings": "warning",
        "no_forecast": "no-forecast",
    }

    notes: tuple[RecipeNote, ...] = ()
    budget: Budget
    recipe: Recipe
    bracket: tuple[str, ...] = Field((), description="models that the rule cannot tell apart")
    runners_up: tuple[RankedRecipe, ...]
    loss: Interval | None = Field(None, description="predicted loss of one run; None without a law, or a forecast")
    certainty: Certainty | None = None
    reach: Extrapolation | None = None
    methods: tuple[RankedRecipe, ...] = Field((), description="the best candidate of each method, best first")
    crossover: MethodCrossover | None = Field(None, description="between the two best methods")
    next_run: NextRun | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def basis(self) -> str:
        """Which rule or law chose."""
        return "; ".join(self._sentences("basis"))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def known(self) -> tuple[str, ...]:
        """What it rests on that was measured or published."""
        return self._sentences("known")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def assumed(self) -> tuple[str, ...]:
        """What it rests on that nobody measured."""
        return self._sentences("assumed")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warnings(self) -> tuple[str, ...]:
        """What may make it a bad one."""
        return self._sentences("warning")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def no_forecast(self) -> str | None:
        """Why a law gives an order and no loss; None where it gives one."""
        return self._first_sentence("no-forecast")

    def summary(self) -> dict[str, str]:
        """The recipe, what it should reach and on what ground."""
        shown = {"budget": self.budget.stated, **self.recipe.summary()}
        if self.loss is not None:
            shown["loss"] = self.loss.describe()
        if self.certainty is not None:
            shown["best_method_with"] = f"{self.certainty.method:.2f}"
        shown["basis"] = self.basis
        return shown | ({"warnings": "; ".join(self.warnings)} if self.warnings else {})
