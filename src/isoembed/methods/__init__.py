"""Fine-tuning methods: one file each, listed here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from isoembed.core import InputError, checked
from isoembed.methods.adapters import Adapters
from isoembed.methods.base import BaseMethod
from isoembed.methods.bias import Bias
from isoembed.methods.dora import DoRA
from isoembed.methods.freeze import Freeze
from isoembed.methods.full import Full
from isoembed.methods.lora import LoRA
from isoembed.methods.lora_top import LoRATop
from isoembed.methods.norms import Norms
from isoembed.methods.qlora import QLoRA
from isoembed.methods.rslora import RsLoRA

#: any method
AnyMethod = Full | Freeze | Bias | LoRA | Norms | RsLoRA | DoRA | LoRATop | QLoRA

METHODS: tuple[type[AnyMethod], ...] = (Full, Freeze, Bias, LoRA, Norms, RsLoRA, DoRA, LoRATop, QLoRA)

#: any method, told apart on disk by its `name`
Method = Annotated[AnyMethod, Field(discriminator="name")]

__all__ = [
    "METHODS",
    "Adapters",
    "BaseMethod",
    "Bias",
    "DoRA",
    "Freeze",
    "Full",
    "LoRA",
    "LoRATop",
    "Method",
    "Norms",
    "QLoRA",
    "RsLoRA",
    "method_named",
    "method_of",
    "names",
]


def names() -> tuple[str, ...]:
    """The names of all methods."""
    return tuple(method.model_fields["name"].default for method in METHODS)


@checked
def method_of(label: AnyMethod | str) -> AnyMethod:
    """The method that a label names: `full`, `lora`, `dora r=32`, `freeze 0.5`, `lora-top 0.5 r=32`, in any capitals; a
    method itself as it is.

    alpha, which a label does not say, is the default's at that rank: twice the rank for LoRA.
    """
    if not isinstance(label, str):
        return label
    name, *numbers = label.casefold().split() or [""]
    method = method_named(name)
    try:
        for number in numbers:
            if hasattr(method, "fraction") and not number.startswith("r="):
                method = method_named(name, fraction=float(number))
            elif isinstance(method, Adapters):
                method = method.resized(int(number.removeprefix("r=")))
            else:
                raise ValueError
    except InputError:
        raise
    except ValueError:
        raise InputError(f"`method` must be a name and its numbers, as lora r=32; got {label!r}.") from None
    return method


def method_named(name: str, **hyperparameters: float | None) -> AnyMethod:
    """The method called `name` with the given hyperparameters (None means the default)."""
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for method in METHODS:
        if method.model_fields["name"].default == name:
            foreign = sorted(set(given) - set(method.model_fields))
            if foreign:
                raise InputError(f"`{name}` takes no {', '.join(foreign)}; leave it out or choose another method.")
            fitting: AnyMethod = method(**given)
            return fitting
    raise InputError(f"`method` must be one of {', '.join(names())}; got {name!r}.")
