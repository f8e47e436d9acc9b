"""What limits a recipe beside the training budget: memory, data, size, methods, and serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from isoembed.budget import Device, device_named
from isoembed.core import LARGEST, Frozen, InputError
from isoembed.families.base import Family, ModelSpec
from isoembed.fitting.repetition import MOST_EPOCHS
from isoembed.methods import Method, names
from isoembed.notes import refusal
from isoembed.recipe import DataStats, Setup

LimitName = Literal["max_params", "max_index_bytes", "max_query_flop"]

#: limit -> what else helps than to raise it
_OTHERWISE: dict[LimitName, str] = {"max_index_bytes": "train fewer `dimensions` or a narrower `matryoshka`, "}
#: limit -> what it bounds of a size, and in what unit
_SIZE_LIMITS: dict[LimitName, tuple[Callable[[ModelSpec, Setup, DataStats], float], str]] = {
    "max_params": (lambda size, *_: size.params, "non-embedding parameters"),
    "max_index_bytes": (lambda size, setup, _: 4 * setup.options.narrowest_of(size), "bytes a vector"),
    "max_query_flop": (lambda size, _, data: 2 * size.params * data.query_tokens, "FLOP a query"),
}


class SizeLimits(Frozen):
    """How large, how wide and how dear to ask a model may be; None limits nothing."""

    max_params: int | None = Field(None, ge=1, le=LARGEST, description="largest model, in non-embedding parameters")
    max_index_bytes: float | None = Field(
        None, gt=0, le=1e24, description="most bytes that a document's vector takes in an index, in fp32"
    )
    max_query_flop: float | None = Field(
        None, gt=0, le=1e24, description="most FLOP that embedding a query of mean length takes, 2 N a token"
    )

    @property
    def size_limits(self) -> list[LimitName]:
        """Names of the limits on sizes that are set."""
        return [name for name in _SIZE_LIMITS if getattr(self, name) is not None]

    def broken_by(self, size: ModelSpec, setup: Setup, data: DataStats) -> LimitName | None:
        """Name of the first of these limits that `size` is above; None where it is within all.

        Of Matryoshka embeddings the narrowest that are trained count.
        """
        return next(
            (name for name in self.size_limits if self.measured(name, size, setup, data) > getattr(self, name)), None
        )

    @staticmethod
    def measured(name: LimitName, size: ModelSpec, setup: Setup, data: DataStats) -> float:
        """What the limit of that name bounds of `size`."""
        return _SIZE_LIMITS[name][0](size, setup, data)

    def within(self, family: Family, sizes: Sequence[ModelSpec], setup: Setup, data: DataStats) -> list[ModelSpec]:
        """Those of `sizes` that no limit leaves out, in their order.

        Raises InputError, naming a limit, where none is left.
        """
        left = list(sizes)
        for name in self.size_limits:
            limit, (measure, of) = getattr(self, name), _SIZE_LIMITS[name]
            values = [measure(size, setup, data) for size in left]
            left = [size for size, value in zip(left, values, strict=True) if value <= limit]
            if not left:
                known = {"limit": name, "family": family.name, "unit": of, "otherwise": _OTHERWISE.get(name, "")}
                raise InputError(refusal("too-large", least=min(values), most=limit, **known))
        return left


class Constraints(SizeLimits):
    """Limits on a recommendation; the default limits nothing but the repetition of data: one epoch at most."""

    device_memory: float | str | None = Field(None, description="bytes, or a device's name: training must fit")
    pairs: int | None = Field(None, ge=1, le=LARGEST, description="unique pairs at hand; default: what the data say")
    epochs: float | None = Field(
        None, gt=0, le=1e6, description="epochs over the unique pairs at most; default: one, or what `repeats` says"
    )
    repeats: Literal["none", "muennighoff", "measured"] | None = Field(
        None,
        description="none: at most one epoch; else repeat, each repetition worth less: by the R* of pretraining "
        "(muennighoff), or by the law's own (measured); default: by the law's own where it has one",
    )
    methods: tuple[str, ...] | None = Field(None, min_length=1, description="names of the methods allowed")
    serving_tokens: float = Field(
        0.0, ge=0, le=1e18, description="tokens to be embedded over the model's life, paid from the same budget"
    )

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in methods or ():
            if name not in names():
                raise ValueError(f"a method must be one of {', '.join(names())}, not {name!r}")
        return methods

    @field_validator("device_memory")
    @classmethod
    def _there_is(cls, memory: float | str | None) -> float | str | None:
        if isinstance(memory, str):
            _device(memory)
        elif memory is not None and not memory > 0:
            raise InputError(f"`device_memory` must be above 0 bytes; got {memory:g}. Leave it out for no limit.")
        return memory

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.repeats == "none" and (self.epochs or 0) > 1:
            raise InputError(
                f"`epochs` above 1 repeats the pairs, which `repeats=none` forbids; got {self.epochs:g}. Give one of "
                "the two."
            )
        return self

    @property
    def most_epochs(self) -> float:
        """Over the unique pairs at most."""
        if self.epochs is not None:
            return self.epochs
        return 1.0 if self.repeats in (None, "none") else MOST_EPOCHS

    @property
    def memory_bytes(self) -> float | None:
        """The memory that training must fit into; None where there is no limit."""
        memory = self.device_memory
        return _device(memory).memory_bytes if isinstance(memory, str) else memory

    def allows(self, method: Method) -> bool:
        """Whether `method` may be used: one that is trained, and not left out."""
        return method.retired is None and (self.methods is None or method.name in self.methods)

    def cap(self, data: DataStats) -> DataStats:
        """`data` with no more unique pairs than there are at hand."""
        if self.pairs is None or (data.pairs is not None and data.pairs <= self.pairs):
            return data
        return data.model_copy(update={"pairs": self.pairs})

    def training_flop(self, flop: float, model: ModelSpec) -> float:
        """What serving leaves of `flop` for training `model`: C - 2 N T, forward FLOP of T tokens (Sardana et al. 2023,
        arXiv 2401.00448).  LoRA is merged before serving, so that every method serves N.

        Raises InputError where serving alone costs more.
        """
        left = flop - 2.0 * model.params * self.serving_tokens
        if left <= 0:
            known = {"tokens": self.serving_tokens, "model": model.name}
            raise InputError(refusal("serving", cost=flop - left, flop=flop, **known))
        return left


def _device(name: str) -> Device:
    return device_named(name, "device_memory", "its bytes, as 24e9")
