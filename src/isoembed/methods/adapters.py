"""What all low-rank adapters share: their size, their cost, and how peft puts them around dense layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field

from isoembed.core import LARGEST, InputError
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod, unsuited
from isoembed.notes import refusal

if TYPE_CHECKING:
    from torch import nn

#: ranks that a sweep tries, as shares of the hidden width
RANK_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


class Adapters(BaseMethod):
    """C = 2 * (N + a) + 2 * (N + a) + 2 * a a token, a = adapter parameters (paper sections 3.4 and 3.5).

    The adapter of a layer computes scale * B A x with A: rank x inputs and B: outputs x rank, B zero at first.
    """

    rank: int = Field(32, ge=1, le=LARGEST)
    alpha: float = Field(64.0, gt=0, le=1e6, description="scale: the adapter's output is multiplied by alpha / rank")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def words(self) -> tuple[str, ...]:
        return self.words_at(str(self.rank))

    def words_at(self, rank: str) -> tuple[str, ...]:
        """The hyperparameters with the rank in other words, as `d/8`."""
        return (f"r={rank}",)

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        if len(words) > 1:
            raise ValueError("one rank")
        return cls().resized(int(words[0].removeprefix("r="))) if words else cls()

    @classmethod
    def grid(cls, model: ModelSpec, alpha_per_rank: float) -> list[Self]:
        """Ranks relative to the width; alpha goes with the rank."""
        ranks = sorted({max(1, round(share * model.hidden)) for share in RANK_SHARES})
        return [cls(rank=rank, alpha=alpha_per_rank * rank) for rank in ranks]

    def resized(self, rank: int) -> Self:
        """The same setting at another rank: alpha keeps its ratio to it."""
        return type(self)(**{**dict(self), "rank": rank, "alpha": self.alpha / self.rank * rank})

    def adapter_params(self, model: ModelSpec) -> int:
        """a: parameters of all adapters."""
        return sum(self.rank * (layer.inputs + layer.outputs) * layer.count for layer in model.dense)

    def check(self, model: ModelSpec) -> None:
        if not model.dense:
            raise unsuited(self.label, model.name, "dense layers inside the blocks", ["norms"])
        if model.idle_params:
            raise InputError(refusal("experts", method=self.label, model=model.name))

    def cost(self, model: ModelSpec) -> Cost:
        self.check(model)
        adapters = self.adapter_params(model)
        return Cost(
            forward=model.params + adapters,
            backward=model.params + adapters,
            updated=adapters,
            blocks_backward=model.blocks,
        )

    def share(self, model: ModelSpec) -> float:
        return self.rank / model.hidden

    def layers(self, model: nn.Module) -> list[str]:
        """Full names of the dense layers to adapt: all of them inside the blocks."""
        from isoembed.methods.parts import dense_layers

        return list(dense_layers(model))

    def apply(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        self.refuse_experts(model)
        layers = self.layers(model)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # any number will do: it is multiplied
            lora_dropout=0.0,
            target_modules=layers,
            fan_in_fan_out=isinstance(model.get_submodule(layers[0]), Conv1D),
        )
        with warnings.catch_warnings():
            # peft asks transformers a question under its old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return get_peft_model(model, config)

    def refuse_experts(self, model: nn.Module) -> None:
        """Raise InputError for a mixture of experts."""
        from isoembed.methods.parts import is_experts

        if any(is_experts(module) for module in model.modules()):
            raise InputError(refusal("experts", method=self.label, model=type(model).__name__))
