"""Llama 3.2, its text-only sizes: grouped key-value heads, tied embeddings, no biases.

Sources (docs/model-sources.md): copies of the hub's config.json, litgpt's table and keras-hub's totals.  No peak
pretraining rate is known to us.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import GatedBlock, gated

#: size, hidden, blocks, heads, key-value heads, feed-forward width
_SHAPES = (
    ("1B", 2048, 16, 32, 8, 8192),
    ("3B", 3072, 28, 24, 8, 8192),
)

LLAMA3 = Family(
    name="llama3.2",
    models=tuple(
        gated(
            f"llama-3.2-{size.lower()}",
            f"meta-llama/Llama-3.2-{size}",
            GatedBlock(hidden, heads, kv_heads, ffn),
            blocks,
            128256,
            131072,
        )
        for size, hidden, blocks, heads, kv_heads, ffn in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="Meta's Llama 3.2, text-only sizes (hub: meta-llama/Llama-3.2-*; their licence must be accepted)",
)
