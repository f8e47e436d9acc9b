"""What a run may do beyond the paper's recipe: prompts, a teacher, how batches are made, the schedule, the width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from isoembed.core import Frozen, InputError, PositiveInt, checked, one_of, short_name
from isoembed.families.base import ModelSpec

#: of pairs
MOST_CLUSTERS = 2**16
#: the weight of a negative beyond which the nearest one is all that counts
MOST_HARDNESS = 100.0

#: how a student is held against its teacher: `isoembed.training.distillation`
TeacherLoss = Literal["cosine", "mse", "kl"]
#: whose similarities say which candidates are left out
Judge = Literal["self", "teacher"]
#: what a batch's pairs have in common: nothing, their source, or their cluster too
BatchBy = Literal["mixed", "source", "cluster"]
#: how the learning rate goes on after the warm-up: `isoembed.training.schedule`
Schedule = Literal["cosine", "wsd"]


class SourcePrompts(Frozen):
    """What stands in front of the texts of one source of the data, in place of what stands in front of the others'."""

    source: str = Field(min_length=1, description="name of the source, or, of a file, that up to its first dot")
    query: str = ""
    positive: str = ""


class Prompts(Frozen):
    """What stands in front of every query, and of every positive and hard negative.  Its tokens are real tokens: they
    count in D and against the context."""

    query: str = ""
    positive: str = ""
    pooled: bool = Field(True, description="whether the pooling reads a prompt's own tokens too")
    sources: tuple[SourcePrompts, ...] = Field((), description="of sources that have their own, by name")

    @classmethod
    @checked
    def of(
        cls, query: str, positive: str, *, pooled: bool, sources: Mapping[str, Mapping[str, str]] | None = None
    ) -> Prompts:
        """As a user gave them; raises InputError where there is nothing to leave out of the pooling.

        sources: name of a source -> `query` and `positive`; a side that it does not name is that of all.
        """
        sides = {"query": query, "positive": positive}
        own = tuple(SourcePrompts(source=name, **{**sides, **given}) for name, given in (sources or {}).items())
        if not (query or positive or pooled or any(each.query or each.positive for each in own)):
            raise InputError(
                "A prompt is left out of the pooling only where there is one; got none. Give `query_prompt` or "
                "`positive_prompt`."
            )
        return cls(**sides, pooled=pooled, sources=own)

    @field_validator("sources")
    @classmethod
    def _by_name(cls, sources: tuple[SourcePrompts, ...]) -> tuple[SourcePrompts, ...]:
        """One order, so that equal settings are one key."""
        names = [each.source for each in sources]
        if len(set(names)) < len(names):
            raise InputError(f"A source has prompts once; got {', '.join(names)}. Name each once.")
        return tuple(sorted(sources, key=lambda each: each.source))

    @model_serializer(mode="wrap")
    def _without_none(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there were prompts of sources, where there are none: keys and hashes stay what they were."""
        return {name: value for name, value in dumped(self).items() if name != "sources" or value}

    def of_source(self, name: str) -> SourcePrompts:
        """Those of the source of that name: its own, or else those of all.

        Raises InputError where two are of it, by its whole name and by the short one.
        """
        own = [each for each in self.sources if each.source in (name, short_name(name))]
        if len(own) > 1:
            raise InputError(f"A source has prompts once; {own[0].source} and {own[1].source} are one. Leave one out.")
        return own[0] if own else SourcePrompts(source=name, query=self.query, positive=self.positive)

    @property
    def named(self) -> dict[str, str]:
        """By the names under which an exported model lists them: `query` and `document`, then `NAME-query` and
        `NAME-document` of each source."""
        found = {"query": self.query, "document": self.positive}
        for each in self.sources:
            found |= {f"{each.source}-query": each.query, f"{each.source}-document": each.positive}
        return found

    def __str__(self) -> str:
        """In words."""
        own = "".join(f", of {each.source} {each.query!r} and {each.positive!r}" for each in self.sources)
        return f"prompts {self.query!r} and {self.positive!r}{own}{'' if self.pooled else ', not pooled'}"


#: texts as they are
NO_PROMPTS = Prompts()


class Teacher(Frozen):
    """An embedding model whose vectors a run learns from; `isoembed.teacher` makes it of a folder or hub id.

    What it is goes by `weights`; where it lies is no part of a run's key, and two that lie apart are equal.
    """

    source: str = Field(description="folder or hub id of a sentence-transformers model")
    weights: str = Field(description="hash of its weights, its tokenizer and how it pools")
    params: PositiveInt = Field(description="non-embedding parameters that a token runs through")
    width: PositiveInt = Field(description="dimensions of its vectors")
    context: PositiveInt = Field(description="tokens of a text that it reads at most")
    loss: Annotated[TeacherLoss, one_of("teacher_loss", TeacherLoss)] = "cosine"
    weight: float = Field(1.0, ge=0, le=1, description="of its loss; the contrastive one has the rest")

    @field_validator("weight", mode="before")
    @classmethod
    def _within(cls, weight: Any) -> Any:
        if isinstance(weight, int | float) and not 0 <= weight <= 1:
            raise InputError(f"`teacher_weight` must be from 0 to 1; got {weight:g}. 0.5 is half of the loss.")
        return weight

    @property
    def name(self) -> str:
        """The last part of where it lies."""
        return self.source.rstrip("/").rpartition("/")[2]

    @property
    def published(self) -> Teacher:
        """As it may leave this machine: a folder by its name alone."""
        return self.model_copy(update={"source": nowhere(self.source)})

    @property
    def identity(self) -> tuple[Any, ...]:
        """All but where it lies."""
        return tuple(value for name, value in self if name != "source")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Teacher) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __str__(self) -> str:
        """In words."""
        return f"{self.name} teaches: {self.loss}, weight {self.weight:g}"


def nowhere(source: str) -> str:
    """A model's folder by its name alone; a hub id as it is."""
    if source.startswith(("/", "~", ".")):  # `./` again, so that no hub id is read into it
        return f"./{source.rstrip('/').rpartition('/')[2]}"
    return source


class Options(Frozen):
    """What a run may do beyond the paper's recipe; at its defaults it is the paper's.  All of it changes the loss, so a
    law holds for one set of options."""

    mask_margin: float | None = Field(
        None,
        ge=0,
        le=2,
        description="of earlier versions: candidates left out whose cosine exceeds the positive's by more than this",
    )
    prompts: Prompts = NO_PROMPTS
    matryoshka: tuple[int, ...] = Field(
        (), description="first dimensions of the embedding that must do by themselves, largest first"
    )

    dimensions: PositiveInt | None = Field(
        None,
        description="of the embedding, by a linear map without bias behind the pooling, trained with the model; None: "
        "the model's own, without a map",
    )

    bidirectional: bool = Field(
        False, description="every token attends to the whole text, not only to what is before it"
    )

    resize_embeddings: bool = Field(
        False, description="the token table is grown to the model's `vocab` rows first, so that every token has one"
    )

    teacher: Teacher | None = Field(None, description="the model that a run is distilled from, or guided by")

    mask_by: Annotated[Judge, one_of("mask_by", Judge)] = Field(
        "self", description="teacher: candidates that it finds nearer to the query than the positive are left out"
    )

    hardness_strength: float = Field(
        0.0, description="a negative counts exp(this times its cosine) times, without a gradient through the weight"
    )

    batch_by: Annotated[BatchBy, one_of("batch_by", BatchBy)] = Field(
        "mixed", description="batches of a mixture: of all sources, each of one source, or of one cluster of one source"
    )

    clusters: int | None = Field(
        None, description="of similar pairs, by which batches go; each source has some by its pairs"
    )

    source_alpha: float | None = Field(
        None, description="a source's share of the batches goes with its pairs to this power; None: by its weight"
    )

    ema_decay: float | None = Field(
        None, description="the exponential moving average of the weights is kept in their place, with this decay a step"
    )

    schedule: Annotated[Schedule, one_of("schedule", Schedule)] = Field(
        "cosine",
        description="of the learning rate: a cosine, or wsd (warm-up, stable, decay): constant, falling at the end",
    )

    decay_fraction: float = Field(0.4, description="share of a wsd run's tokens over which the rate falls")

    @field_validator("decay_fraction", mode="before")
    @classmethod
    def _after_a_warmup(cls, fraction: Any) -> Any:
        if isinstance(fraction, int | float) and not 0 < fraction <= 0.9:
            raise InputError(f"`decay_fraction` must be above 0 and at most 0.9; got {fraction:g}. 0.4 is usual.")
        return fraction

    @field_validator("hardness_strength", mode="before")
    @classmethod
    def _a_strength(cls, strength: Any) -> Any:
        if isinstance(strength, int | float) and not 0 <= strength <= MOST_HARDNESS:
            raise InputError(
                f"`hardness_strength` must be from 0 to {MOST_HARDNESS:g}; got {strength:g}. 5 and 9 are usual."
            )
        return strength

    @field_validator("ema_decay", mode="before")
    @classmethod
    def _a_decay(cls, decay: Any) -> Any:
        if isinstance(decay, int | float) and not 0 < decay < 1:
            raise InputError(
                f"`ema_decay` must lie between 0 and 1; got {decay:g}. 0.99 averages about the last 100 steps."
            )
        return decay

    @field_validator("source_alpha", mode="before")
    @classmethod
    def _from_equal_to_by_size(cls, alpha: Any) -> Any:
        if isinstance(alpha, int | float) and not 0 <= alpha <= 1:
            raise InputError(
                f"`source_alpha` must be from 0, equal shares, to 1, shares by size; got {alpha:g}. 0.5 is between."
            )
        return alpha

    @field_validator("clusters", mode="before")
    @classmethod
    def _two_clusters(cls, clusters: Any) -> Any:
        if isinstance(clusters, int | float) and not 2 <= clusters <= MOST_CLUSTERS:
            raise InputError(
                f"`clusters` must be from 2 to {MOST_CLUSTERS:,}; got {clusters:g}. One for a thousand pairs is usual."
            )
        return clusters

    @field_validator("dimensions", mode="before")
    @classmethod
    def _a_width(cls, dimensions: Any) -> Any:
        if isinstance(dimensions, int) and dimensions < 1:
            raise InputError(f"`dimensions` must be at least 1; got {dimensions}. Leave it out for the model's own.")
        return dimensions

    @field_validator("matryoshka")
    @classmethod
    def _largest_first(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        """One order, so that equal settings are one key."""
        if any(dim < 1 for dim in dims):
            raise ValueError("a prefix has at least one dimension")
        return tuple(sorted(set(dims), reverse=True))

    @model_validator(mode="after")
    def _taught(self, info: ValidationInfo) -> Options:
        if self.teacher is None:
            if self.mask_by == "teacher":
                raise InputError("`mask_by=teacher` needs a teacher to judge; give `teacher`.")
        elif self.teacher.weight == 0 and self.mask_by != "teacher":
            raise InputError(
                "A teacher must teach or guide; at `teacher_weight` 0 it does neither. Raise it, or give "
                "`mask_by=teacher`."
            )
        elif self.teacher.weight == 1 and self.matryoshka:
            raise InputError(
                "`matryoshka` needs the contrastive loss, for the teacher's is of whole vectors; got `teacher_weight` "
                "1. Give less."
            )
        elif self.teacher.weight == 1 and self.hardness_strength:
            raise InputError(
                "`hardness_strength` weighs the negatives of the contrastive loss, which has no part at "
                "`teacher_weight` 1. Give less, or leave it out."
            )
        elif self.teacher.weight == 1 and self.mask_by == "teacher" and info.mode != "json":  # older files
            raise InputError(
                "`mask_by=teacher` leaves candidates out of the contrastive loss, which has no part at "
                "`teacher_weight` 1. Give less, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _shared(self) -> Options:
        if self.source_alpha is not None and self.batch_by == "mixed":
            raise InputError(
                "`source_alpha` gives sources their shares of the batches, so that each must be of one source; give "
                "`batch_by=source` too. Mixed batches go by the weights of the mixture (a.jsonl:3,b.jsonl:1)."
            )
        if (self.clusters is None) == (self.batch_by == "cluster"):
            raise InputError(
                f"`clusters` says how many `batch_by=cluster` goes by; got `clusters` {self.clusters} and "
                f"`batch_by` {self.batch_by}. Give both or neither."
            )
        return self

    @model_validator(mode="after")
    def _of_its_schedule(self) -> Options:
        if self.schedule != "wsd" and self.decay_fraction != type(self).model_fields["decay_fraction"].default:
            raise InputError("`decay_fraction` is of a rate that is constant first; give `schedule=wsd` too.")
        return self

    def width_of(self, model: ModelSpec) -> int:
        """Dimensions of an embedding of `model`."""
        return self.dimensions or model.hidden

    def narrowest_of(self, model: ModelSpec) -> int:
        """The fewest of them that are trained to do alone."""
        return min([self.width_of(model), *self.matryoshka])

    def __str__(self) -> str:
        """In words; `none` at the defaults."""
        words = {
            "prompts": str(self.prompts),
            "teacher": str(self.teacher),
            "mask_margin": f"candidates over {self.mask_margin or 0.0:g} above the positive masked",
            "mask_by": "candidates masked by the teacher's similarities",
            "hardness_strength": f"negatives weighted by exp({self.hardness_strength:g} cos)",
            "bidirectional": "attention both ways",
            "dimensions": f"projected to {self.dimensions} dimensions",
            "matryoshka": f"matryoshka {', '.join(map(str, self.matryoshka))}",
            "resize_embeddings": "token table grown",
            "batch_by": f"one {self.batch_by} a batch",
            "clusters": f"of {self.clusters or 0:,} clusters",
            "ema_decay": f"weights averaged, EMA of decay {self.ema_decay or 0.0:g}",
            "source_alpha": f"sources by their pairs to the power {self.source_alpha or 0.0:g}",
            "schedule": "rate constant, falling at the end",
            "decay_fraction": f"over the last {self.decay_fraction:.0%}",
        }
        changed = [name for name, value in self if value != type(self).model_fields[name].default]
        known = [words[name] for name in words if name in changed]
        others = [f"{name} {getattr(self, name)}" for name in changed if name not in words]
        return ", ".join([*known, *others]) or "none"


def dims_named(text: str | None) -> tuple[int, ...]:
    """Matryoshka dimensions as a user writes them: `256,128` -> (256, 128)."""
    if text is None:
        return ()
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise InputError(f"`matryoshka` must be numbers of dimensions, as 256,128; got {text!r}.")
    return tuple(int(part) for part in text.split(","))


def dimensions_named(text: str) -> int:
    """The width of a projection as a user writes it."""
    if not (text.isdecimal() and int(text) > 0):
        raise InputError(f"`dimensions` must be a number of dimensions, as 64; got {text!r}.")
    return int(text)


#: the paper's own way
PLAIN = Options()
