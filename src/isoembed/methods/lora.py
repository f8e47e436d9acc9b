"""LoRA (Hu et al. 2021, arXiv 2106.09685) on every dense layer inside the transformer blocks."""

from __future__ import annotations

from typing import ClassVar, Literal

from isoembed.methods.adapters import Adapters


class LoRA(Adapters):
    """Scale alpha / rank; cost as `Adapters`."""

    about: ClassVar[str] = "low-rank adapters on all dense layers of the blocks"
    name: Literal["lora"] = "lora"
