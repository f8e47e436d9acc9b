"""Qwen3 (arXiv 2505.09388), its dense sizes, and Qwen3-Embedding (arXiv 2506.05176), the line made from it.

Dimensions from the model cards, which also state the non-embedding parameters, and configurations at
https://huggingface.co/Qwen/Qwen3-0.6B-Base (and the other sizes; 32B has no base model) and
https://huggingface.co/Qwen/Qwen3-Embedding-0.6B (and -4B, -8B).  The peak
pretraining rates were not published.
"""

from isoembed.families.base import BORROWED_RATES, Family, ModelSpec
from isoembed.families.decoders import gated

#: size -> hidden, blocks, heads, key-value heads, feed-forward width
_SHAPES = {
    "0.6B": (1024, 28, 16, 8, 3072),
    "1.7B": (2048, 28, 16, 8, 6144),
    "4B": (2560, 36, 32, 8, 9728),
    "8B": (4096, 36, 32, 8, 12288),
    "14B": (5120, 40, 40, 8, 17408),
}


def _spec(name: str, size: str, vocab: int, context: int) -> ModelSpec:
    hidden, blocks, heads, kv_heads, ffn = _SHAPES[size]
    return gated(
        name.lower(),
        f"Qwen/{name}",
        hidden,
        blocks,
        heads,
        kv_heads,
        ffn,
        vocab,
        context,
        head_size=128,
        norms="qwen3",
    )


QWEN3 = Family(
    name="qwen3",
    models=tuple(_spec(f"Qwen3-{size}-Base", size, 151936, 32768) for size in ("0.6B", "1.7B", "4B", "8B", "14B")),
    rates=BORROWED_RATES,
    about="Alibaba's Qwen3, dense base models (hub: Qwen/Qwen3-*-Base)",
)

#: size, rows of the token table, context
_EMBEDDING = (("0.6B", 151669, 32768), ("4B", 151665, 40960), ("8B", 151665, 40960))

QWEN3_EMBEDDING = Family(
    name="qwen3-embedding",
    models=tuple(_spec(f"Qwen3-Embedding-{size}", size, vocab, context) for size, vocab, context in _EMBEDDING),
    rates=BORROWED_RATES,
    about="Qwen3 already trained for embeddings (hub: Qwen/Qwen3-Embedding-*); last-token pooling is theirs",
)
