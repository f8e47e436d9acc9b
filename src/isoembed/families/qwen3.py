"""Qwen3 (arXiv 2505.09388), its dense base models, and Qwen3-Embedding (arXiv 2506.05176), the line made from it.

Sources (docs/model-sources.md): litgpt's and keras-hub's tables, which agree on dimensions and totals, and the model
cards, which round the non-embedding parameters.  Context: the 32,768 tokens that the cards state, though some
configurations allow 40,960 positions.  No peak pretraining rate is known to us.
"""

from isoembed.families.base import BORROWED_RATES, Family, ModelSpec
from isoembed.families.decoders import GatedBlock, gated

#: size -> hidden, blocks, heads, key-value heads, feed-forward width
_SHAPES = {
    "0.6B": (1024, 28, 16, 8, 3072),
    "1.7B": (2048, 28, 16, 8, 6144),
    "4B": (2560, 36, 32, 8, 9728),
    "8B": (4096, 36, 32, 8, 12288),
    "14B": (5120, 40, 40, 8, 17408),
}


def _spec(name: str, size: str, vocab: int) -> ModelSpec:
    hidden, blocks, heads, kv_heads, ffn = _SHAPES[size]
    block = GatedBlock(hidden, heads, kv_heads, ffn, head_size=128, norms="qwen3")
    return gated(name.lower(), f"Qwen/{name}", block, blocks, vocab, 32768)


QWEN3 = Family(
    name="qwen3",
    models=tuple(_spec(f"Qwen3-{size}-Base", size, 151936) for size in ("0.6B", "1.7B", "4B", "8B", "14B")),
    rates=BORROWED_RATES,
    about="Alibaba's Qwen3, dense base models (hub: Qwen/Qwen3-*-Base)",
)

#: size, rows of the token table
_EMBEDDING = (("0.6B", 151669), ("4B", 151665), ("8B", 151665))

QWEN3_EMBEDDING = Family(
    name="qwen3-embedding",
    models=tuple(_spec(f"Qwen3-Embedding-{size}", size, vocab) for size, vocab in _EMBEDDING),
    rates=BORROWED_RATES,
    about="Qwen3 already trained for embeddings (hub: Qwen/Qwen3-Embedding-*); last-token pooling is theirs",
)
