"""Counts of the architectures that the built-in families are of, from published dimensions.

tests/families holds each against the real model on the meta device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from isoembed.families.base import Dense, ModelSpec


@dataclass(frozen=True)
class GatedBlock:
    """A block with a gated feed-forward layer, grouped key-value heads and no biases: Llama and its descendants.

    `norms` says what is normalised in a block beside the last norm (all are weights without bias): Llama before
    attention and feed-forward; Qwen3 each head's queries and keys too; Gemma 3 also after both layers; OLMo 2 after
    both layers, and all queries and all keys as one vector each.
    """

    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    head_size: int | None = None  #: None: hidden / heads
    norms: Literal["llama", "qwen3", "gemma3", "olmo2"] = "llama"


def gated(
    name: str,
    source: str,
    block: GatedBlock,
    blocks: int,
    vocab: int,
    context: int,
    pretraining_rate: float | None = None,
) -> ModelSpec:
    """A decoder of so many such blocks, with one last norm."""
    hidden, ffn = block.hidden, block.ffn
    head_size = block.head_size or hidden // block.heads
    queries, keys = block.heads * head_size, block.kv_heads * head_size
    shapes = [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, ffn),
        (hidden, ffn),
        (ffn, hidden),
    ]
    normed = {
        "llama": 2 * hidden,
        "qwen3": 2 * hidden + 2 * head_size,
        "gemma3": 4 * hidden + 2 * head_size,
        "olmo2": 2 * hidden + queries + keys,
    }[block.norms]
    return ModelSpec(
        name=name,
        source=source,
        hidden=hidden,
        vocab=vocab,
        block_params=(sum(inputs * outputs for inputs, outputs in shapes) + normed,) * blocks,
        other_params=hidden,
        embedding_params=vocab * hidden,
        bias_params=0,
        norm_params=normed * blocks + hidden,
        outer_norm_params=hidden,
        dense=_grouped(shapes, blocks),
        head_width=queries if queries != hidden else None,
        context=context,
        pretraining_rate=pretraining_rate,
    )


@dataclass(frozen=True)
class ClassicParts:
    """Where decoders of two norms a block differ; as it stands, GPT-NeoX."""

    fused: bool = True  #: queries, keys and values come from one layer
    positions: int = 0  #: rows of the learned position table
    entry_norm: bool = False  #: a norm before the first block (BLOOM)
    last_norm: bool = True
    #: the token table's where a dense layer without bias leads from it to `hidden` and another one back (OPT-350M)
    table_width: int | None = None


NEOX = ClassicParts()


def classic(
    name: str,
    source: str,
    hidden: int,
    blocks: int,
    vocab: int,
    context: int,
    pretraining_rate: float | None = None,
    *,
    parts: ClassicParts = NEOX,
) -> ModelSpec:
    """A decoder with a feed-forward layer of 4 x hidden, two norms a block and biases everywhere: GPT-2, GPT-NeoX, OPT,
    BLOOM.

    A block holds 12 hidden^2 weights and 13 hidden biases and norm parameters (9 of them biases of dense layers, 2
    biases of norms, 2 norm weights).
    """
    attention = [(hidden, 3 * hidden), (hidden, hidden)] if parts.fused else [(hidden, hidden)] * 4
    outer_norms = int(parts.entry_norm) + int(parts.last_norm)
    projection = 0 if parts.table_width is None else parts.table_width * hidden
    return ModelSpec(
        name=name,
        source=source,
        hidden=hidden,
        vocab=vocab,
        block_params=(12 * hidden**2 + 13 * hidden,) * blocks,
        other_params=2 * hidden * outer_norms + 2 * projection,
        entry_params=2 * hidden * int(parts.entry_norm) + projection,
        embedding_params=vocab * (parts.table_width or hidden) + parts.positions * hidden,
        bias_params=(9 + 2) * hidden * blocks + hidden * outer_norms,
        norm_params=4 * hidden * blocks + 2 * hidden * outer_norms,
        outer_bias_params=hidden * outer_norms,
        outer_norm_params=2 * hidden * outer_norms,
        dense=_grouped([*attention, (hidden, 4 * hidden), (4 * hidden, hidden)], blocks),
        context=context,
        pretraining_rate=pretraining_rate,
    )


def _grouped(shapes: Sequence[tuple[int, int]], blocks: int) -> tuple[Dense, ...]:
    """The dense layers of `blocks` equal blocks, those of one shape counted together."""
    return tuple(
        Dense(inputs=inputs, outputs=outputs, count=count * blocks)
        for (inputs, outputs), count in Counter(shapes).items()
    )
