"""Tiny random models of many architectures, shared by all tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

VOCAB, CONTEXT = 64, 64


def configs() -> dict[str, hf.PreTrainedConfig]:
    """A tiny configuration of each architecture: width 32, 3 blocks, 4 heads, no dropout."""
    ends: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    plain: dict[str, Any] = {**ends, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sized: dict[str, Any] = {**plain, "max_position_embeddings": CONTEXT}
    gated: dict[str, Any] = {**sized, "intermediate_size": 48, "num_key_value_heads": 2}
    # a dense block below two with experts, of which a token is sent to 2 of 6
    experts: dict[str, Any] = {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    experts["mlp_only_layers"] = [0]
    return {
        "gpt_neox": hf.GPTNeoXConfig(**sized, intermediate_size=128),
        "llama": hf.LlamaConfig(**gated),
        "qwen2": hf.Qwen2Config(**gated),
        "qwen3": hf.Qwen3Config(**gated, head_dim=16),
        "qwen3_moe": hf.Qwen3MoeConfig(**gated, **experts),
        "gemma3": hf.Gemma3TextConfig(**gated, head_dim=16),
        "gpt2": hf.GPT2Config(
            **ends, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        ),
        "opt": hf.OPTConfig(**sized, ffn_dim=64, word_embed_proj_dim=16, dropout=0.0),
        "mistral": hf.MistralConfig(**gated),
        "olmo2": hf.Olmo2Config(**gated),
        "phi": hf.PhiConfig(**sized, intermediate_size=64),
        "smollm3": hf.SmolLM3Config(**gated),
        "bloom": hf.BloomConfig(**{**ends, "hidden_size": 32, "n_layer": 3, "n_head": 4, "seq_length": CONTEXT}),
    }


def tiny(architecture: str, *, seed: int = 0, jitter: bool = True) -> nn.Module:
    """A seeded tiny model, in evaluation mode.

    `jitter` moves every parameter a little off its initial value, so that no zero bias or unit norm hides a mistake.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = hf.AutoModel.from_config(configs()[architecture])
        if jitter:
            with torch.no_grad():
                for value in model.parameters():
                    value.add_(0.05 * torch.randn_like(value))
    return model.eval()


def tiny_tokenizer(**special: str | None) -> hf.PreTrainedTokenizerFast:
    """One token a word, for the words `w4` to `w63`; 0 ends a text, 1 pads, 2 begins, 3 is unknown."""
    words = ["<end>", "<pad>", "<begin>", "<unknown>", *(f"w{index}" for index in range(4, VOCAB))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unknown>", **special}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=CONTEXT, **tokens)
