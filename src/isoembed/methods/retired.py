"""Methods of earlier versions, level with LoRA at equal FLOP (docs/lab-notes/models.md, 2026-11-29): what names them is
read, shown and counted, and no run trains them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from isoembed.families.base import ModelSpec
from isoembed.methods.adapters import Adapters
from isoembed.methods.base import not_trained

if TYPE_CHECKING:
    from torch import nn


class Retired(Adapters):
    """Adapters that are read alone: `apply` raises InputError."""

    like: ClassVar[str | None] = "lora"

    def apply(self, model: nn.Module) -> nn.Module:
        raise not_trained(type(self))


class RsLoRA(Retired):
    """LoRA of scale alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)."""

    about: ClassVar[str] = "LoRA scaled by alpha / sqrt(rank)"
    retired: ClassVar[str | None] = "it is lora with an alpha of sqrt(rank) times its own; use lora"
    name: Literal["rslora"] = "rslora"
    alpha: float = Field(2 * math.sqrt(32), gt=0)

    @property
    def scale(self) -> float:
        return self.alpha / math.sqrt(self.rank)

    def resized(self, rank: int) -> Self:
        """The same alpha at another rank."""
        return type(self)(rank=rank, alpha=self.alpha)


class DoRA(Retired):
    """LoRA with a trained magnitude of each output of the adapted layers (Liu et al. 2024, arXiv 2402.09353)."""

    about: ClassVar[str] = "LoRA with trained magnitudes"
    retired: ClassVar[str | None] = "it was level with lora at equal FLOP; use lora"
    name: Literal["dora"] = "dora"

    def adapter_params(self, model: ModelSpec) -> int:
        return super().adapter_params(model) + sum(layer.outputs * layer.count for layer in model.dense)
