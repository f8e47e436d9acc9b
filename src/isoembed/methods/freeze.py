"""Block freezing: only the last blocks train; the token table and the first blocks stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.base import BaseMethod, unsuited

if TYPE_CHECKING:
    from torch import nn


#: parts of a model that a share is said in: the grid's, and twelfths
_PARTS = 12


def share_meant(share: float) -> float:
    """The ratio that a share of the blocks stands for, where it has the three digits of a label: .333 is 1/3."""
    if not 0 < share <= 1:
        return share  # for the field to refuse
    ratio = float(Fraction(share).limit_denominator(_PARTS))
    return ratio if f"{ratio:.3g}" == f"{share:.3g}" else share


class Freeze(BaseMethod):
    """The last blocks train: C = (2 * N + 4 * N_active) * D model FLOP (paper sections 3.4 and 3.5).

    `fraction` of the blocks are active, the last ones, with all that runs after them (the final norm).  The token
    table stays frozen even at fraction 1, which is the paper's convention and the way to compare methods without the
    table's free ride.
    """

    about: ClassVar[str] = "the last blocks (a fraction of them) and the final norm; token table frozen"
    name: Literal["freeze"] = "freeze"
    fraction: float = Field(0.5, gt=0, le=1, description="active share of the blocks, counted from the top")

    @property
    def words(self) -> tuple[str, ...]:
        return (f"{self.fraction:.3g}",)

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        if len(words) > 1:
            raise ValueError("one fraction")
        return cls(fraction=share_meant(float(words[0]))) if words else cls()

    @classmethod
    def grid(cls, model: ModelSpec, alpha_per_rank: float) -> list[Self]:
        """Sixths of 6 to 12 blocks, eighths of more, every block of fewer."""
        parts = model.blocks if model.blocks <= 6 else 6 if model.blocks <= 12 else 8
        return [cls(fraction=active / parts) for active in range(1, parts + 1)]

    def active_blocks(self, blocks: int) -> int:
        """How many of `blocks` train: the nearest whole number, at least one."""
        return max(1, round(self.fraction * blocks))

    def check(self, model: ModelSpec) -> None:
        if not model.blocks:
            raise unsuited(self.name, model.name, "transformer blocks", ["full"])

    def cost(self, model: ModelSpec) -> Cost:
        self.check(model)
        active = self.active_blocks(model.blocks)
        trained = sum(model.block_params[-active:]) + model.other_params - model.entry_params
        idle = sum(model.idle_block_params[-active:])
        return Cost(forward=model.params, backward=trained, updated=trained, idle=idle, blocks_backward=active)

    def share(self, model: ModelSpec) -> float:
        return self.fraction

    def apply(self, model: nn.Module) -> nn.Module:
        from isoembed.methods.parts import blocks_of, entry_modules, is_embedding, owned_parameters

        blocks, frozen = blocks_of(model), entry_modules(model)
        for block in blocks[: len(blocks) - self.active_blocks(len(blocks))]:
            frozen.update(block.modules())
        for _, owner, value in owned_parameters(model):
            value.requires_grad_(owner not in frozen and not is_embedding(owner))
        return model
