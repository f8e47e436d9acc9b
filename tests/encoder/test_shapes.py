from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DeepseekV2Config,
    GraniteMoeConfig,
    MambaConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from isoembed.core import InputError
from isoembed.encoder.shapes import spec_from_config, spec_of
from isoembed.families import Dense
from isoembed.flops import attention_flop
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


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "num_experts_per_tok": 3,
}
EXPERTS: dict[str, Any] = {
    "mixtral": MixtralConfig(**SMALL, intermediate_size=48, num_local_experts=6),
    "olmoe": OlmoeConfig(**SMALL, intermediate_size=24, num_experts=8),
    "granite": GraniteMoeConfig(**SMALL, intermediate_size=24, num_local_experts=8),
    "shared expert": Qwen2MoeConfig(
        **SMALL, moe_intermediate_size=16, shared_expert_intermediate_size=40, num_experts=8
    ),
    "dense block": Qwen3MoeConfig(
        **SMALL, intermediate_size=48, moe_intermediate_size=16, num_experts=8, mlp_only_layers=[0]
    ),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_cost_what_the_forward_pass_runs(name: str) -> None:
    """torch counts the FLOP of every product of matrices; vectors (norms, biases) take part in none."""
    model = AutoModel.from_config(EXPERTS[name], attn_implementation="eager", experts_implementation="eager").eval()
    spec, tokens = spec_of(model, name, "somewhere"), 16
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randint(1, 64, (1, tokens)))
    matrices = spec.params - spec.norm_params - spec.bias_params
    expected = 2 * matrices * tokens + attention_flop(spec.attention_width, spec.blocks, tokens**2)
    assert counter.get_total_flops() == pytest.approx(expected, rel=5e-4)  # transformers 5.17 rotates by a product too
    assert spec.total_params == sum(value.numel() for value in model.parameters())
    assert spec.total_params - spec.params - spec.embedding_params == spec.idle_params > 0


def test_experts_of_a_published_model() -> None:
    """Qwen3-30B-A3B from the dimensions in litgpt's table, against the total that keras-hub states, head included, and
    the model card: 29.9 billion non-embedding, 3.3 activated."""
    dimensions: dict[str, Any] = {
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
    }
    with torch.device("meta"):
        spec = spec_of(AutoModel.from_config(Qwen3MoeConfig(**dimensions)), "qwen3-30b-a3b", "somewhere")
    assert spec.total_params + spec.embedding_params == 30_532_122_624
    assert f"{(spec.params + spec.idle_params) / 1e9:.1f}" == "29.9"
    assert spec.params + 2 * spec.embedding_params == pytest.approx(3.3e9, abs=0.06e9)


@pytest.mark.parametrize("sent", [0, 9])
def test_a_token_is_sent_to_some_of_the_experts(sent: int) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(deepcopy(EXPERTS["olmoe"]))
    model.config.num_experts_per_tok = sent
    with pytest.raises(InputError, match="`num_experts_per_tok` in config"):
        spec_of(model, "odd", "somewhere")


def test_experts_that_are_not_stacked_are_refused() -> None:
    """A dense layer each, as many a repository's own code has them: all would count as run."""
    model = tiny("llama")
    config: Any = model.config
    config.num_experts, config.num_experts_per_tok = 8, 2
    with pytest.raises(InputError, match="Experts must be stacked"):
        spec_of(model, "odd", "somewhere")


def test_what_the_formula_does_not_hold_for_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64))
    with pytest.raises(InputError, match="Every matrix must be an embedding, a dense layer"):
        spec_of(model, "odd", "somewhere")


def test_a_configuration_without_a_context_is_refused() -> None:
    model = tiny("bloom")
    delattr(model.config, "seq_length")
    with pytest.raises(InputError, match="must state the longest sequence"):
        spec_of(model, "bloom", "somewhere")


def test_latent_attention_goes_by_the_widths_of_queries_and_of_values() -> None:
    """DeepSeek-V2: 2 heads of 12 + 4 for queries and keys, 8 for values; `head_dim` is the rotated part alone."""
    config = DeepseekV2Config(
        vocab_size=16, hidden_size=32, intermediate_size=32, moe_intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=12,
        qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=0,
    )  # fmt: skip
    spec = spec_of(AutoModel.from_config(config), "tiny", "somewhere")
    assert spec.attention_width == 2 * (12 + 4 + 8) // 2


def test_an_architecture_without_sdpa_is_counted() -> None:
    """MPT knows eager attention alone: told of another kind, it got no mask and raised AttributeError."""
    config = transformers.MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert spec_of(model, "mpt", "somewhere").blocks == 2
    assert model.config._attn_implementation == "eager"
