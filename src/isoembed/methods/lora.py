"""LoRA (Hu et al. 2021, arXiv 2106.09685) on every dense layer inside the transformer blocks."""

from __future__ import annotations

from typing import ClassVar, Literal

from isoembed.methods.adapters import Adapters


class LoRA(Adapters):
    """Low-rank adapters train: scale alpha / rank, C = (4 * N + 6 * a) * D model FLOP, a = adapter parameters (paper,
    sections 3.4 and 3.5).  A mixture of experts raises InputError."""

    about: ClassVar[str] = "low-rank adapters on all dense layers of the blocks"
    name: Literal["lora"] = "lora"
