"""rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA scaled by the root of the rank, so that high ranks learn too."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import Field

from isoembed.methods.adapters import Adapters


class RsLoRA(Adapters):
    """Scale alpha / sqrt(rank); cost as LoRA's, which the scale does not change."""

    about: ClassVar[str] = "LoRA scaled by alpha / sqrt(rank)"
    by_root: ClassVar[bool] = True
    like: ClassVar[str | None] = "lora"
    name: Literal["rslora"] = "rslora"
    #: at rank 32 the scale of LoRA's default, 2
    alpha: float = Field(
        2 * math.sqrt(32), gt=0, description="scale: the adapter's output is multiplied by alpha / sqrt(rank)"
    )

    def resized(self, rank: int) -> Self:
        """The same alpha at another rank, which is the method's point."""
        return type(self)(**{**dict(self), "rank": rank})
