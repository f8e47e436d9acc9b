from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, MambaConfig, MixtralConfig, PreTrainedConfig

from isoembed.core import InputError
from isoembed.encoder.shapes import spec_from_config, spec_of
from isoembed.families import Dense
from tests.models import configs, tiny


def test_llama_by_hand() -> None:
    # width 32, 4 heads of 8, 2 key-value heads, 48 inside the gated layer
    spec = spec_of(tiny("llama"), "tiny", "somewhere")
    block = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert (spec.block_params, spec.other_params, spec.embedding_params) == ((block,) * 3, 32, 64 * 32)
    assert (spec.bias_params, spec.entry_params, spec.hidden, spec.context, spec.vocab) == (0, 0, 32, 64, 64)
    assert spec.dense == (
        Dense(inputs=32, outputs=32, count=6),
        Dense(inputs=32, outputs=16, count=6),
        Dense(inputs=32, outputs=48, count=6),
        Dense(inputs=48, outputs=32, count=3),
    )


def test_gpt2_counts_transposed_layers_and_learned_positions() -> None:
    spec = spec_of(tiny("gpt2"), "tiny", "somewhere")
    assert spec.dense[0] == Dense(inputs=32, outputs=96, count=3)
    assert spec.dense[-1] == Dense(inputs=128, outputs=32, count=3)
    assert spec.embedding_params == (64 + 64) * 32
    assert spec.params == 3 * (12 * 32**2 + 13 * 32) + 2 * 32


def test_what_runs_before_the_blocks_is_told_from_what_runs_after() -> None:
    # OPT registers the last projection before the first one; Bloom has a norm in front
    opt, bloom = (spec_of(tiny(name), "tiny", "somewhere") for name in ("opt", "bloom"))
    assert (opt.entry_params, opt.other_params) == (16 * 32, 2 * 16 * 32 + 2 * 32)
    assert (bloom.entry_params, bloom.other_params) == (2 * 32, 2 * 2 * 32)


def test_attention_is_as_wide_as_its_heads() -> None:
    assert spec_of(tiny("qwen3"), "tiny", "somewhere").attention_width == 4 * 16
    assert spec_of(tiny("llama"), "tiny", "somewhere").attention_width == 32


@pytest.mark.parametrize("architecture", configs())
def test_from_the_configuration_alone(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    configs()[architecture].save_pretrained(folder)
    spec = spec_from_config(str(folder))
    assert spec == spec_of(tiny(architecture), "mine", str(folder))
    assert spec.total_params == sum(value.numel() for value in tiny(architecture).parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_not_counted(tied: bool, tmp_path: Path) -> None:
    config = configs()["qwen2"]
    config.tie_word_embeddings = tied
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert spec_from_config(str(tmp_path)).total_params == sum(value.numel() for value in tiny("qwen2").parameters())


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, num_local_experts=4),
        MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64),
    ],
    ids=["experts", "recurrence"],
)
def test_what_the_formula_does_not_hold_for_is_refused(config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    with pytest.raises(InputError, match="Every matrix must be an embedding or a dense layer"):
        spec_of(model, "odd", "somewhere")


def test_a_configuration_without_a_context_is_refused() -> None:
    model = tiny("bloom")
    delattr(model.config, "seq_length")
    with pytest.raises(InputError, match="must state the longest sequence"):
        spec_of(model, "bloom", "somewhere")
