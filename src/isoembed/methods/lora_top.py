"""Block freezing with LoRA above it: adapters on the last blocks only, so that the backward pass ends below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from isoembed.core import InputError
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.adapters import Adapters
from isoembed.methods.freeze import Freeze, share_meant
from isoembed.notes import refusal

if TYPE_CHECKING:
    from torch import nn


class LoRATop(Adapters):
    """C = 2 * (N + a) + 2 * (N_top + a) + 2 * a a token: a in the active blocks, N_top theirs and all after them.

    LoRA's step cost without the backward pass through the frozen blocks: no model of the paper's, its parts are
    (sections 3.4 and 3.5).
    """

    about: ClassVar[str] = "low-rank adapters on the last blocks (a fraction of them), everything else frozen"
    like: ClassVar[str | None] = "lora"
    name: Literal["lora-top"] = "lora-top"
    fraction: float = Field(0.5, gt=0, le=1, description="adapted share of the blocks, counted from the top")

    def words_at(self, rank: str) -> tuple[str, ...]:
        return (f"{self.fraction:.3g}", *super().words_at(rank))

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        fractions = [word for word in words if not word.startswith("r=")]
        if len(fractions) > 1:
            raise ValueError("one fraction")
        found = super().read([word for word in words if word.startswith("r=")])
        return cls(**{**dict(found), "fraction": share_meant(float(fractions[0]))}) if fractions else found

    def check(self, model: ModelSpec) -> None:
        super().check(model)
        if any(layer.count % model.blocks for layer in model.dense):
            raise InputError(refusal("unlike-blocks", method=self.name, model=model.name))

    def adapter_params(self, model: ModelSpec) -> int:
        return super().adapter_params(model) // model.blocks * self._frozen.active_blocks(model.blocks)

    def cost(self, model: ModelSpec) -> Cost:
        self.check(model)
        adapters, frozen = self.adapter_params(model), self._frozen.cost(model)
        return Cost(
            forward=model.params + adapters,
            backward=frozen.backward + adapters,
            updated=adapters,
            blocks_backward=frozen.blocks_backward,
        )

    @property
    def _frozen(self) -> Freeze:
        """Freezing at the same fraction, whose backward pass this one's is but for the adapters."""
        return Freeze(fraction=self.fraction)

    def layers(self, model: nn.Module) -> list[str]:
        from isoembed.methods.parts import blocks_of

        blocks = blocks_of(model)
        active = self._frozen.active_blocks(len(blocks))
        top = {module for block in blocks[-active:] for module in block.modules()}
        return [name for name in super().layers(model) if model.get_submodule(name) in top]
