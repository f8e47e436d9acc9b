"""Parts of a sweep's plan, and why runs are left out of it: facts, with the words that tables show."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from isoembed.core import Frozen

StageKind = Literal["rates", "noise", "budget", "replicates", "variations", "repetition", "pilot", "other"]
SkipKind = Literal[
    "no-recipe",
    "few-steps",
    "repeats",
    "memory",
    "far-size",
    "far-hyperparameter",
    "allowance",
    "method-unpaid",
    "no-fresh-run",
    "all-pairs",
    "below-a-batch",
    "single-epoch",
    "many-epochs",
]
#: a kind of reason, and the reason with its numbers
Why = tuple[SkipKind, str]

REASONS: dict[SkipKind, str] = {
    "no-recipe": "no recipe at this budget",
    "few-steps": "too few steps",
    "repeats": "the data would repeat",
    "memory": "does not fit in memory",
    "far-size": "size far from the expected best",
    "far-hyperparameter": "hyperparameter far from the best",
    "allowance": "the allowance is spent",
    "method-unpaid": "no allowance for {method}",
    "no-fresh-run": "no single-epoch run",
    "all-pairs": "no fewer pairs than all",
    "below-a-batch": "fewer pairs than a batch",
    "single-epoch": "the pairs would not repeat",
    "many-epochs": "too many epochs",
}
#: what would have such runs planned
REMEDIES: dict[SkipKind, str] = {
    "no-recipe": "name larger `budgets`, or lower `batch_pairs`",
    "few-steps": "name larger `budgets`, or lower `batch_pairs` or `min_steps`",
    "repeats": "bring more pairs as `data`, or name smaller `budgets`",
    "memory": "lower `batch_pairs` or `context_tokens`, or raise `memory`",
    "far-size": "`prune=0` keeps all sizes",
    "far-hyperparameter": "`prune=0` keeps all of them",
    "allowance": "raise `allowance`",
    "method-unpaid": "raise `allowance`",
    "no-fresh-run": "`prune=0` runs that size",
    "all-pairs": "name fewer `pairs`",
    "below-a-batch": "name more `pairs`, or lower `batch_pairs`",
    "single-epoch": "name fewer `pairs`",
    "many-epochs": "name more `pairs`, or raise `max_pair_epochs`",
}


class Stage(Frozen):
    """Part of a plan, by what its runs are for."""

    kind: StageKind
    budget: float | None = Field(None, description="of the grid's runs, FLOP")
    batch: int | None = Field(None, description="of a pilot's runs: which of its batches, from 1")
    name: str | None = Field(None, description="of runs that no planner here asked for")

    def __str__(self) -> str:
        """As tables show it: `budget 1e+11`, `pilot 2`, `rates`."""
        if self.budget is not None:
            return f"{self.kind} {self.budget:.3g}"
        return f"{self.kind} {self.batch}" if self.batch is not None else self.name or self.kind

    @classmethod
    def of_older_file(cls, text: object) -> Stage:
        """What a file of before stages had facts says in words, budgets to three digits.  Raises ValueError for what is
        no text."""
        if not isinstance(text, str):
            raise ValueError(f"a stage must be text; got {text!r:.200}")
        kind, _, number = text.partition(" ")
        if kind == "budget" and number:
            return cls(kind="budget", budget=float(number))
        if kind == "pilot" and number:
            return cls(kind="pilot", batch=int(number))
        plain: tuple[StageKind, ...] = ("rates", "noise", "replicates", "variations", "repetition")
        return next((cls(kind=each) for each in plain if each == text), cls(kind="other", name=text))


RATES, NOISE, REPLICATES = Stage(kind="rates"), Stage(kind="noise"), Stage(kind="replicates")
VARIATIONS, REPETITION = Stage(kind="variations"), Stage(kind="repetition")


class Skipped(Frozen):
    """A run that is not planned, and why."""

    model: str
    method: str = Field(description="with its hyperparameters")
    method_name: str = ""
    budget: float
    kind: SkipKind
    reason: str = Field(description="the kind of reason in words, the same for all runs left out for it")
    why: str = Field(description="the reason with its numbers")
