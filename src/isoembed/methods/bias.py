"""Bias-only fine-tuning (BitFit, Ben Zaken et al. 2022, arXiv 2106.10199): bias vectors train, weights do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod, unsuited

if TYPE_CHECKING:
    from torch import nn

#: what it trains, and what to use without
_NEED = ("a model with bias vectors", ("norms", "full", "freeze", "lora"))


class Bias(BaseMethod):
    """The bias vectors train, nothing else: C = (4 * N + 2 * biases) * D model FLOP (paper section 3.5).  A model
    without biases raises InputError."""

    about: ClassVar[str] = "bias vectors, those of the norms too"
    name: Literal["bias"] = "bias"

    def check(self, model: ModelSpec) -> None:
        if not model.bias_params:
            raise unsuited(self.name, model.name, *_NEED)

    def cost(self, model: ModelSpec) -> Cost:
        self.check(model)
        return Cost(
            forward=model.params, backward=model.params, updated=model.bias_params, blocks_backward=model.blocks
        )

    def apply(self, model: nn.Module) -> nn.Module:
        from isoembed.methods.parts import is_bias, is_embedding, owned_parameters

        model.requires_grad_(False)
        biases = [value for name, owner, value in owned_parameters(model) if is_bias(name) and not is_embedding(owner)]
        if not biases:
            raise unsuited(self.name, type(model).__name__, *_NEED)
        for value in biases:
            value.requires_grad_(True)
        return model
