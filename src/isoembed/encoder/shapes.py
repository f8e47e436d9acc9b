"""Counts and shapes of any decoder-only model, by module type, on the meta device where only the configuration is
known: the same `ModelSpec` that the built-in families hold as tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from isoembed.core import InputError
from isoembed.encoder.load import load_config, resolve
from isoembed.families.base import Dense, ModelSpec
from isoembed.methods.parts import (
    blocks_of,
    dense_layers,
    entry_modules,
    is_bias,
    is_embedding,
    is_norm,
    owned_parameters,
)


def spec_of(model: nn.Module, name: str, source: str) -> ModelSpec:
    """Count `model` (as `AutoModel` makes it: no head; real or on the meta device).

    Raises InputError where the cost formula would not hold: a matrix that is neither embedding nor dense layer is a
    mixture of experts (all counted, few run), a convolution or a recurrence.
    """
    config: Any = model.config
    blocks, dense, entry = blocks_of(model), dense_layers(model), entry_modules(model)
    for key, owner, value in owned_parameters(model):
        if value.ndim >= 2 and not isinstance(owner, (nn.Embedding, nn.Linear, Conv1D)):
            raise InputError(
                f"Every matrix must be an embedding or a dense layer to be counted; `{key}` of {name} is not "
                "(a mixture of experts, a convolution or a recurrence). Choose a dense decoder-only model."
            )
    counted = [(key, owner, value.numel()) for key, owner, value in owned_parameters(model) if not is_embedding(owner)]
    inside = [set(block.modules()) for block in blocks]
    per_block = tuple(sum(count for _, owner, count in counted if owner in modules) for modules in inside)
    total, everything = sum(count for _, _, count in counted), sum(value.numel() for value in model.parameters())
    queries = config.num_attention_heads * (getattr(config, "head_dim", None) or 0)
    return ModelSpec(
        name=name,
        source=source,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        block_params=per_block,
        other_params=total - sum(per_block),
        entry_params=sum(count for _, owner, count in counted if owner in entry),
        embedding_params=everything - total,
        bias_params=sum(count for key, _, count in counted if is_bias(key)),
        norm_params=sum(count for _, owner, count in counted if is_norm(owner)),
        dense=tuple(Dense(inputs=i, outputs=o, count=count) for (i, o), count in Counter(dense.values()).items()),
        head_width=queries if queries not in (0, config.hidden_size) else None,
        context=_context(config, name),
    )


def spec_from_config(source: str, *, trust_remote_code: bool = False) -> ModelSpec:
    """Count the model at `source` from its configuration alone: no weights are read or downloaded."""
    config = load_config(source, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    return spec_of(model, name=resolve(source).rstrip("/").rsplit("/", 1)[-1], source=source)


def _context(config: PreTrainedConfig, name: str) -> int:
    """The longest sequence in tokens, under the names configurations have for it (Bloom's is the one it trained on)."""
    for field in ("max_position_embeddings", "seq_length", "max_seq_len"):
        if isinstance(length := getattr(config, field, None), int):
            return length
    raise InputError(
        f"The configuration of {name} must state the longest sequence: add `max_position_embeddings` to config.json."
    )
