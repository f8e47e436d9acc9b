"""What a sweep was asked for, and the file of its ledger that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, ValidationError, model_validator

from isoembed.core import LARGEST, Frozen, InputError, write_once
from isoembed.families.base import Family, ModelSpec
from isoembed.recipe import DataStats, PartialSetup, Precision, Setup, SetupNote, differs
from isoembed.recommendation.constraints import LimitName, SizeLimits
from isoembed.records import REQUEST as REQUEST  # in the ledger
from isoembed.sweep.repetition import MAX_PAIR_EPOCHS
from isoembed.sweep.variations import Variation


class RateSearch(Frozen):
    """The pre-sweep: `models` x `steps` horizons, three rates a `factor` apart around the family's own rule; without
    horizons at each model's smallest budget alone."""

    models: tuple[str, ...]
    steps: tuple[int, ...] = (100, 300)
    factor: float = Field(2.5, gt=1)


def some_of(models: tuple[str, ...]) -> tuple[str, ...]:
    """Up to three of these, evenly spread: a search for learning rates runs on them."""
    return models[:: max(1, (len(models) - 1) // 2)][:3]


class SweepRequest(SizeLimits, Setup):
    """What a sweep was asked for; `sweep.json`."""

    format: Literal[1] = 1
    family: Family
    models: tuple[str, ...]
    base_hashes: dict[str, str] = Field({}, description="model -> hash of its weights")
    methods: tuple[str, ...] = ("full", "freeze", "bias", "lora")
    budgets: tuple[float, ...] = Field(min_length=1, description="FLOP, ascending")
    data: DataStats
    variations: tuple[Variation, ...] = Field((), description="pooling and options for the best runs once more")
    pairs: tuple[int, ...] = Field((), description="unique pairs, on which alone the best runs are trained once more")
    max_pair_epochs: float = Field(
        MAX_PAIR_EPOCHS,
        gt=1,
        validation_alias=AliasChoices("max_pair_epochs", "max_passes"),
        serialization_alias="max_passes",
        description="over these pairs; runs of more are left out",
    )
    alpha_per_rank: float = Field(2.0, description="LoRA's alpha over its rank, the same for every rank")
    seeds: tuple[int, ...] = (0,)
    min_steps: int = Field(30, ge=1, le=LARGEST)
    max_epochs: float = 1.0
    max_bytes: float | None = Field(None, description="memory of the machine; runs that need more are left out")
    prune: float | None = Field(
        4.0,
        gt=1,
        validation_alias=AliasChoices("prune", "thin"),
        serialization_alias="thin",
        description="keep sizes within this factor of the expected best; None: all",
    )
    rates: RateSearch | None = None
    target_flop: float | None = Field(
        None, gt=0, description="plan a pilot for this budget (`isoembed.sweep.pilot`); needs `allowance_flop`"
    )
    allowance_flop: float | None = Field(None, description="what all runs together may cost")
    allowance_seconds: float | None = Field(None, description="how long all runs together may take here")
    speeds: dict[str, float] = Field({}, description="model -> model FLOP/s measured here, all workers together")
    run_seconds: dict[str, float] = Field({}, description="model -> seconds of a run here beside its steps")
    startup_seconds: float = Field(0.0, description="from the start of a worker here to its first run")
    precision: Precision = Field("fp32", description="of the products of every run")
    data_options: dict[str, str | int | None] = Field({}, description="how to open the pairs again")
    tasks: tuple[str, ...] = Field((), description="folders of evaluation tasks on which the grid's runs are scored")

    #: what is known of this machine and of the family's models as they stood; another version may know it better
    MEASURED: ClassVar = {"speeds", "run_seconds", "startup_seconds", "max_bytes", "family"}

    @property
    def branches(self) -> bool:
        """Whether longer runs extend shorter ones: at their rate, with their warm-up."""
        return self.options.schedule == "wsd"

    @property
    def sizes(self) -> list[ModelSpec]:
        """Those of the models that no limit on sizes leaves out."""
        return [size for size in self._all_sizes if self.broken_by(size, self, self.data) is None]

    @property
    def left_out(self) -> list[tuple[ModelSpec, LimitName]]:
        """The other models, each with the name of the limit that it is above."""
        broken = [(size, self.broken_by(size, self, self.data)) for size in self._all_sizes]
        return [(size, limit) for size, limit in broken if limit is not None]

    @property
    def _all_sizes(self) -> list[ModelSpec]:
        return [self.family.model(name) for name in self.models]

    @model_validator(mode="after")
    def _pilot_has_an_allowance(self) -> Self:
        if self.target_flop is not None and self.allowance_flop is None:
            raise ValueError(f"a pilot for {self.target_flop:.3g} FLOP needs an allowance: name `allowance_flop`")
        return self

    def differences(self, other: PartialSetup) -> dict[str, SetupNote]:
        """As of setups; where both are sweeps, of all else that was asked for too, what was left open included."""
        found = super().differences(other)
        if not isinstance(other, SweepRequest):
            return found
        values: dict[str, tuple[Any, Any]] = {"family": (self.family.name, other.family.name)}
        for name in SweepRequest.model_fields.keys() - PartialSetup.model_fields.keys() - self.MEASURED:
            values[name] = getattr(self, name), getattr(other, name)
        return found | {
            name: differs(f"`{name}`", f"{there!s:.80}", f"{here!s:.80}")
            for name, (there, here) in sorted(values.items())
            if there != here
        }


def load_request(ledger: Path) -> SweepRequest:
    """What the sweep in `ledger` was asked for."""
    try:
        request = SweepRequest.model_validate_json((ledger / REQUEST).read_bytes())
    except OSError:
        raise InputError(f"{ledger} holds no sweep; plan one with `isoembed sweep plan`.") from None
    except ValidationError as error:
        raise InputError(f"{ledger / REQUEST} is damaged ({error.errors()[0]['msg']}); plan the sweep anew.") from None
    return _with_cache(request, lambda cache: ledger.resolve() / cache)


def keep_request(ledger: Path, request: SweepRequest) -> SweepRequest:
    """The request of the sweep in `ledger`, which is this one where there was none.

    A ledger keeps its first request, with the speeds and the memory of then, and the family's counts and rates as they
    stood: a later version of isoembed may know them better.  Raises InputError where that asked for something else.
    """
    kept = _with_cache(request, lambda cache: _inside(cache, ledger.resolve()))
    write_once(ledger / REQUEST, kept.model_dump_json(indent=1) + "\n")
    first = load_request(ledger)
    if found := first.differences(request):
        raise InputError(
            f"{ledger} holds another sweep already ({'; '.join(map(str, found.values()))}); give another `out`."
        )
    return first


def _with_cache(request: SweepRequest, place: Callable[[Path], Path]) -> SweepRequest:
    """The request with its cache of tokens where `place` puts it."""
    cache = request.data_options.get("cache")
    if cache is None:
        return request
    moved = {**request.data_options, "cache": str(place(Path(str(cache))))}
    return request.model_copy(update={"data_options": moved})


def _inside(path: Path, folder: Path) -> Path:
    """`path` as seen from `folder` where it lies in it: the two may be moved together."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path
