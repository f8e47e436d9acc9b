"""OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions (2 rows unused), tied embeddings, biases everywhere.

OPT-350M is the odd one: norms after the layers, no last norm, a token table of 512.  Sources (docs/model-sources.md):
the authors' code (metaseq, MODEL_SIZES) for dimensions and peak rates, copies of the hub's config.json.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import ClassicParts, classic

#: size, hidden, blocks, peak pretraining rate
_SHAPES = (
    ("125m", 768, 12, 6e-4),
    ("350m", 1024, 24, 3e-4),
    ("1.3b", 2048, 24, 2e-4),
    ("2.7b", 2560, 32, 1.6e-4),
    ("6.7b", 4096, 32, 1.2e-4),
    ("13b", 5120, 40, 1e-4),
    ("30b", 7168, 48, 1e-4),
)

_PARTS = ClassicParts(fused=False, positions=2048 + 2)
_ODD = ClassicParts(fused=False, positions=2048 + 2, last_norm=False, table_width=512)

OPT = Family(
    name="opt",
    models=tuple(
        classic(
            f"opt-{size}",
            f"facebook/opt-{size}",
            hidden,
            blocks,
            50272,
            2048,
            rate,
            parts=_ODD if size == "350m" else _PARTS,
        )
        for size, hidden, blocks, rate in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="Meta's OPT (hub: facebook/opt-*)",
)
