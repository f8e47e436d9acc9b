"""The nano suite: eight GPT-NeoX models with tied embeddings, pretrained by `scripts/pretrain_nano.py`, shipped here.

`pretraining_rate` is the peak rate of that script.
"""

from isoembed.families.base import Family, RateRule, gpt_neox

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

#: `benchmarks/nano_runs.py rates`; figures in benchmarks/results/nano_rates.jsonl
_MEASURED = "{} (best of a coarse grid on nano-113k and nano-389k at 5e11 FLOP, one seed)"

NANO = Family(
    name="nano",
    models=tuple(
        gpt_neox(name, f"nano/{name}", hidden, blocks, 4096, 512, rate) for name, hidden, blocks, rate in _SHAPES
    ),
    batch_pairs=64,
    rates=(
        RateRule(method="full", of_pretraining=0.5, source=_MEASURED.format("half of the pretraining peak")),
        RateRule(method="freeze", fixed=8e-3, source=_MEASURED.format("8e-3")),
        RateRule(method="bias", fixed=1.6e-2, source=_MEASURED.format("1.6e-2") + "; the best lay on the grid's edges"),
        RateRule(method="lora", fixed=4e-3, source=_MEASURED.format("4e-3") + " at rank 16"),
    ),
    about="eight models of 28k to 3.1M non-embedding parameters that ship with isoembed",
)
