"""The static tables against numbers others published and against transformers' own models on the meta device."""

from importlib.resources import files
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import AutoModel

from isoembed.core import InputError
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_of
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import FAMILIES, NANO, PYTHIA, Family, ModelSpec, family_named

#: parameters without the token table and the head, as the model cards and Ziarko et al. 2024, section 3.5, list them
PUBLISHED = {
    "pythia-14m": 1_189_888,
    "pythia-31m": 4_739_072,
    "pythia-70m": 18_915_328,
    "pythia-160m": 85_056_000,
    "pythia-410m": 302_311_424,
    "pythia-1b": 805_736_448,
    "pythia-1.4b": 1_208_602_624,
    "pythia-2.8b": 2_517_652_480,
}
#: parameters of the converted checkpoints as keras-hub 0.32.0 states them in its presets (docs/model-sources.md)
STATED = {
    "qwen3-0.6b-base": 596_049_920,
    "qwen3-1.7b-base": 1_720_574_976,
    "qwen3-4b-base": 4_022_468_096,
    "qwen3-8b-base": 8_190_735_360,
    "qwen3-14b-base": 14_768_307_200,
    "qwen3-embedding-0.6b": 595_776_512,
    "qwen3-embedding-4b": 4_021_774_336,
    "qwen3-embedding-8b": 8_188_515_328,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "smollm3-3b": 3_075_100_928,
    "llama-3.2-1b": 1_498_482_688,
    "llama-3.2-3b": 3_606_752_256,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_237_760,
    "opt-1.3b": 1_315_753_984,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
}
#: models that keras-hub counts with a head of its own beside the token table
OWN_HEAD = {"qwen3-8b-base", "qwen3-14b-base", "qwen3-embedding-8b", "llama-3.2-1b", "llama-3.2-3b"}
#: the model cards of Qwen3 round the non-embedding parameters to these billions
QWEN3_CARDS = {
    "qwen3-0.6b-base": 0.44,
    "qwen3-1.7b-base": 1.4,
    "qwen3-4b-base": 3.6,
    "qwen3-8b-base": 6.95,
    "qwen3-14b-base": 13.2,
}
HEADS = {"pythia-14m": 4, "pythia-160m": 12, "pythia-410m": 16, "pythia-1.4b": 16, "pythia-2.8b": 32}
#: of the gated families: hidden, blocks, heads, key-value heads, head size, feed-forward width, from the sources in
#: docs/model-sources.md
GATED: dict[str, tuple[int, int, int, int, int, int]] = {
    "qwen3-0.6b-base": (1024, 28, 16, 8, 128, 3072),
    "qwen3-1.7b-base": (2048, 28, 16, 8, 128, 6144),
    "qwen3-4b-base": (2560, 36, 32, 8, 128, 9728),
    "qwen3-8b-base": (4096, 36, 32, 8, 128, 12288),
    "qwen3-14b-base": (5120, 40, 40, 8, 128, 17408),
    "qwen3-embedding-0.6b": (1024, 28, 16, 8, 128, 3072),
    "qwen3-embedding-4b": (2560, 36, 32, 8, 128, 9728),
    "qwen3-embedding-8b": (4096, 36, 32, 8, 128, 12288),
    "gemma-3-270m": (640, 18, 4, 1, 256, 2048),
    "gemma-3-1b": (1152, 26, 4, 1, 256, 6912),
    "smollm2-135m": (576, 30, 9, 3, 64, 1536),
    "smollm2-360m": (960, 32, 15, 5, 64, 2560),
    "smollm2-1.7b": (2048, 24, 32, 32, 64, 8192),
    "smollm3-3b": (2048, 36, 16, 4, 128, 11008),
    "olmo-2-1b": (2048, 16, 16, 16, 128, 8192),
    "olmo-2-7b": (4096, 32, 32, 32, 128, 11008),
    "olmo-2-13b": (5120, 40, 40, 40, 128, 13824),
    "olmo-2-32b": (5120, 64, 40, 8, 128, 27648),
    "llama-3.2-1b": (2048, 16, 32, 8, 64, 8192),
    "llama-3.2-3b": (3072, 28, 24, 8, 128, 8192),
}
CLASSES: dict[str, Any] = {
    "qwen3": hf.Qwen3Config,
    "qwen3-embedding": hf.Qwen3Config,
    "gemma3": hf.Gemma3TextConfig,
    "smollm2": hf.LlamaConfig,
    "smollm3": hf.SmolLM3Config,
    "olmo2": hf.Olmo2Config,
    "llama3.2": hf.LlamaConfig,
}
#: sizes: hidden, blocks, heads
GPT2_SHAPES = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}
OPT_SHAPES = {
    "opt-125m": (768, 12, 12),
    "opt-350m": (1024, 24, 16),
    "opt-1.3b": (2048, 24, 32),
    "opt-2.7b": (2560, 32, 32),
    "opt-6.7b": (4096, 32, 32),
    "opt-13b": (5120, 40, 40),
    "opt-30b": (7168, 48, 56),
}
BLOOM_SHAPES = {
    "bloom-560m": (1024, 24, 16),
    "bloom-1b1": (1536, 24, 16),
    "bloom-1b7": (2048, 24, 16),
    "bloom-3b": (2560, 30, 32),
    "bloom-7b1": (4096, 30, 32),
}
ALL = [(family, spec) for family in FAMILIES for spec in family.models]


def config(family: str, spec: ModelSpec, *, tied: bool = True) -> hf.PreTrainedConfig:
    """The real configuration class with the published dimensions: nothing of `spec` but names, vocabulary, context."""
    ends: dict[str, Any] = {"vocab_size": spec.vocab, "tie_word_embeddings": tied, "eos_token_id": 0, "pad_token_id": 0}
    if family in CLASSES:
        hidden, blocks, heads, kv_heads, head_size, ffn = GATED[spec.name]
        made: hf.PreTrainedConfig = CLASSES[family](
            **ends,
            hidden_size=hidden,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            **({} if family in ("olmo2", "smollm3") else {"head_dim": head_size}),
            intermediate_size=ffn,
            max_position_embeddings=spec.context,
        )
        return made
    if family == "gpt2":
        hidden, blocks, heads = GPT2_SHAPES[spec.name]
        return hf.GPT2Config(**ends, n_embd=hidden, n_layer=blocks, n_head=heads, n_positions=1024)
    if family == "opt":
        hidden, blocks, heads = OPT_SHAPES[spec.name]
        odd: dict[str, Any] = {"word_embed_proj_dim": 512, "do_layer_norm_before": False}
        return hf.OPTConfig(
            **ends,
            hidden_size=hidden,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            ffn_dim=4 * hidden,
            max_position_embeddings=2048,
            **(odd if spec.name == "opt-350m" else {}),
        )
    if family == "bloom":
        hidden, blocks, heads = BLOOM_SHAPES[spec.name]
        return hf.BloomConfig(**{**ends, "hidden_size": hidden, "n_layer": blocks, "n_head": heads, "seq_length": 2048})
    return hf.GPTNeoXConfig(
        **ends,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.blocks,
        num_attention_heads=HEADS.get(spec.name, 8),
        intermediate_size=4 * spec.hidden,
        max_position_embeddings=spec.context,
    )


def test_pythia_counts_are_the_published_ones() -> None:
    assert {model.name: model.params for model in PYTHIA.models} == PUBLISHED


@pytest.mark.parametrize(("family", "spec"), ALL, ids=[spec.name for _, spec in ALL])
def test_tables_equal_the_real_model(family: Family, spec: ModelSpec) -> None:
    """Proves the counting; that the dimensions are the published ones rests on docs/model-sources.md."""
    with torch.device("meta"):
        model = AutoModel.from_config(config(family.name, spec))
    counted = spec_of(model, spec.name, spec.source)
    assert counted == spec.model_copy(update={"pretraining_rate": None})
    assert counted.total_params == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("spec", [*PYTHIA.models, *NANO.models], ids=lambda spec: spec.name)
def test_untied_heads_are_not_counted(spec: ModelSpec) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(config("pythia", spec, tied=False))
    assert spec_of(model, spec.name, spec.source) == spec.model_copy(update={"pretraining_rate": None})


def beside(spec: ModelSpec) -> int:
    """What keras-hub counts beside the base model: a head, SmolLM3's rotary frequencies; OPT's 2 unused position rows
    it lacks."""
    if spec.name in OWN_HEAD:
        return spec.vocab * spec.hidden
    if spec.name == "smollm3-3b":
        return spec.blocks * 64
    return -2 * spec.hidden if spec.name.startswith("opt-") else 0


def test_totals_are_those_that_keras_hub_counted() -> None:
    specs = {spec.name: spec for _, spec in ALL}
    for name, stated in STATED.items():
        assert specs[name].total_params + beside(specs[name]) == stated, name
    for name, billions in QWEN3_CARDS.items():
        assert f"{specs[name].params / 1e9:.2f}".startswith(f"{billions:.2f}"[:-1]), name


@pytest.mark.parametrize("spec", NANO.models, ids=lambda spec: spec.name)
def test_tables_equal_what_ships(spec: ModelSpec) -> None:
    if not (files("isoembed") / "assets" / spec.source).is_dir():
        pytest.skip(f"{spec.name} is not pretrained yet")
    counted = spec_of(load_model(spec.source), spec.name, spec.source)
    assert counted == spec.model_copy(update={"pretraining_rate": None})
    assert len(load_tokenizer(spec.source)) <= spec.vocab


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sizes_ascend_and_are_found_by_name(family: Family) -> None:
    assert [model.params for model in family.models] == sorted(model.params for model in family.models)
    assert family_named(family.name) is family
    for model in family.models:
        assert family.model(model.name) is model


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"nano, pythia, .*bloom, .*; got 'llama'"):
        family_named("llama")
    with pytest.raises(InputError, match=r"pythia-2\.8b\); got 'pythia-12b'"):
        PYTHIA.model("pythia-12b")
