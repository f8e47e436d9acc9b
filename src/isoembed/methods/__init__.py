"""Fine-tuning methods: one file each, listed here."""

from typing import Annotated

from pydantic import Field, ValidationError

from isoembed.core import InputError, rejected
from isoembed.methods.base import BaseMethod
from isoembed.methods.bias import Bias
from isoembed.methods.freeze import Freeze
from isoembed.methods.full import Full
from isoembed.methods.lora import LoRA

METHODS: tuple[type[BaseMethod], ...] = (Full, Freeze, Bias, LoRA)

#: any method, told apart on disk by its `name`
Method = Annotated[Full | Freeze | Bias | LoRA, Field(discriminator="name")]

__all__ = ["METHODS", "BaseMethod", "Bias", "Freeze", "Full", "LoRA", "Method", "method_named"]


def method_named(name: str, **hyperparameters: float | None) -> Full | Freeze | Bias | LoRA:
    """The method called `name` with the given hyperparameters (None means the default)."""
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for method in (Full, Freeze, Bias, LoRA):
        if method.model_fields["name"].default == name:
            foreign = sorted(set(given) - set(method.model_fields))
            if foreign:
                raise InputError(f"`{name}` takes no {', '.join(foreign)}; leave it out or choose another method.")
            try:
                return method.model_validate({"name": name, **given})
            except ValidationError as error:
                raise rejected(error, name) from None
    known = ", ".join(method.model_fields["name"].default for method in METHODS)
    raise InputError(f"`method` must be one of {known}; got {name!r}.")
