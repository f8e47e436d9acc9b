"""The contract of a fine-tuning method, documented once.

A method is a frozen value with its hyperparameters.  The decide side asks it for `cost`; the execute side hands it a
model in `apply`, which is the only place that imports torch or peft.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from isoembed.core import Frozen, InputError
from isoembed.families.base import ModelSpec, RateRule
from isoembed.flops import Cost
from isoembed.notes import refusal

if TYPE_CHECKING:
    from torch import nn


class BaseMethod(Frozen):
    """One way to fine-tune: what it trains, what it costs, how it is applied."""

    #: one line for tables and help texts
    about: ClassVar[str]
    #: the method of whose learning rates this one's are taken to be where nobody measured its own
    like: ClassVar[str | None] = None
    #: why no run trains it any more, and what to take instead; None: it is trained
    retired: ClassVar[str | None] = None
    #: its own rule for the learning rate, for families that state none
    default_rate: ClassVar[RateRule | None] = None

    @property
    def scale(self) -> float | None:
        """What an adapter's output is multiplied by, which learning rates are stated for; None without adapters."""
        return None

    @property
    def words(self) -> tuple[str, ...]:
        """The hyperparameters as a label shows them; `read` takes them again."""
        return ()

    @property
    def is_open(self) -> bool:
        """Whether nobody named its hyperparameters: a law chooses among those of its runs."""
        return not self.model_fields_set - {"name"}

    @property
    def label(self) -> str:
        """The method with its hyperparameters, as tables show it: `lora r=32`."""
        return " ".join((self.called(), *self.words))

    @classmethod
    def called(cls) -> str:
        """The method's name."""
        return str(cls.model_fields["name"].default)

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """The setting of which the label has these `words` after the name, none for the default.  What a label does not
        say (alpha) is the default's for it.  Raises ValueError for other words."""
        if words:
            raise ValueError(f"{cls.called()} has no hyperparameter")
        return cls()

    @classmethod
    def grid(cls, model: ModelSpec, alpha_per_rank: float) -> list[Self]:
        """The settings that a sweep tries on `model` (paper sections 3.4 and 4.2), in the order of `share`."""
        return [cls()]

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


def not_trained(method: type[BaseMethod]) -> InputError:
    """The error of a method that is `retired`."""
    return InputError(f"`{method.called()}` is not trained any more: {method.retired}.")


def unsuited(method: str, model: str, need: str, instead: Sequence[str]) -> InputError:
    """The error of a method on a model that lacks what it needs: what that is called, and methods that do without."""
    return InputError(refusal("unsuited", method=method, model=model, need=need, remedy=tuple(instead)))
