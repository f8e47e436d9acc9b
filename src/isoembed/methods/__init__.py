"""Fine-tuning methods: one file each, listed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, get_args

from pydantic import Field

from isoembed.core import InputError, checked
from isoembed.families.base import ModelSpec
from isoembed.methods.adapters import Adapters
from isoembed.methods.base import BaseMethod, not_trained
from isoembed.methods.bias import Bias
from isoembed.methods.freeze import Freeze, share_meant
from isoembed.methods.full import Full
from isoembed.methods.lora import LoRA
from isoembed.methods.lora_top import LoRATop
from isoembed.methods.norms import Norms
from isoembed.methods.qlora import QLoRA
from isoembed.methods.retired import DoRA, RsLoRA

#: any method that a file may name
AnyMethod = Full | Freeze | Bias | LoRA | Norms | RsLoRA | DoRA | LoRATop | QLoRA

METHODS: tuple[type[AnyMethod], ...] = get_args(AnyMethod)

#: those that runs are trained with
TRAINED = tuple(method for method in METHODS if method.retired is None)

Method = Annotated[AnyMethod, Field(discriminator="name")]
"""Any fine-tuning method; its `name` says on disk which one."""

__all__ = [
    "METHODS",
    "TRAINED",
    "Adapters",
    "BaseMethod",
    "Bias",
    "Freeze",
    "Full",
    "LoRA",
    "LoRATop",
    "Method",
    "Norms",
    "QLoRA",
    "method_named",
    "method_of",
    "method_type",
    "names",
    "read_label",
    "suited",
]


def names() -> tuple[str, ...]:
    """The names of all methods that are trained."""
    return tuple(method.called() for method in TRAINED)


def suited(listed: Iterable[str], models: Sequence[ModelSpec]) -> tuple[str, ...]:
    """Those of the methods called so that can train every one of `models`: where nobody named any, the others are no
    mistake (a Llama has no biases)."""
    return tuple(name for name in listed if all(_suits(method_type(name), model) for model in models))


def _suits(method: type[AnyMethod], model: ModelSpec) -> bool:
    try:
        method.grid(model, 1.0)[0].check(model)
    except InputError:
        return False
    return True


def method_type(name: str) -> type[AnyMethod]:
    """The class of the method called `name`, which must be one that is trained."""
    method = _called(name)
    _check_trained(method)
    return method


@checked
def method_of(label: AnyMethod | str) -> AnyMethod:
    """The method that a label names: `full`, `lora`, `lora r=32`, `freeze 0.5`, `lora-top 0.5 r=32`, in any capitals; a
    method itself as it is.  Raises InputError for one that is not trained any more."""
    method = read_label(label) if isinstance(label, str) else label
    _check_trained(type(method))
    return method


def read_label(label: str) -> AnyMethod:
    """As `method_of`, also of a method that is not trained any more: for what earlier versions wrote."""
    name, *words = label.casefold().split() or [""]
    method = _called(name)
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
    if "fraction" in given:
        given["fraction"] = share_meant(given["fraction"])
    return method(**given)


def _called(name: str) -> type[AnyMethod]:
    for method in METHODS:
        if method.called() == name:
            return method
    raise InputError(f"`method` must be one of {', '.join(names())}; got {name!r}.")


def _check_trained(method: type[AnyMethod]) -> None:
    if method.retired is not None:
        raise not_trained(method)
