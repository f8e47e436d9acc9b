"""Facts for readers: a kind, a code that says which fact, and its numbers; sentences are made where they are read.

Each room lists the sentences of its own facts.  Here stand those of what cannot be had, which planners in every room
ask about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from string import Formatter
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from isoembed.core import Frozen, InputError, number_of


class _Words(Formatter):
    """Also, of a number, `{runs:@run}`: `1 run`, `1,200 runs`; and `{ratio:~}`: two digits as people write them, `.2g`
    up to 99, then `620`, `12,000`.  Of several, how they stand together: `{laws:and}`, `{ranks:or}`, `{why:;}`, else
    with commas.  Of what may be nothing, `()`: `{low:.2g|unbounded}` has other words for that, and
    `{epochs:? in {epochs} epochs}` none.

    A file of before its notes held facts has texts in their place, which stand as they are.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.startswith("?"):
            return value if isinstance(value, str) else format_spec[1:] if value else ""
        how, _, of_nothing = format_spec.partition("|")
        if value == ():
            return of_nothing
        if isinstance(value, Note | tuple):
            return _together(value if isinstance(value, tuple) else (value,), how)
        if isinstance(value, str):
            if how in ("", *_JOINED) or (how.startswith("@") and how[1:] in value):
                return value
            value = float(value)
        if how.startswith("@"):
            return number_of(value, how[1:])
        if how == "~":
            return f"{value:.2g}" if value < 99.5 else f"{float(f'{value:.2g}'):,.0f}"
        return str(super().format_field(value, how))


#: deeper ones are nobody's, and could take ages to word
MOST_NESTED = 8
#: how several stand together, else with commas
_JOINED = ("and", "or", ";")


def _together(values: tuple[object, ...], how: str) -> str:
    *others, last = map(str, values)
    if how in ("and", "or") and others:
        return f"{', '.join(others)} {how} {last}"
    return ("; " if how == ";" else ", ").join((*others, last))


class Note(Frozen):
    """A fact for a reader: its kind, a code that says which fact, and the values that its sentence is made of: names,
    numbers, or notes of any room that it tells of.

    Each room states the sentences of its codes: parts that a colon joins, the first one its title.  In JSON a note
    inside another has its `words` too, by which it is read where its own room is not at hand.
    """

    kind: str
    code: str
    fields: Mapping[str, Fact | tuple[Fact, ...]] = Field({})
    words: str | None = Field(None, exclude=True, repr=False, description="of a note of a room that is not at hand")

    sentences: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    _voice: Callable[[str], str] = PrivateAttr(default=str)

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_room(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """A note inside another is read by the room that has its sentence."""
        if not isinstance(given, dict):
            return read(given)
        if cls is not Note:
            return read({name: value for name, value in given.items() if name != "words"})
        found = read(given)
        parts = {name: getattr(found, name) for name in ("kind", "code", "fields")}  # read once, however deep they go
        for room in Note.__subclasses__():
            with suppress(ValidationError):
                return cast("Self", room.model_validate(parts))
        if found.words is None:
            raise ValueError(f"no room has a sentence for {found.code!r}")
        return found

    @field_validator("fields", mode="before")
    @classmethod
    def _finite(cls, fields: Any) -> Any:
        """A number without bound is nothing, for JSON has none."""
        if not isinstance(fields, Mapping):
            return fields
        endless = {name for name, value in fields.items() if isinstance(value, float) and not math.isfinite(value)}
        return {**fields, **dict.fromkeys(endless, ())}

    @field_validator("fields")
    @classmethod
    def _shallow(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        if any(_depth(value) >= MOST_NESTED for value in fields.values()):
            raise ValueError(f"notes lie at most {MOST_NESTED} deep in each other")
        return fields

    @model_validator(mode="after")
    def _has_a_sentence(self) -> Self:
        if type(self) is Note:
            return self
        try:
            self.describe()
        except (LookupError, TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.code!r} is no fact of these fields: {', '.join(self.fields)}") from None
        return self

    @field_serializer("fields", mode="wrap")
    def _with_words(
        self, fields: Mapping[str, Any], dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(fields)
        return dumped if info.round_trip else {name: _told(value, dumped[name]) for name, value in fields.items()}

    def __hash__(self) -> int:
        return hash((self.kind, self.code, frozenset(self.fields.items())))

    @property
    def title(self) -> str:
        """What the note is about, in a few words."""
        return self.worded(self._parts[0])

    @property
    def reason(self) -> str:
        """The fact without its title, where it has more than one."""
        return self.worded(": ".join(self._parts[1:] or self._parts))

    def describe(self) -> str:
        """The fact as a sentence."""
        return self.worded(": ".join(self._parts))

    def __str__(self) -> str:
        return self.describe()

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.sentences[self.code] if self.words is None else ("{words}",)

    def worded(self, sentence: str) -> str:
        """The fact in another sentence of its fields."""
        return self._voice(_Words().vformat(sentence, (), {**self.fields, "words": self.words}))

    def spoken(self, voice: Callable[[str], str]) -> Self:
        """The same fact, whose sentences go through `voice`: a command line's, which says flags for fields."""
        copy = self.model_copy()
        BaseModel.__setattr__(copy, "_voice", voice)
        return copy


#: of what a sentence is made
Fact = str | int | float | Note
Note.model_rebuild()


def _depth(fact: object) -> int:
    """How many notes lie in each other there."""
    if isinstance(fact, Note):
        return 1 + max(map(_depth, fact.fields.values()), default=0)
    return max(map(_depth, fact), default=0) if isinstance(fact, tuple) else 0


def _told(fact: object, dumped: Any) -> Any:
    """A field as JSON has it, the notes in it with their words."""
    if isinstance(fact, tuple):
        return [_told(each, its) for each, its in zip(fact, dumped, strict=True)]
    return {**dumped, "words": fact.describe()} if isinstance(fact, Note) else dumped


class Noted(Frozen):
    """A value with notes.  Its JSON holds their sentences too, by kind; of JSON of before there were notes these are
    read."""

    #: the field of the notes
    noted: ClassVar[str] = "notes"
    #: the field of the sentences of each kind
    described: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_sentences(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        said = {name: given[name] for name in cls.described if given.get(name)}
        for name, found in said.items():
            if not isinstance(found, str | list | tuple):
                raise ValueError(f"`{name}` holds sentences")
        lines = [
            {"kind": cls.described[name], "code": "text", "fields": {"text": line}}
            for name, found in said.items()
            for line in ([found] if isinstance(found, str) else found)
        ]
        return {cls.noted: lines} | {name: value for name, value in given.items() if name not in cls.described}

    def _sentences(self, kind: str) -> tuple[str, ...]:
        return tuple(each.describe() for each in getattr(self, self.noted) if each.kind == kind)

    def _first_sentence(self, kind: str) -> str | None:
        return next(iter(self._sentences(kind)), None)


class Refusal(Note):
    """Why what was asked for cannot be had: the rule with its numbers, and what would be allowed.

    `raise InputError(refusal(...))` tells a user; a planner that goes on without it keeps the fact (`refusal_of`).
    """

    kind: Literal["refused"] = "refused"

    sentences: ClassVar = {
        # of a method on a model
        "unsuited": ("`{method}` needs {need}; {model} has none. {remedy:?Use {remedy:or} instead.}",),
        "experts": (
            "`{method}` adapts dense layers; the experts of {model} are stacked in 3-D parameters and would stay "
            "without adapters. Use full, freeze or norms instead.",
        ),
        "unlike-blocks": (
            "`{method}` needs blocks that are all alike, to count its adapters; those of {model} are not. Use lora "
            "instead.",
        ),
        # of a recipe
        "few-pairs": (
            "A batch must not hold more pairs than there are: {batch_pairs} > {pairs}; lower `batch_pairs`.",
        ),
        "one-step": (
            "`budget` must pay for one step: {flop:.3g} FLOP < {step_flop:.3g} at {batch_pairs} pairs of "
            "{tokens_per_pair:.0f} tokens on {model}; lower `batch_pairs` or take a smaller model.",
        ),
        "one-step-taught": (
            "`budget` must pay for one step: {flop:.3g} FLOP < {step_flop:.3g} at {batch_pairs} pairs of "
            "{tokens_per_pair:.0f} tokens on {model}, {share:.0%} of it for the teacher {teacher} to read them; leave "
            "`teacher` out, lower `batch_pairs`, take a smaller model or raise the budget.",
        ),
        "long-context": ("`context_tokens` must be within the model's {most}; got {context_tokens} for {model}.",),
        "teacher-context": (
            "`context_tokens` must be within the teacher's {most}, for it would judge texts that it has not read; got "
            "{context_tokens} for {teacher}. Lower it, or take another `teacher`.",
        ),
        "wide-projection": (
            "`dimensions` must be at most the model's {hidden}, for a linear map adds nothing to them; got "
            "{dimensions} for {model}. Lower it, or take a wider model.",
        ),
        "wide-prefix": (
            "`matryoshka` must name fewer dimensions than the embedding's {hidden}, which are always among them; got "
            "{dimensions} for {model}.",
        ),
        "no-longer": (
            "The longer run must have more tokens than the one that it extends, {tokens:,}; got {train_tokens:,}. "
            "Raise the budget.",
        ),
        # of the limits of a request
        "too-large": (
            "`{limit}` must leave a model: the least of {family} that may be chosen is {least:,.6g} {unit}, above "
            "{most:,.6g}. Raise it, {otherwise}or choose another family.",
        ),
        "serving": (
            "`budget` must pay for serving too: embedding {tokens:.3g} tokens with {model} costs {cost:.3g} FLOP of "
            "{flop:.3g}; raise it, or lower `serving_tokens`.",
        ),
        "memory": (
            "Training must fit the device: {method} on {model} needs about {needed_gb:.3g} GB at least, with "
            "mini-batches of one text, of {limit_gb:.3g}; take a smaller model or a method that trains less.",
        ),
        "rule-method": (
            "Without a law {method} is the only choice of the rule; `methods` allows {allowed}. Name one with "
            "`method`, or give a `law`.",
        ),
        "rule-range": (
            "The paper's rule holds for budgets of {low:.2g} to {high:.2g} FLOP and is not extrapolated; got "
            "{flop:.3g}. Name `method` (and `model`) yourself, or run a pilot on your budget.",
        ),
        "law-range": (
            "A law holds to {farthest:g} times beyond its runs in C, N and D: these go from {low:.2g} to {high:.2g} "
            "FLOP, and at {flop:.3g} the nearest candidate is {nearest}. Run a pilot (`isoembed run` with `pilot`), "
            "add runs nearer to it, or leave `law` out for a guess by rule.",
        ),
        "law-method": (
            "A law holds for the methods of its runs: {fitted:|no method that is known here}; got {asked}. Ask for one "
            "of them, or fit runs of yours.",
        ),
        "no-better-than-chance": ("forecast no better than chance",),
        "next-to-no-loss": ("forecast next to no loss",),
        "pilot-runs": (
            "A pilot needs {runs} runs of {steps} steps or more to choose from; {possible} are possible. Left out: "
            "{why}. To begin with, {remedy}.",
        ),
        "pilot-allowance": (
            "A pilot needs {runs} runs of {steps} steps or more, and something left for others: about {needed:.2g} "
            "FLOP; its allowance is {allowance:.3g}. Raise it or the budget, or lower `batch_pairs`.",
        ),
        # of a law
        "all-alike": (
            "The {law} law needs runs that differ in `{column}`: all {rows} rows have {value:.4g}; add runs, or "
            "choose a law without it.",
        ),
        "losses-alike": ("`loss` must differ between runs: all {rows} rows have {value:.4g}; check the column.",),
        "above-chance": (
            "The {law} law needs losses below chance, ln {candidates:g} = {chance:.3f}: {above} of {rows} runs are "
            "not. Leave them out, or state the `candidates` of the loss.",
        ),
        "few-to-draw": (
            "A bootstrap needs at least {least} runs to draw from; got {runs}. Add runs, or fit without it.",
        ),
        "few-for-law": ("{runs} runs, a law needs {least}",),
        # what is rarer, in words
        "text": ("{text}",),
    }


def refusal(code: str, **fields: Any) -> Refusal:
    """Why something cannot be had, with its fields by name."""
    return Refusal(code=code, fields=fields)


def refusal_of(error: InputError) -> Refusal:
    """What `error` refuses, as a fact."""
    said = error.args[0]
    return said if isinstance(said, Refusal) else refusal("text", text=str(said))
