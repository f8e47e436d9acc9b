"""Fine-tuning methods: one file each, listed here."""

from typing import Annotated

from pydantic import Field, ValidationError

from isoembed.core import InputError, rejected
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
    "names",
]


def names() -> tuple[str, ...]:
    """The names of all methods."""
    return tuple(method.model_fields["name"].default for method in METHODS)


def method_named(name: str, **hyperparameters: float | None) -> AnyMethod:
    """The method called `name` with the given hyperparameters (None means the default)."""
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for method in METHODS:
        if method.model_fields["name"].default == name:
            foreign = sorted(set(given) - set(method.model_fields))
            if foreign:
                raise InputError(f"`{name}` takes no {', '.join(foreign)}; leave it out or choose another method.")
            try:
                return method.model_validate({"name": name, **given})
            except ValidationError as error:
                raise rejected(error, name) from None
    raise InputError(f"`method` must be one of {', '.join(names())}; got {name!r}.")
