"""Recipe: everything one training run needs, as one frozen value whose hash is the run's identity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from isoembed.core import (
    LARGEST,
    Count,
    Frozen,
    InputError,
    PositiveInt,
    Summarised,
    check_named,
    checked,
    expanded,
    fingerprint,
    from_validation,
    one_of,
    placeless,
)
from isoembed.families.base import Family, ModelSpec
from isoembed.flops import Cost, Price, TeacherReading
from isoembed.methods import Method
from isoembed.notes import Note, refusal
from isoembed.options import NO_PROMPTS, PLAIN, Options, Teacher, nowhere

#: raised when a field's meaning changes, so that records made before are never compared with records made after
SEMANTICS_VERSION = 1

#: what follows from the rest of a model and records made earlier lack
_COUNTED_LATER = {"norm_params", "outer_bias_params", "outer_norm_params", "whole"}
#: what data have where they bring hard negatives, or a teacher reads them, or their sources in shares
_COUNTED_WHERE_ANY = ("negatives", "negative_tokens", "teacher_tokens", "shares")
#: where a teacher lies, which is no part of a run
_UNPLACED = {"options": {"teacher": {"source": True}}}
#: a pair and one negative
LEAST_BATCH = 2
#: pairs of a batch, peak learning rate and temperature beyond which no run learns anything
LARGEST_BATCH, LARGEST_RATE = 2**24, 10.0
#: a text cut to fewer tokens says next to nothing
LEAST_CONTEXT = 4

#: of the products of a run: fp32, or bf16 by autocast around fp32 weights
Precision = Literal["fp32", "bf16"]

#: the poolings of `isoembed.encoder.pooling`
PoolingName = Literal["mean", "weighted-mean", "last", "first", "max"]
#: those that runs are trained with; models, records and laws may name any
TRAINED_POOLINGS = ("mean", "last", "max")


#: what makes weights the best of a run
BestBy = Literal["loss", "mrr"]


class SetupNote(Note):
    """A fact of how runs are trained, or of what differs between two."""

    kind: Literal["setup"] = "setup"

    sentences: ClassVar = {
        "differs": ("{what} {there} there, {here} here",),
        "other-weights": ("other weights for {model}",),
        "other-teacher": ("other weights, configuration, tokenizer or pooling of the teacher {teacher}",),
        "keeps-by-epoch": (
            "the {keep} weights are kept, held-out {metric} taken every epoch"
            "{patience:?, the run ends after {patience} without a better one}",
        ),
        "keeps-by-steps": (
            "the {keep} weights are kept, held-out {metric} taken every {steps} steps"
            "{patience:?, the run ends after {patience} without a better one}",
        ),
    }


def differs(what: str, there: object, here: object) -> SetupNote:
    """That `what` is one thing there and another here."""
    said = {
        name: value if type(value) in (int, float) else str(value) for name, value in (("there", there), ("here", here))
    }
    return SetupNote(code="differs", fields={"what": what, **said})


class EarlyStopping(Frozen):
    """Which weights a run keeps, and what ends it before its tokens are spent: what it does on held-out pairs."""

    keep: Literal["last", "best"] = Field("last", description="weights of the last step, or the best on held-out pairs")
    patience: PositiveInt | None = Field(
        None, description="end after so many evaluations with none better; None: never"
    )
    metric_for_best_model: Annotated[BestBy, one_of("metric_for_best_model", BestBy)] = Field(
        "loss", description="what is best: the least held-out loss, or the greatest mean reciprocal rank (MRR)"
    )
    eval_steps: PositiveInt | None = Field(None, description="steps between evaluations; None: after every epoch")

    @model_validator(mode="after")
    def _used(self) -> EarlyStopping:
        for name in ("eval_steps", "metric_for_best_model"):
            if getattr(self, name) != type(self).model_fields[name].default and not self.evaluates:
                raise InputError(f"`{name}` needs something to evaluate for; give `keep=best` or `patience`.")
        return self

    @property
    def evaluates(self) -> bool:
        """Whether held-out pairs are looked at during the run."""
        return self.keep == "best" or self.patience is not None

    @property
    def note(self) -> SetupNote | None:
        """The same as a fact; None at the defaults."""
        if not self.evaluates:
            return None
        metric = "loss" if self.metric_for_best_model == "loss" else "MRR"
        known = {"keep": self.keep, "metric": metric, "patience": self.patience or ()}
        if self.eval_steps is None:
            return SetupNote(code="keeps-by-epoch", fields=known)
        return SetupNote(code="keeps-by-steps", fields={**known, "steps": self.eval_steps})

    def __str__(self) -> str:
        """In words; empty at the defaults."""
        return str(self.note or "")


#: all tokens are spent and the last weights kept
TO_THE_END = EarlyStopping()


class SourceShare(Frozen):
    """A source of which batches have another share than by its pairs: it repeats before the others do, or after."""

    pairs: float = Field(gt=0, le=1, description="share of the unique training pairs")
    batches: float = Field(gt=0, le=1, description="share of the batches")
    teacher_tokens: float = Field(gt=0, le=LARGEST, description="mean tokens of a pair as the teacher reads it")


class DataStats(Frozen):
    """What the decision needs to know of a data set, under one tokenizer and one context length.

    Without data, `assumed` stands in: 14 query and 64 positive tokens per pair, the paper's corpus (section 4.1).
    Means are over the pairs; with `source_alpha` over the batches, to which a source brings what its share is.
    """

    fingerprint: str | None = Field(None, description="hash of the tokenised training pairs; None where assumed")
    source: str = "assumed: 14 + 64 tokens per pair, as in the paper's corpus"
    tokenizer: str | None = Field(None, description="hash of the tokenizer")
    context_tokens: PositiveInt = 75
    pairs: PositiveInt | None = Field(None, description="unique training pairs; None where unlimited")
    query_tokens: float = Field(14.0, gt=0, le=LARGEST, description="mean real tokens of a query, after truncation")
    positive_tokens: float = Field(
        64.0, gt=0, le=LARGEST, description="mean real tokens of a positive, after truncation"
    )
    negatives: float = Field(0.0, ge=0, le=LARGEST, description="mean hard negatives per pair")
    negative_tokens: float = Field(0.0, ge=0, le=LARGEST, description="mean real tokens of a pair's hard negatives")
    teacher_tokens: float | None = Field(
        None, gt=0, le=LARGEST, description="mean tokens of a pair as the teacher reads it; None: as many as the model"
    )
    shares: tuple[SourceShare, ...] = Field(
        (), description="sources, where a teacher reads them and their shares of the batches are not by their pairs"
    )
    squared_tokens: float = Field(
        14.0**2 + 64.0**2, gt=0, le=LARGEST**2, description="mean over pairs of the sum of squared lengths"
    )

    @classmethod
    @checked
    def assumed(cls, context_tokens: int) -> DataStats:
        """What stands in for data nobody named, cut at the context."""
        check_context(context_tokens)
        query, positive = min(14.0, context_tokens), min(64.0, context_tokens)
        return cls(
            source=f"assumed: {query:g} + {positive:g} tokens per pair, as in the paper's corpus",
            context_tokens=context_tokens,
            query_tokens=query,
            positive_tokens=positive,
            squared_tokens=query**2 + positive**2,
        )

    @property
    def tokens_per_pair(self) -> float:
        """Mean real tokens of a pair, its hard negatives among them."""
        return self.query_tokens + self.positive_tokens + self.negative_tokens


class PartialSetup(Frozen):
    """How runs are trained, as far as it was said; what is None was left open."""

    #: fields that `differences` looks at, and what they are called where not by their names
    COMPARED: ClassVar[dict[str, str]] = {
        "batch_pairs": "batch pairs",
        "context_tokens": "context tokens",
        "temperature": "temperature",
        "pooling": "pooling",
        "options": "options",
    }

    batch_pairs: int | None = Field(None, ge=LEAST_BATCH, le=LARGEST_BATCH)
    context_tokens: int | None = Field(None, ge=LEAST_CONTEXT, le=LARGEST)
    temperature: float | None = Field(None, ge=1e-4, le=100)
    pooling: PoolingName | None = None
    options: Options | None = None

    @field_validator("batch_pairs", "context_tokens", "pooling", mode="before")
    @classmethod
    def _in_words(cls, value: Any, field: ValidationInfo) -> Any:
        """Says the rule and its reason where pydantic would say the bound alone."""
        if field.field_name == "pooling" and isinstance(value, str):
            check_pooling(value)
        elif field.field_name == "batch_pairs" and isinstance(value, int):
            check_batch(value)
        elif field.field_name == "context_tokens" and isinstance(value, int):
            check_context(value)
        return value

    def differences(self, other: PartialSetup) -> dict[str, SetupNote]:
        """Field -> `batch pairs 32 there, 64 here`: what this value says, there, and `other` says otherwise, here.

        The one comparison of setups.  A field that either leaves open, or does not have, is no difference.
        """
        found = {}
        for name in self.COMPARED.keys() & other.COMPARED.keys():
            there, here = getattr(self, name), getattr(other, name)
            if there is not None and here is not None and there != here:
                found[name] = differs(self.COMPARED[name], there, here)
        options, others = self.options, other.options
        if options is not None and options.teacher is not None and options != others and str(options) == str(others):
            found["options"] = SetupNote(code="other-teacher", fields={"teacher": options.teacher.name})
        return {name: found[name] for name in self.COMPARED if name in found}

    def completed(self, *defaults: PartialSetup) -> Setup:
        """What this value leaves open from the first of `defaults` that says it, at last from `Setup` itself."""
        said: dict[str, Any] = {}
        for each in (*reversed(defaults), self):
            said |= {name: value for name in PartialSetup.model_fields if (value := getattr(each, name)) is not None}
        for name in ("batch_pairs", "context_tokens"):
            if name not in said:
                raise InputError(f"`{name}` must be named; no law and no family says it here.")
        return Setup(**said)


class Setup(PartialSetup):
    """How a run is trained, whatever its model, method and budget."""

    batch_pairs: int = Field(ge=LEAST_BATCH, le=LARGEST_BATCH)
    context_tokens: int = Field(
        ge=LEAST_CONTEXT, le=LARGEST, description="longest query or positive in tokens; longer ones are cut"
    )
    temperature: float = Field(0.025, ge=1e-4, le=100)
    pooling: PoolingName = "mean"
    options: Options = PLAIN

    @property
    def setup(self) -> Setup:
        """These fields alone, of a value that has more."""
        return Setup(**{name: getattr(self, name) for name in Setup.model_fields})

    def steps_of(self, train_tokens: float, data: DataStats) -> int:
        """Expected optimiser steps of a run that sees so many real tokens of `data`."""
        return max(1, round(train_tokens / data.tokens_per_pair / self.batch_pairs))


class Recipe(Setup, Summarised):
    """One run: a planned sweep point and a final recommendation alike.  `train(recipe, data)` never sees the budget:
    it stops at `train_tokens` real tokens."""

    semantics: int = SEMANTICS_VERSION
    family: str = Field(description="family name, or `custom`")
    model: ModelSpec
    base_hash: str | None = Field(None, description="hash of the base weights, filled in when they are at hand")
    method: Method
    data: DataStats
    unique_pairs: PositiveInt | None = Field(
        None, description="train on the first so many of the data's unique pairs alone, again and again; None: on all"
    )
    seed: Count = 0
    train_tokens: PositiveInt = Field(description="real tokens to process; the run ends with the step that reaches it")
    learning_rate: float = Field(gt=0, le=LARGEST_RATE, description="peak rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the tokens over which the rate rises linearly")
    warmup_tokens: PositiveInt | None = Field(
        None, description="tokens over which the rate rises, in place of that share: those of the run that this extends"
    )
    end_fraction: float = Field(0.1, ge=0, le=1, description="rate at the end as a share of the peak")
    weight_decay: float = Field(0.1, ge=0, le=100)
    max_grad_norm: float = Field(1.0, gt=0, le=LARGEST)
    precision: Precision | None = Field(
        None, description="of the products; None: as suits the machine that trains it, which says so in its record"
    )
    early_stopping: EarlyStopping = TO_THE_END

    @model_validator(mode="after")
    def _warm_before_it_falls(self) -> Recipe:
        if self.trunk_tokens is not None and self.whole_warmup_tokens > self.trunk_tokens + 1:
            raise InputError(
                f"The rate must rise before it falls: {self.warmup_share:.0%} of the tokens warm up and "
                f"`decay_fraction` is {self.options.decay_fraction:g}. Lower that."
            )
        return self

    @classmethod
    @checked
    def load(cls, file: str | Path) -> Recipe:
        """Read recipe.json or record.json of a finished run, or what `isoembed recipe` prints as JSON.

        Raises InputError naming the file where it holds no recipe.
        """
        file = expanded(file)
        try:
            value = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"`recipe` must be a JSON file that holds a recipe; {file} is none ({error}).") from None
        value = value.get("recipe", value) if isinstance(value, dict) else value
        if not isinstance(value, dict):
            raise InputError(f"`recipe` must be a JSON file that holds a recipe; {file} holds another value.")
        try:
            return cls.model_validate_json(json.dumps({name: value[name] for name in value if name not in DERIVED}))
        except ValidationError as error:
            raise from_validation(error, f"the recipe in {file}") from None

    def derived(self) -> dict[str, Any]:
        """What follows from the fields, by the names of `DERIVED`."""
        return {name: value(self) for name, value in DERIVED.items()}

    def summary(self) -> dict[str, str]:
        """What is trained how, and the run's key."""
        return {
            "method": self.method.label,
            "model": self.model.name,
            "train_tokens": f"{self.train_tokens:,}",
            "steps": f"{self.steps:,} of {self.batch_pairs} pairs",
            "learning_rate": f"{self.learning_rate:.3g}",
            "key": self.key,
        }

    @property
    def most_hardware_flop(self) -> float:
        """FLOP with every mini-batch run forward twice; padding beside it."""
        return self.flop + 2.0 * self.cost.forward * self.train_tokens

    @property
    def cost(self) -> Cost:
        """Parameters in forward pass, backward pass and update, by which a token's FLOP go (paper, section 3.5)."""
        return self.method.cost(self.model)

    @property
    def objective(self) -> str:
        """What is minimised, in words."""
        teacher = self.options.teacher
        taught = "" if teacher is None else f"{teacher.loss} loss against the vectors of {teacher.name}"
        if teacher is not None and teacher.weight == 1:
            return f"{taught}, temperature {self.temperature:g}"
        whole = self.options.batch_by
        one = "" if whole == "mixed" else f" of one {whole}"
        parts = [f"symmetric InfoNCE with in-batch negatives{one}"]
        if self.data.negatives:
            parts.append(f"{self.data.negatives:.2f} hard negatives per pair")
        margin, by = self.options.mask_margin, ""
        if self.options.mask_by == "teacher":
            margin, by = margin or 0.0, ", by the teacher's vectors,"
        if margin is not None:
            parts.append(f"candidates over {margin:g} above the positive's cosine{by} left out")
        if self.options.hardness_strength:
            parts.append(f"negatives weighted by exp({self.options.hardness_strength:g} cos)")
        if teacher is not None and teacher.weight > 0:
            parts.append(f"{taught} beside it with weight {teacher.weight:g}")
        if self.options.matryoshka:
            dims = ", ".join(map(str, self.options.matryoshka))
            parts.append(f"mean over the whole embedding and its first {dims} dimensions")
        return f"{', '.join(parts)}, temperature {self.temperature:g}"

    @property
    def warmup_share(self) -> float:
        """Of the tokens, those over which the rate rises."""
        return self.warmup if self.warmup_tokens is None else self.warmup_tokens / self.train_tokens

    @property
    def whole_warmup_tokens(self) -> int:
        """The same in whole tokens."""
        return round(self.warmup * self.train_tokens) if self.warmup_tokens is None else self.warmup_tokens

    @property
    def trunk_tokens(self) -> int | None:
        """The tokens before the rate begins to fall; None where it falls from the warm-up on."""
        if self.options.schedule != "wsd":
            return None
        return self.train_tokens - max(1, round(self.options.decay_fraction * self.train_tokens))

    @property
    def trunk_flop(self) -> float:
        """What these tokens cost, which a longer run does not spend again; 0 where there are none."""
        return float(self.cost.flop_per_token) * (self.trunk_tokens or 0)

    @property
    def trunk_teacher_flop(self) -> float:
        """What the teacher reads of these tokens, which a longer run does not pay again either."""
        return self.price.teacher_flop(self.trunk_tokens or 0)

    @property
    def fall_in_words(self) -> str:
        """How the rate falls after the warm-up, and to which share of the peak."""
        if self.options.schedule == "cosine":
            return f"cosine to {self.end_fraction:.0%}"
        return f"decay {self.options.decay_fraction:.0%} to {self.end_fraction:.0%}"

    @property
    def average_in_words(self) -> str:
        """Which average of the weights is kept; empty where none is."""
        decay = self.options.ema_decay
        return "" if decay is None else f"exponential moving average of the weights, decay {decay:g} a step"

    @property
    def pooling_in_words(self) -> str:
        """How a text becomes a vector, in words."""
        prompts = self.options.prompts
        both_ways = ", attention both ways" if self.options.bidirectional else ""
        grown = f", token table grown to {self.model.vocab:,} rows" if self.options.resize_embeddings else ""
        width = self.options.dimensions
        projected = "" if width is None else f", projected to {width} dimensions"
        return f"{self.pooling} pooling{both_ways}{'' if prompts == NO_PROMPTS else f', {prompts}'}{grown}{projected}"

    @property
    def flop(self) -> float:
        """C: model FLOP of the run, to within one step."""
        return float(self.cost.flop_per_token) * self.train_tokens

    @property
    def price(self) -> Price:
        """What its tokens cost."""
        data = self.data if self.unique_pairs is None else self.data.model_copy(update={"pairs": self.unique_pairs})
        return price_of(self.cost, self.options, data)

    @property
    def teacher_flop(self) -> float:
        """Expected FLOP of the teacher, beside `flop`; 0 without one."""
        return self.price.teacher_flop(self.train_tokens)

    @property
    def total_flop(self) -> float:
        """What a budget pays for: C and the teacher's forward passes."""
        return self.flop + self.teacher_flop

    @property
    def pairs(self) -> float:
        """Expected training pairs, repeats counted."""
        return self.train_tokens / self.data.tokens_per_pair

    @property
    def steps(self) -> int:
        """Expected optimiser steps."""
        return self.steps_of(self.train_tokens, self.data)

    @property
    def unique(self) -> int | None:
        """Unique pairs that training draws from; None where the data are unlimited."""
        return self.data.pairs if self.unique_pairs is None else self.unique_pairs

    @property
    def epochs(self) -> float | None:
        """Expected epochs over the unique pairs; None where the data are unlimited."""
        return None if self.unique is None else self.pairs / self.unique

    def over(self, epochs: float) -> Recipe:
        """The same recipe over so many epochs of its unique pairs."""
        if self.unique is None:
            raise InputError("`epochs` need pairs to count: the recipe is for data without end. Give it its `data`.")
        if not 0 < epochs <= 1e6:
            raise InputError(f"`epochs` must be a positive number up to 1e6, as 3; got {epochs}.")
        tokens = max(1, round(epochs * self.unique * self.data.tokens_per_pair))
        return self.model_copy(update={"train_tokens": tokens})

    def extended(self, train_tokens: int) -> Recipe:
        """The same run of more tokens: the same steps until this one's rate begins to fall."""
        if self.options.schedule != "wsd":
            raise InputError(
                "A run can be extended where its rate stays at the peak before it falls; this one's is a "
                f"{self.options.schedule}. Train with `schedule=wsd`, then extend that."
            )
        if train_tokens <= self.train_tokens:
            raise InputError(refusal("no-longer", tokens=self.train_tokens, train_tokens=train_tokens))
        return self.model_copy(update={"train_tokens": train_tokens, "warmup_tokens": self.whole_warmup_tokens})

    @property
    def key(self) -> str:
        """16 hex digits that identify the run: the hash of all that it depends on.

        A field at its default is left out, so that a field added later changes no key made before.  So is the data's
        name: its fingerprint says what they are, wherever they lie; and the model's `_COUNTED_LATER`.  Of the data,
        hard negatives count where there are any; of precisions, bf16.
        """
        apart: Any = {"method": True, "data": True, "model": _COUNTED_LATER, **_UNPLACED, **self._plain_precision}
        value = self.model_dump(mode="json", exclude_defaults=True, exclude=apart)
        method, data = self.method.model_dump(mode="json"), self.data.model_dump(mode="json", exclude={"source"})
        data = {name: count for name, count in data.items() if count or name not in _COUNTED_WHERE_ANY}
        return fingerprint({**value, "semantics": self.semantics, "method": method, "data": data})

    def published(self) -> Recipe:
        """The recipe as it may leave this machine: a base model's folder and the data by their names alone."""
        model = self.model.model_copy(update={"source": nowhere(self.model.source)})
        data = self.data.model_copy(update={"source": placeless(self.data.source)})
        published = self.model_copy(update={"model": model, "data": data})
        return published if self.options.teacher is None else published.taught_by(self.options.teacher.published)

    def taught_by(self, teacher: Teacher) -> Recipe:
        """The same recipe with its teacher elsewhere."""
        return self.model_copy(update={"options": self.options.model_copy(update={"teacher": teacher})})

    def key_without(self, *fields: str) -> str:
        """16 hex digits, equal where all fields but these are: which runs are of one setting, or vary one thing."""
        apart: Any = {"model": _COUNTED_LATER, **_UNPLACED, **dict.fromkeys(fields, True), **self._plain_precision}
        return fingerprint(self.model_dump(mode="json", exclude=apart))

    @property
    def _plain_precision(self) -> dict[str, bool]:
        """The field, where it says what all runs were before there was one."""
        return {} if self.precision == "bf16" else {"precision": True}


def family_setup(family: Family) -> PartialSetup:
    """What suits a family where nobody says otherwise."""
    return PartialSetup(batch_pairs=family.batch_pairs, context_tokens=family.context_tokens)


def check_context(context_tokens: int) -> None:
    """Raise InputError where a text would be cut to next to nothing."""
    if context_tokens < LEAST_CONTEXT:
        raise InputError(
            f"`context_tokens` must be at least {LEAST_CONTEXT}; got {context_tokens}. Raise `context_tokens`."
        )


def check_pooling(name: str) -> None:
    """Raise InputError where no pooling is called `name`."""
    if name not in get_args(PoolingName):
        check_named("pooling", name, TRAINED_POOLINGS)


def check_trained(setup: PartialSetup) -> None:
    """Raise InputError where `setup` says what earlier versions trained with and no run does any more, for it did not
    help at equal FLOP (docs/lab-notes/models.md, 2026-11-29)."""
    if setup.pooling not in (None, *TRAINED_POOLINGS):
        raise InputError(
            f"`pooling` must be one of {', '.join(TRAINED_POOLINGS)}; {setup.pooling} is not trained any more: it was "
            "not better than mean at equal FLOP. Use mean."
        )
    margin = None if setup.options is None else setup.options.mask_margin
    if margin is not None:
        raise InputError(
            f"`mask_margin` is not trained with any more: it was level with none at equal FLOP; got {margin:g}. Leave "
            "it out, or let a teacher judge (`mask_by=teacher`)."
        )


def check_batch(batch_pairs: int) -> None:
    """Raise InputError where a batch is too small to hold a negative, or larger than any."""
    if batch_pairs > LARGEST_BATCH:
        raise InputError(f"`batch_pairs` must be at most {LARGEST_BATCH:,}; got {batch_pairs:,}. Give fewer.")
    if batch_pairs < LEAST_BATCH:
        raise InputError(f"`batch_pairs` must be at least 2, a pair and one negative; got {batch_pairs}.")


#: what JSON shows beside a recipe's fields, and how it follows from them
DERIVED: dict[str, Callable[[Recipe], Any]] = {
    "key": lambda recipe: recipe.key,
    "flop": lambda recipe: recipe.flop,
    "teacher_flop": lambda recipe: recipe.teacher_flop,
    "pairs": lambda recipe: recipe.pairs,
    "steps": lambda recipe: recipe.steps,
    "epochs": lambda recipe: recipe.epochs,
    "forward_params": lambda recipe: recipe.cost.forward,
    "backward_params": lambda recipe: recipe.cost.backward,
    "updated_params": lambda recipe: recipe.cost.updated,
}


@checked
def solve(
    flop: float,
    model: ModelSpec,
    method: Method,
    learning_rate: float,
    setup: Setup,
    data: DataStats,
    *,
    family: str,
    seed: int = 0,
    early_stopping: EarlyStopping = TO_THE_END,
) -> Recipe:
    """The recipe that spends `flop` on `model` with `method`: D = C / (2 N_F + 2 N_B + 2 N_U) (paper section 3.5).

    A teacher is paid from `flop` too: D is then less.
    learning_rate: peak; family: its name, or `custom`.
    Raises InputError where the budget does not pay for one step, or a batch holds more pairs than there are.
    """
    return Recipe(
        **dict(setup.setup),
        family=family,
        model=model,
        method=method,
        data=data,
        seed=seed,
        train_tokens=affordable(flop, model, method, setup, data),
        learning_rate=learning_rate,
        early_stopping=early_stopping,
    )


def affordable(flop: float, model: ModelSpec, method: Method, setup: Setup, data: DataStats) -> int:
    """D: the real tokens that `flop` pays for.  Raises InputError as `solve`."""
    batch_pairs = setup.batch_pairs
    if data.pairs is not None and data.pairs < batch_pairs:
        raise InputError(refusal("few-pairs", batch_pairs=batch_pairs, pairs=data.pairs))
    price = price_of(method.cost(model), setup.options, data)
    step_flop = price.flop(data.tokens_per_pair * batch_pairs)
    if flop < step_flop:
        known = {"batch_pairs": batch_pairs, "tokens_per_pair": data.tokens_per_pair, "model": model.name}
        if (teacher := setup.options.teacher) is None:
            raise InputError(refusal("one-step", flop=flop, step_flop=step_flop, **known))
        share = price.teacher_flop(data.tokens_per_pair * batch_pairs) / step_flop
        known |= {"teacher": teacher.name, "share": share}
        raise InputError(refusal("one-step-taught", flop=flop, step_flop=step_flop, **known))
    check_teacher(setup, data)
    if setup.context_tokens > model.context:
        known = {"most": model.context, "context_tokens": setup.context_tokens}
        raise InputError(refusal("long-context", model=model.name, **known))
    check_width(model, setup.options)
    return round(price.tokens(flop))


def check_width(model: ModelSpec, options: Options) -> None:
    """Raise InputError where embeddings of `model` cannot have the dimensions that `options` ask for."""
    dimensions, matryoshka = options.dimensions, options.matryoshka
    if dimensions is not None and dimensions > model.hidden:
        raise InputError(refusal("wide-projection", hidden=model.hidden, dimensions=dimensions, model=model.name))
    if matryoshka and matryoshka[0] >= (width := options.width_of(model)):
        raise InputError(refusal("wide-prefix", hidden=width, dimensions=matryoshka[0], model=model.name))


def check_teacher(setup: Setup, data: DataStats) -> None:
    """Raise InputError where a teacher would not read what it judges, or hard negatives would teach nothing."""
    teacher = setup.options.teacher
    if teacher is None:
        return
    if setup.context_tokens > teacher.context:
        known = {"most": teacher.context, "context_tokens": setup.context_tokens}
        raise InputError(refusal("teacher-context", teacher=teacher.name, **known))
    if teacher.weight == 1 and data.negatives:
        raise InputError(
            "Hard negatives need the contrastive loss; got `teacher_weight` 1. Give less, or leave the negatives out "
            "(`negatives=0`)."
        )


def price_of(cost: Cost, options: Options, data: DataStats) -> Price:
    """What a token of `data` costs; a teacher reads each unique pair once."""
    if (teacher := options.teacher) is None:
        return Price(train=cost.flop_per_token)
    read = data.teacher_tokens or data.query_tokens + data.positive_tokens
    unique = math.inf if data.pairs is None else data.pairs * data.tokens_per_pair
    readings = tuple(
        TeacherReading(
            flop=2.0 * teacher.params * each.teacher_tokens / data.tokens_per_pair * each.batches,
            until=unique * each.pairs / each.batches,
        )
        for each in data.shares or (SourceShare(pairs=1, batches=1, teacher_tokens=read),)
    )
    return Price(train=cost.flop_per_token, readings=readings)
