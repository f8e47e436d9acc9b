"""The nano suite: eight GPT-NeoX models with tied embeddings, pretrained by `scripts/pretrain_nano.py`, shipped here.

`pretraining_rate` is the peak rate of that script.
"""

from isoembed.families.base import Family, RateLaw, RateRule
from isoembed.families.decoders import classic

#: name, hidden, blocks, peak pretraining rate
_SHAPES = (
    ("nano-28k", 24, 4, 1e-2),
    ("nano-51k", 32, 4, 1e-2),
    ("nano-113k", 48, 4, 8e-3),
    ("nano-200k", 64, 4, 6e-3),
    ("nano-389k", 80, 5, 5e-3),
    ("nano-760k", 112, 5, 4e-3),
    ("nano-1.6m", 128, 8, 3e-3),
    ("nano-3.1m", 160, 10, 2e-3),
)

#: fitted by `isoembed.sweep.rates` to the nano study's search (benchmarks/results/nano_study.jsonl.gz), batch 32
_MEASURED = (
    "rule in N, steps and trained share through {} measured optima on three sizes, 100 and 300 steps of 32 pairs"
)

NANO = Family(
    name="nano",
    models=tuple(
        classic(name, f"nano/{name}", hidden, blocks, 4096, 512, rate) for name, hidden, blocks, rate in _SHAPES
    ),
    batch_pairs=32,
    rates=(
        RateRule(
            method="full",
            law=RateLaw(constant=-1.3397, params=-0.3320, steps=-0.0903),
            source=_MEASURED.format(6),
        ),
        RateRule(
            method="freeze",
            law=RateLaw(constant=-0.3734, params=-0.3863, steps=-0.1274, share=-0.7605),
            source=_MEASURED.format(12),
        ),
        # its optima rise with the steps; further out the rates so extrapolated were too high
        RateRule(method="bias", fixed=6.5e-2, source="geometric mean of 3 measured optima at 300 steps of 32 pairs"),
        RateRule(
            method="lora",
            law=RateLaw(constant=-0.4124, params=-0.3876, steps=-0.1699, share=-0.4658),
            scale=2.0,
            source=_MEASURED.format(12) + ", at alpha = 2 x rank, as 1 / alpha",
        ),
    ),
    about="eight models of 28k to 3.1M non-embedding parameters that ship with isoembed",
)
"""Eight models of 28k to 3.1M non-embedding parameters that ship with isoembed."""
