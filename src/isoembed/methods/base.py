"""The contract of a fine-tuning method, documented once.

A method is a frozen value with its hyperparameters.  The decide side asks it for `cost`; the execute side hands it a
model in `apply`, which is the only place that imports torch or peft.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from isoembed.core import Frozen
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost

if TYPE_CHECKING:
    from torch import nn


class BaseMethod(Frozen):
    """One way to fine-tune: what it trains, what it costs, how it is applied."""

    #: one line for tables and help texts
    about: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """The method with its hyperparameters, as tables show it: `lora r=32`."""

    @abstractmethod
    def check(self, model: ModelSpec) -> None:
        """Raise InputError (rule, value, remedy) where the method cannot train `model`."""

    @abstractmethod
    def cost(self, model: ModelSpec) -> Cost:
        """Forward, backward and updated parameters on `model` (paper section 3.5); calls `check` first."""

    def share(self, model: ModelSpec) -> float:
        """The hyperparameter relative to the model, which rules for learning rates go by; 1 where there is none."""
        return 1.0

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Set `requires_grad` so that exactly the intended parameters train, and return the module to train.

        Adapters return a peft model around `model`, the other methods change it in place and return it.  The
        number of elements that require a gradient equals `cost(spec).trained`.
        """
