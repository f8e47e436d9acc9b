"""Fine-tuning methods: one file each, listed here."""

from __future__ import annotations

from typing import Annotated, get_args

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

METHODS: tuple[type[AnyMethod], ...] = get_args(AnyMethod)

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
    "method_type",
    "names",
]


def names() -> tuple[str, ...]:
    """The names of all methods."""
    return tuple(method.called() for method in METHODS)


def method_type(name: str) -> type[AnyMethod]:
    """The class of the method called `name`."""
    for method in METHODS:
        if method.called() == name:
            return method
    raise InputError(f"`method` must be one of {', '.join(names())}; got {name!r}.")


@checked
def method_of(label: AnyMethod | str) -> AnyMethod:
    """The method that a label names: `full`, `lora`, `dora r=32`, `freeze 0.5`, `lora-top 0.5 r=32`, in any capitals; a
    method itself as it is."""
    if not isinstance(label, str):
        return label
    name, *words = label.casefold().split() or [""]
    method = method_type(name)
    try:
        return method.read(words)
    except InputError:
        raise
    except ValueError:
        raise InputError(f"`method` must be a name and its numbers, as lora r=32; got {label!r}.") from None


def method_named(name: str, **hyperparameters: float | None) -> AnyMethod:
    """The method called `name` with the given hyperparameters (None means the default)."""
    method = method_type(name)
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    if foreign := sorted(set(given) - set(method.model_fields)):
        raise InputError(f"`{name}` takes no {', '.join(foreign)}; leave it out or choose another method.")
    return method(**given)
