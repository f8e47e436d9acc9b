"""Pythia (Biderman et al. 2023, arXiv 2304.01373): the family of the paper.

Sources (docs/model-sources.md): the suite's training configurations for the shapes; peak pretraining rates as listed by
Ziarko et al. 2024, appendix E, and in the model cards.  The 1B's training configuration states 2.5e-4 where both list
3e-4, which stands.
"""

from isoembed.families.base import Family, RateRule
from isoembed.families.decoders import classic

#: name, hidden, blocks, vocabulary (padded), peak pretraining rate
_SHAPES = (
    ("14m", 128, 6, 50304, 1e-3),
    ("31m", 256, 6, 50304, 1e-3),
    ("70m", 512, 6, 50304, 1e-3),
    ("160m", 768, 12, 50304, 6e-4),
    ("410m", 1024, 24, 50304, 3e-4),
    ("1b", 2048, 16, 50304, 3e-4),
    ("1.4b", 2048, 24, 50304, 2e-4),
    ("2.8b", 2560, 32, 50304, 1.6e-4),
)

PYTHIA = Family(
    name="pythia",
    models=tuple(
        classic(f"pythia-{size}", f"EleutherAI/pythia-{size}", hidden, blocks, vocab, 2048, rate)
        for size, hidden, blocks, vocab, rate in _SHAPES
    ),
    rates=(
        RateRule(method="full", of_pretraining=0.1, source="a tenth of Pythia's pretraining peak (paper, appendix E)"),
        RateRule(method="freeze", of_pretraining=0.1, source="a tenth of Pythia's pretraining peak (appendix E)"),
        RateRule(method="bias", fixed=1e-3, source="1e-3, as in the authors' configurations"),
        RateRule(method="lora", fixed=1e-3, source="1e-3, as in the authors' configurations"),
    ),
    about="EleutherAI's Pythia, the family the paper studied (hub: EleutherAI/pythia-*)",
)
