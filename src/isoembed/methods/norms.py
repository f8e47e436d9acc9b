"""Norm tuning (Zhao et al. 2023, arXiv 2312.11420): the norms' weights and biases train, nothing else.

What is left to train cheaply in a model without biases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod, unsuited

if TYPE_CHECKING:
    from torch import nn

#: what it trains, and what to use without
_NEED = ("norms with weights", ("full", "freeze", "lora"))


class Norms(BaseMethod):
    """The norms' vectors train, nothing else: C = (4 * N + 2 * norms) * D model FLOP, as bias-only (paper section
    3.5) with other vectors.  A model without norms raises InputError."""

    about: ClassVar[str] = "weights and biases of all norms"
    like: ClassVar[str | None] = "bias"
    name: Literal["norms"] = "norms"

    def check(self, model: ModelSpec) -> None:
        if not model.norm_params:
            raise unsuited(self.name, model.name, *_NEED)

    def cost(self, model: ModelSpec) -> Cost:
        self.check(model)
        return Cost(
            forward=model.params, backward=model.params, updated=model.norm_params, blocks_backward=model.blocks
        )

    def apply(self, model: nn.Module) -> nn.Module:
        from isoembed.methods.parts import is_norm, owned_parameters

        model.requires_grad_(False)
        values = [value for _, owner, value in owned_parameters(model) if is_norm(owner)]
        if not values:
            raise unsuited(self.name, type(model).__name__, *_NEED)
        for value in values:
            value.requires_grad_(True)
        return model
