"""SmolLM2 (arXiv 2502.02737) and SmolLM3: Llama's architecture, tied embeddings.  Two families, for their tokenizers
differ.

Sources (docs/model-sources.md): the hub's configurations and litgpt's table for SmolLM2, transformers' defaults and
keras-hub's total for SmolLM3, the authors' training configurations for the peak rates.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import GatedBlock, gated

#: size, hidden, blocks, heads, key-value heads, feed-forward width, peak pretraining rate
_SHAPES = (
    ("135M", 576, 30, 9, 3, 1536, 3e-3),
    ("360M", 960, 32, 15, 5, 2560, 3e-3),
    ("1.7B", 2048, 24, 32, 32, 8192, 5e-4),
)

SMOLLM2 = Family(
    name="smollm2",
    models=tuple(
        gated(
            f"smollm2-{size.lower()}",
            f"HuggingFaceTB/SmolLM2-{size}",
            GatedBlock(hidden, heads, kv_heads, ffn),
            blocks,
            49152,
            8192,
            rate,
        )
        for size, hidden, blocks, heads, kv_heads, ffn, rate in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="Hugging Face's SmolLM2 (hub: HuggingFaceTB/SmolLM2-*)",
)

SMOLLM3 = Family(
    name="smollm3",
    models=(
        gated("smollm3-3b", "HuggingFaceTB/SmolLM3-3B-Base", GatedBlock(2048, 16, 4, 11008), 36, 128256, 65536, 2e-4),
    ),
    rates=BORROWED_RATES,
    about="Hugging Face's SmolLM3 (hub: HuggingFaceTB/SmolLM3-3B-Base)",
)
