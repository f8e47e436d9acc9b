"""Counts and shapes of any decoder-only model, by module type, on the meta device where only the configuration is
known: the same `ModelSpec` that the built-in families hold as tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from isoembed.core import InputError
from isoembed.encoder.config import load_config, resolve, unreadable
from isoembed.encoder.gguf import stored_file
from isoembed.encoder.load import grow_table
from isoembed.families.base import Dense, ModelSpec
from isoembed.families.stored import gguf_file
from isoembed.methods.parts import (
    blocks_of,
    dense_layers,
    entry_modules,
    is_bias,
    is_embedding,
    is_experts,
    is_norm,
    owned_parameters,
)


def spec_of(model: nn.Module, name: str, source: str, *, cut: bool = False) -> ModelSpec:
    """Count `model` (as `AutoModel` makes it: no head; real or on the meta device); with `cut` one of which the blocks
    that have experts may be gone.

    Of a mixture of experts, those that a token is sent to count as run, and the router, which sees every token.  Raises
    InputError where the cost formula would not hold: any other matrix is a convolution, a recurrence or experts of
    another layout.
    """
    config: Any = model.config
    blocks, dense, entry = blocks_of(model), dense_layers(model), entry_modules(model)
    experts, sent = _experts(model, name, cut), getattr(config, "num_experts_per_tok", 0)
    _check_matrices(model, name, experts)
    counted = [(key, owner, value.numel()) for key, owner, value in owned_parameters(model) if not is_embedding(owner)]
    idle = [(owner, count - count // experts[owner] * sent) for _, owner, count in counted if owner in experts]
    inside = [set(block.modules()) for block in blocks]
    within = set[nn.Module]().union(*inside)
    per_block = tuple(sum(count for _, owner, count in counted if owner in modules) for modules in inside)
    idle_per_block = tuple(sum(count for owner, count in idle if owner in modules) for modules in inside)
    total, everything = sum(count for _, _, count in counted), sum(value.numel() for value in model.parameters())
    queries = config.num_attention_heads * _head_width(config)
    return ModelSpec(
        name=name,
        source=source,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        block_params=tuple(held - idle for held, idle in zip(per_block, idle_per_block, strict=True)),
        idle_block_params=idle_per_block if any(idle_per_block) else (),
        other_params=total - sum(per_block),
        entry_params=sum(count for _, owner, count in counted if owner in entry),
        embedding_params=everything - total,
        bias_params=sum(count for key, _, count in counted if is_bias(key)),
        norm_params=sum(count for _, owner, count in counted if is_norm(owner)),
        outer_bias_params=sum(count for key, owner, count in counted if is_bias(key) and owner not in within),
        outer_norm_params=sum(count for _, owner, count in counted if is_norm(owner) and owner not in within),
        dense=tuple(Dense(inputs=i, outputs=o, count=count) for (i, o), count in Counter(dense.values()).items()),
        head_width=queries if queries not in (0, config.hidden_size) else None,
        context=_context(config, name),
    )


def _head_width(config: Any) -> int:
    """Width of a head, which the FLOP of attention go by; 0 where it follows from `hidden`.

    Where queries and values differ in it (DeepSeek's latent attention), the mean: QK^T goes by one, the weighted sum
    by the other.
    """
    query, value = (getattr(config, name, None) for name in ("qk_head_dim", "v_head_dim"))
    if query and value:
        return int(query + value) // 2
    return getattr(config, "head_dim", None) or 0


def _experts(model: nn.Module, name: str, cut: bool) -> dict[nn.Module, int]:
    """The stacks of experts, and how many each holds; empty for a dense model."""
    config: Any = model.config
    stacks = {module: int(module.num_experts) for module in model.modules() if is_experts(module)}  # type: ignore[arg-type]
    sent = getattr(config, "num_experts_per_tok", None)
    fields = ("num_experts", "num_local_experts", "n_routed_experts")
    stated = [count for field in fields if isinstance(count := getattr(config, field, None), int) and count > 1]
    known = isinstance(sent, int) and all(1 <= sent <= count for count in stacks.values())
    if (stacks and not known) or (stated and not stacks and not cut):
        raise InputError(
            "Experts must be stacked in 3-D parameters, and `num_experts_per_tok` in config.json say how many a token "
            f"is sent to, to be counted; those of {name} are not. Choose a model that transformers implements itself, "
            "or a dense one."
        )
    return stacks


def _check_matrices(model: nn.Module, name: str, experts: dict[nn.Module, int]) -> None:
    config: Any = model.config
    routers = {(count, config.hidden_size) for count in experts.values()}
    for key, owner, value in owned_parameters(model):
        known = isinstance(owner, (nn.Embedding, nn.Linear, Conv1D)) or owner in experts
        if value.ndim >= 2 and not known and tuple(value.shape) not in routers:
            raise InputError(
                "Every matrix must be an embedding, a dense layer, a stack of experts or their router to be counted; "
                f"`{key}` of {name} is not (a convolution, a recurrence or another layout of experts). Choose a plain "
                "decoder-only model."
            )


def spec_from_config(source: str, *, depth: int | None = None, rows: int | None = None) -> ModelSpec:
    """Count the model at `source`, or its first `depth` blocks, from its configuration alone: no weights are read or
    downloaded (a GGUF file is unpacked).  Its token table is counted with `rows`, where it is to be grown."""
    config = load_config(source, depth=depth)
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever it raises: each architecture builds its layers its own way
        raise unreadable("configuration", source, error) from None
    if rows is not None:
        grow_table(model, rows)
    place = resolve(source)
    file = gguf_file(source)
    name = file.stem if file else place.rstrip("/").rsplit("/", 1)[-1]
    stored = None if file is None else stored_file(Path(place))
    cut = {} if depth is None else {"name": f"{name}@{depth}", "depth": depth, "whole": name}
    counts = spec_of(model, name=name, source=source, cut=depth is not None)
    return counts.model_copy(update={**cut, "file": stored})


def _context(config: PreTrainedConfig, name: str) -> int:
    """The longest sequence in tokens, under the names configurations have for it (Bloom's is the one it trained on)."""
    for field in ("max_position_embeddings", "seq_length", "max_seq_len"):
        if isinstance(length := getattr(config, field, None), int):
            return length
    raise InputError(
        f"The configuration of {name} must state the longest sequence: add `max_position_embeddings` to config.json."
    )
