"""GPT-2 (Radford et al. 2019): learned positions, tied embeddings, biases everywhere.

Sources (docs/model-sources.md): transformers' defaults, the hub's config.json of the largest, nanoGPT's table and
keras-hub's totals.  No peak pretraining rate is known to us.
"""

from isoembed.families.base import BORROWED_RATES, Family
from isoembed.families.decoders import ClassicParts, classic

#: name, hidden, blocks
_SHAPES = (
    ("gpt2", 768, 12),
    ("gpt2-medium", 1024, 24),
    ("gpt2-large", 1280, 36),
    ("gpt2-xl", 1600, 48),
)

_PARTS = ClassicParts(positions=1024)

GPT2 = Family(
    name="gpt2",
    models=tuple(
        classic(name, f"openai-community/{name}", hidden, blocks, 50257, 1024, parts=_PARTS)
        for name, hidden, blocks in _SHAPES
    ),
    rates=BORROWED_RATES,
    about="OpenAI's GPT-2 (hub: openai-community/gpt2*)",
)
