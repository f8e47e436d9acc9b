"""DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA changes the weights' directions, a vector their magnitudes."""

from __future__ import annotations

from typing import ClassVar, Literal

from isoembed.families.base import ModelSpec
from isoembed.methods.adapters import Adapters


class DoRA(Adapters):
    """Cost as LoRA's, a counting one magnitude an output of each adapted layer too.

    Leaves out what goes by step, not by token: B A and the norms of W + scale * B A, about 2 * rank * inputs * outputs
    FLOP a layer and forward pass.
    """

    about: ClassVar[str] = "LoRA with trained magnitudes of the adapted layers' outputs"
    magnitudes: ClassVar[bool] = True
    like: ClassVar[str | None] = "lora"
    name: Literal["dora"] = "dora"

    def adapter_params(self, model: ModelSpec) -> int:
        return super().adapter_params(model) + sum(layer.outputs * layer.count for layer in model.dense)
