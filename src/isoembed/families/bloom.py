"""BLOOM (BigScience 2022, arXiv 2211.05100): a token table of 250,880 rows and a norm right after it, no learned
positions, biases everywhere.

Sources (docs/model-sources.md): the authors' training scripts (bigscience, train/tr11-176B-ml/smaller_models) for
dimensions, context and peak rates; keras-hub for the totals.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import ClassicParts, classic

#: size, hidden, blocks, peak pretraining rate
_SHAPES = (
    ("560m", 1024, 24, 3e-4),
    ("1b1", 1536, 24, 2.5e-4),
    ("1b7", 2048, 24, 2e-4),
    ("3b", 2560, 30, 1.6e-4),
    ("7b1", 4096, 30, 1.2e-4),
)

_PARTS = ClassicParts(entry_norm=True)

BLOOM = Family(
    name="bloom",
    models=tuple(
        classic(f"bloom-{size}", f"bigscience/bloom-{size}", hidden, blocks, 250880, 2048, rate, parts=_PARTS)
        for size, hidden, blocks, rate in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="BigScience's multilingual BLOOM (hub: bigscience/bloom-*)",
)
