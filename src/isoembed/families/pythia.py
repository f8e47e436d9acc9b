"""Pythia (Biderman et al. 2023, arXiv 2304.01373): the family of the paper.

Sources (docs/model-sources.md): the suite's training configurations for the shapes; peak pretraining rates as listed by
Ziarko et al. 2024, appendix E, and in the model cards.  The 1B's training configuration states 2.5e-4 where both list
3e-4, which stands.  The rule for the method is algorithm 1 over the budgets of section 4.1; of LoRA's ranks 32 or 128
was nearly always best (figure 5).

The rule for the size is a guess by reasoning.  The paper's IsoFLOP curves are U-shaped at every budget from 1.5e15 to
1.5e18 FLOP, over sizes from 14m to 2.8b, and their best size grows (sections 4.1 and 4.3); the plots have no numbers.
A minimum inside the curves puts the best size at 31m or so at the lowest budget (14m, the smallest, is one side of the
U) and at 410m to 1b at the highest (2.8b, the largest, is the other).  C = 6 N D then gives D / N = 11 and 1.
"""

import math

from isoembed.families.base import Family, MethodRule, RateRule
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

#: tokens per parameter fall from 11 to 1 over the paper's factor of 1,000 in budget
_SIZE_EXPONENT = -math.log(11) / math.log(1000)

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
        RateRule(
            method="lora",
            fixed=1e-3,
            alpha=8.0,
            source="1e-3 at alpha 8, as in the authors' configurations (peft's default), as 1 / alpha",
        ),
    ),
    tokens_per_param=11.0,
    size_at_flop=1.5e15,
    size_exponent=_SIZE_EXPONENT,
    size_rule="11 tokens per parameter at 1.5e15 FLOP, falling to 1 at 1.5e18: by reasoning from the paper's IsoFLOP "
    "curves, whose numbers are not published",
    method_rule=MethodRule(
        full_up_to_flop=9.06e16, range_flop=(1.5e15, 1.5e18), ranks=(32, 128), source="paper, algorithm 1"
    ),
    about="EleutherAI's Pythia, the family the paper studied (hub: EleutherAI/pythia-*)",
)
"""The family that the paper studied: EleutherAI's Pythia, from 14M to 2.8B parameters."""
