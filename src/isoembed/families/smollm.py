"""SmolLM2 (arXiv 2502.02737) and SmolLM3: Llama's architecture, tied embeddings.  Two families, for their tokenizers
differ.

Sources (docs/model-sources.md): the hub's configurations and litgpt's table for SmolLM2, transformers' defaults and
keras-hub's total for SmolLM3, the authors' training configurations for the peak rates.
"""

from isoembed.families.base import BORROWED_RATES, Family, RateLaw, RateRule
from isoembed.families.decoders import GatedBlock, gated

#: size, hidden, blocks, heads, key-value heads, feed-forward width, peak pretraining rate
_SHAPES = (
    ("135M", 576, 30, 9, 3, 1536, 3e-3),
    ("360M", 960, 32, 15, 5, 2560, 3e-3),
    ("1.7B", 2048, 24, 32, 32, 8192, 5e-4),
)

#: fitted by `isoembed.sweep.rates` to the search of the depth study (benchmarks/results/depth_study.jsonl.gz), bf16
_MEASURED = (
    "rule in N{} through {} measured optima, 60 steps of 32 pairs, on the first 1 and 4 blocks of smollm2-135m; nobody "
    "measured whether longer runs want less"
)


def _measured(method: str, optima: int, law: RateLaw, *, share: bool = False, scale: float | None = None) -> RateRule:
    source = _MEASURED.format(" and trained share" if share else "", optima)
    return RateRule(method=method, law=law, scale=scale, along="depth", source=source)


_RATES = (
    _measured("full", 2, RateLaw(constant=-1.6983, params=-0.2955, steps=0.0)),
    _measured("freeze", 3, RateLaw(constant=0.3052, params=-0.4077, steps=0.0, share=-0.8532), share=True),
    _measured("norms", 2, RateLaw(constant=-3.6233, params=-0.0524, steps=0.0)),
    _measured("lora", 4, RateLaw(constant=-0.1638, params=-0.4355, steps=0.0, share=-0.4560), share=True, scale=2.0),
    *(rule for rule in BORROWED_RATES if rule.method == "bias"),
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
    rates=_RATES,
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
