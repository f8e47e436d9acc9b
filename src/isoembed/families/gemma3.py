"""Gemma 3 (arXiv 2503.19786), its text-only sizes; the larger ones also read images, which the loader refuses.

One key-value head, a token table of 262,144 rows (most of the smaller model).  Sources (docs/model-sources.md): the
authors' code for the dimensions, keras-hub for the totals, the model card for the context.  No peak pretraining rate is
known to us.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import GatedBlock, gated

#: name, hub id, hidden, blocks, feed-forward width
_SHAPES = (
    ("gemma-3-270m", "google/gemma-3-270m", 640, 18, 2048),
    ("gemma-3-1b", "google/gemma-3-1b-pt", 1152, 26, 6912),
)

GEMMA3 = Family(
    name="gemma3",
    models=tuple(
        gated(name, source, GatedBlock(hidden, 4, 1, ffn, head_size=256, norms="gemma3"), blocks, 262144, 32768)
        for name, source, hidden, blocks, ffn in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="Google's Gemma 3, text-only sizes (hub: google/gemma-3-270m, google/gemma-3-1b-pt)",
)
