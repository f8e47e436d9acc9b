"""LoRA (Hu et al. 2021, arXiv 2106.09685) on every dense layer inside the transformer blocks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from isoembed.core import InputError
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod

if TYPE_CHECKING:
    from torch import nn


class LoRA(BaseMethod):
    """C = 2 * (N + a) + 2 * (N + a) + 2 * a a token, a = adapter parameters (paper sections 3.4 and 3.5).

    The adapter of a layer computes (alpha / rank) * B A x with A: rank x inputs and B: outputs x rank, B zero at first.
    """

    about: ClassVar[str] = "low-rank adapters on all dense layers of the blocks"
    name: Literal["lora"] = "lora"
    rank: int = Field(32, ge=1)
    alpha: float = Field(64.0, gt=0, description="scale: the adapter's output is multiplied by alpha / rank")

    @property
    def label(self) -> str:
        return f"lora r={self.rank}"

    def adapter_params(self, model: ModelSpec) -> int:
        """a: parameters of all adapters."""
        return sum(self.rank * (layer.inputs + layer.outputs) * layer.count for layer in model.dense)

    def check(self, model: ModelSpec) -> None:
        if not model.dense:
            raise InputError(f"`lora` needs dense layers inside the blocks; none were found in {model.name}.")

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

    def apply(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from isoembed.methods.parts import dense_layers

        layers = list(dense_layers(model))
        transposed = isinstance(model.get_submodule(layers[0]), Conv1D)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # any number will do: it is multiplied
            lora_dropout=0.0,
            target_modules=layers,
            fan_in_fan_out=transposed,
        )
        with warnings.catch_warnings():
            # peft asks transformers a question under its old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return get_peft_model(model, config)
