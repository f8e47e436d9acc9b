"""Budget: FLOP, a time on devices, money or epochs; turned into FLOP once."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from isoembed.core import LARGEST, Frozen, InputError, checked, number_of

#: share of a device's peak assumed where nothing was measured; a labelled fallback, never a fact
FALLBACK_UTILISATION = 0.4

#: more FLOP than the largest training ever took, by thousands
MOST_FLOP = 1e30
#: more devices, hours or money than there are
_MOST = 1e12


class Device(Frozen):
    """A device's dense bf16 (or fp16) peak and memory, from its vendor's data sheet."""

    name: str
    peak_flop_per_second: float
    memory_bytes: float


DEVICES = tuple(
    Device(name=name, peak_flop_per_second=tera * 1e12, memory_bytes=gigabytes * 1e9)
    for name, tera, gigabytes in (
        ("a100", 312, 80),
        ("b200", 2250, 180),
        ("h100", 989, 80),
        ("h200", 989, 141),
        ("l4", 121, 24),
        ("l40s", 362, 48),
        ("mi300x", 1307, 192),
        ("rtx3090", 71, 24),
        ("rtx4090", 165, 24),
        ("t4", 65, 16),
        ("v100", 125, 32),
    )
)


def device_named(name: str, field: str = "gpu", otherwise: str = "the budget in FLOP") -> Device:
    """The device called `name`, in whatever case; `field` is what names it, and for a device that is not known one
    gives something else."""
    for device in DEVICES:
        if device.name == name.lower():
            return device
    known = ", ".join(device.name for device in DEVICES)
    raise InputError(f"`{field}` must be one of {known}; got {name!r}. For another device give {otherwise}.")


class Budget(Frozen):
    """What may be spent on training.  Either `flop` (model FLOP) is set, or `device`, `count` and `seconds` are, or
    `epochs` is.

    Epochs are FLOP once pairs and model are known (`isoembed.recommendation.request`).
    """

    stated: str = Field(description="the budget as the user gave it")
    flop: float | None = Field(None, gt=0)
    device: str | None = None
    count: int = Field(1, ge=1, le=LARGEST)
    seconds: float | None = Field(None, gt=0)
    utilisation: float | None = Field(
        None, gt=0, le=1, description="share of peak that the user vouches for; None: unknown"
    )
    epochs: float | None = Field(None, gt=0, description="over the unique pairs, where these alone are the budget")

    @model_validator(mode="after")
    def _says_how_much(self) -> Self:
        if self.flop is None and self.epochs is None and (self.device is None or self.seconds is None):
            raise InputError("A Budget must have `flop`, `epochs`, or `device` and `seconds`; give one of them.")
        return self

    @classmethod
    @checked
    def parse(cls, flop: Budget | str | float, *, count: int = 1, utilisation: float | None = None) -> Budget:
        """A budget in FLOP, as `1.5e18` or `2e12`; `count` and `utilisation` say what it is spent on, for its time.  A
        budget itself as it is."""
        if isinstance(flop, Budget):
            return flop
        text = flop
        try:
            flop = float(text)
        except ValueError:
            flop = math.nan
        if not 0 < flop <= MOST_FLOP:
            raise InputError(
                f"`budget` must be a positive number of FLOP up to {MOST_FLOP:.0e}, as 1.5e18; got {text!r}."
            )
        _positive(count=count)
        _share(utilisation)
        return cls(stated=f"{flop:.3g} FLOP", flop=flop, count=count, utilisation=utilisation)

    @classmethod
    @checked
    def from_epochs(cls, epochs: float) -> Self:
        """So many epochs of the pairs, whatever they cost; the model must then be named."""
        _positive(epochs=epochs)
        return cls(stated=number_of(epochs, "epoch"), epochs=epochs)

    @classmethod
    @checked
    def from_devices(cls, device: str, *, count: int = 1, hours: float, utilisation: float | None = None) -> Self:
        """`count` devices for `hours`; `utilisation` is the share of their peak that your training reaches."""
        _positive(count=count, hours=hours)
        _share(utilisation)
        name = device_named(device, "device").name
        return cls(
            stated=f"{count} x {name} for {hours:g} h",
            device=name,
            count=count,
            seconds=hours * 3600,
            utilisation=utilisation,
        )

    @classmethod
    @checked
    def from_dollars(
        cls,
        dollars: float,
        dollars_per_hour: float,
        *,
        device: str,
        count: int = 1,
        utilisation: float | None = None,
    ) -> Self:
        """`dollars` at `dollars_per_hour` for one device, spent on `count` devices at once."""
        _positive(dollars=dollars, dollars_per_hour=dollars_per_hour, count=count)
        hours = dollars / (dollars_per_hour * count)
        time = cls.from_devices(device, count=count, hours=hours, utilisation=utilisation)
        return time.model_copy(update={"stated": f"${dollars:g} at ${dollars_per_hour:g} an hour: {time.stated}"})

    @property
    def share(self) -> float:
        """Of the devices' peak: as the user vouches for it, else the fallback."""
        return FALLBACK_UTILISATION if self.utilisation is None else self.utilisation

    @property
    def paid_flop(self) -> float:
        """FLOP that it buys; raises InputError where these depend on the model and its pairs."""
        if self.flop is not None:
            return self.flop
        if self.epochs is not None:
            raise InputError(f"{self.stated} are FLOP for one model and its pairs alone; give the `budget` in FLOP.")
        assert self.device is not None
        assert self.seconds is not None
        return self.seconds * self.count * self.share * device_named(self.device).peak_flop_per_second


def _share(utilisation: float | None) -> None:
    if utilisation is not None and not 0 < utilisation <= 1:
        raise InputError(f"`utilisation` must be above 0 and at most 1; got {utilisation}. 0.4 is usual.")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and 0 < value <= _MOST):
            raise InputError(f"`{name}` must be a positive number up to {_MOST:.0e}; got {value}.")
