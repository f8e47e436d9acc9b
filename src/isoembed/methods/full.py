"""Full fine-tuning: every parameter trains, the token table too."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod

if TYPE_CHECKING:
    from torch import nn


class Full(BaseMethod):
    """Every parameter trains: C = 6 * N * D model FLOP (paper section 3.4).  The token table trains and C charges
    nothing for it; `freeze` at fraction 1 is the same method with the table frozen."""

    about: ClassVar[str] = "every parameter"
    name: Literal["full"] = "full"

    def check(self, model: ModelSpec) -> None:
        """Every model can be trained in full."""

    def cost(self, model: ModelSpec) -> Cost:
        return Cost(
            forward=model.params,
            backward=model.params,
            updated=model.params,
            table=model.embedding_params,
            idle=model.idle_params,
            blocks_backward=model.blocks,
        )

    def apply(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(True)
        return model
