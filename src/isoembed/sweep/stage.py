"""Parts of a sweep's plan, and why runs are left out of it: facts, with the words that tables show."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field

from isoembed.core import Frozen
from isoembed.notes import Note

StageKind = Literal["rates", "noise", "budget", "replicates", "variations", "repetition", "pilot", "other"]
SkipKind = Literal[
    "no-recipe",
    "few-steps",
    "repeats",
    "memory",
    "max_params",
    "max_index_bytes",
    "max_query_flop",
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

#: the kinds of reason, the same for all runs left out for one
REASONS: dict[SkipKind, str] = {
    "no-recipe": "no recipe at this budget",
    "few-steps": "too few steps",
    "repeats": "the data would repeat",
    "memory": "does not fit in memory",
    "max_params": "more parameters than the limit",
    "max_index_bytes": "vectors wider than the limit for an index",
    "max_query_flop": "a query costs more than the limit",
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
#: the reasons with their numbers
_NUMBERS: dict[SkipKind, str] = {
    "no-recipe": "{error}",
    "few-steps": "{steps} steps, {least} are the least",
    "repeats": "the data would repeat {epochs:.1f} times",
    "memory": "needs {gib:.1f} GiB of memory",
    "max_params": "{seen:,} non-embedding parameters, {most:,} are the most",
    "max_index_bytes": "vectors of {seen:,.10g} bytes, {most:,.10g} are the most",
    "max_query_flop": "a query costs {seen:.3g} FLOP, {most:.3g} are the most",
    "far-size": "size over {prune:g} x from the expected best, {expected:.2g}",
    "far-hyperparameter": "hyperparameter not beside the best so far ({best})",
    "allowance": "the allowance is spent",
    "method-unpaid": "{runs} runs of {method} would cost {flop:.3g} of {allowance:.3g} FLOP",
    "no-fresh-run": "{model} has no run at {flop:.3g} FLOP to compare with",
    "all-pairs": "{pairs:,} pairs are no fewer than the data's {all_pairs:,}",
    "below-a-batch": "{pairs:,} pairs do not fill a batch of {batch_pairs}",
    "single-epoch": "the budget pays for {epochs:.2f} epochs over {pairs:,} pairs",
    "many-epochs": "{epochs:.0f} epochs over {pairs:,} pairs, {most:g} are the most",
}
#: what would have such runs planned
REMEDIES: dict[SkipKind, str] = {
    "no-recipe": "name larger `budgets`, or lower `batch_pairs`",
    "few-steps": "name larger `budgets`, or lower `batch_pairs` or `min_steps`",
    "repeats": "bring more pairs as `data`, or name smaller `budgets`",
    "memory": "lower `batch_pairs` or `context_tokens`, or raise `memory`",
    "max_params": "raise `max_params`",
    "max_index_bytes": "raise `max_index_bytes`, or train a narrower `matryoshka`",
    "max_query_flop": "raise `max_query_flop`, or bring shorter queries",
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
#: the same for runs of the search for learning rates, whose lengths are steps and no budgets
OF_SEARCH: dict[SkipKind, str] = {
    "no-recipe": "lower `batch_pairs`",
    "repeats": "bring more pairs as `data`, or name fewer `rate_steps`",
}
#: and where a budget is too small for some runs and too large for the pairs of others: another one would not help
AT_ODDS: dict[SkipKind, str] = {
    "no-recipe": "lower `batch_pairs`",
    "few-steps": "lower `batch_pairs` or `min_steps`",
    "repeats": "bring more pairs as `data`",
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


class SkipNote(Note):
    """Why a run is left out: its title the kind of reason, its reason that with its numbers."""

    kind: Literal["left-out"] = "left-out"
    code: SkipKind

    sentences: ClassVar = {kind: (REASONS[kind], words) for kind, words in _NUMBERS.items()}


class SkipCount(Note):
    """How many runs are left out for one kind of reason, of those that do not name a method."""

    kind: Literal["left-out-runs"] = "left-out-runs"
    code: SkipKind

    sentences: ClassVar = {
        kind: (f"{words} ({{runs:@run}})",) for kind, words in REASONS.items() if kind != "method-unpaid"
    }


class SkipRemedy(Note):
    """What would have runs planned that are left out."""

    kind: Literal["remedy"] = "remedy"
    code: SkipKind

    sentences: ClassVar = {kind: (words,) for kind, words in REMEDIES.items()}


def skip(code: SkipKind, **fields: Any) -> SkipNote:
    """Why a run is left out."""
    return SkipNote(code=code, fields=fields)


class Skipped(Frozen):
    """A run that is not planned, and why."""

    model: str
    method: str = Field(description="with its hyperparameters")
    method_name: str = ""
    budget: float = Field(description="FLOP; of a search for learning rates by steps what these cost")
    of_search: bool = Field(False, description="whether it is a run of such a search")
    fact: SkipNote

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kind(self) -> SkipKind:
        return self.fact.code

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """The kind of reason in words, the same for all runs left out for it."""
        return self.fact.title

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why(self) -> str:
        """The reason with its numbers."""
        return self.fact.reason
