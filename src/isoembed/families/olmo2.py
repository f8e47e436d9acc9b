"""OLMo 2 (arXiv 2501.00656): norms after the layers and over all queries and keys, untied embeddings, no biases.

Sources (docs/model-sources.md): the authors' training configurations, which state dimensions and peak rates, and the
hub's config.json of the 13B and the 32B.  The 13B has no peak rate here: its configuration repeats the 7B's at twice
the batch, and the paper, which could decide whether it was trained with that rate, could not be opened.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import GatedBlock, gated

#: hub name, size, hidden, blocks, heads, key-value heads, feed-forward width, peak pretraining rate
_SHAPES = (
    ("OLMo-2-0425-1B", "1b", 2048, 16, 16, 16, 8192, 4e-4),
    ("OLMo-2-1124-7B", "7b", 4096, 32, 32, 32, 11008, 3e-4),
    ("OLMo-2-1124-13B", "13b", 5120, 40, 40, 40, 13824, None),
    ("OLMo-2-0325-32B", "32b", 5120, 64, 40, 8, 27648, 6e-4),
)

OLMO2 = Family(
    name="olmo2",
    models=tuple(
        gated(
            f"olmo-2-{size}",
            f"allenai/{hub}",
            GatedBlock(hidden, heads, kv_heads, ffn, norms="olmo2"),
            blocks,
            100352,
            4096,
            rate,
        )
        for hub, size, hidden, blocks, heads, kv_heads, ffn, rate in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="Ai2's fully open OLMo 2 (hub: allenai/OLMo-2-*)",
)
