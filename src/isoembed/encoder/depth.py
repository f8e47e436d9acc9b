"""A model cut in depth: its configuration so changed that transformers builds, saves and opens it with fewer blocks."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from isoembed.core import InputError
from isoembed.families.base import check_depth

#: lists that say nothing of blocks, however many entries they have
_NOT_OF_BLOCKS = ("token_id", "architectures")


def first_blocks(config: PreTrainedConfig, depth: int, name: str) -> PreTrainedConfig:
    """`config` with the first `depth` blocks alone, and of each list with one entry a block the first so many entries.

    Raises InputError where there are not so many blocks, or where such a model, once saved, would not be opened the
    same: some architectures demand another kind of last block.
    """
    whole: Any = config
    blocks = int(whole.num_hidden_layers)
    check_depth(depth, blocks, name)
    if depth == blocks:
        return config
    if getattr(whole, "is_heterogeneous", False):
        raise InputError(f"`depth` needs blocks of one configuration; {name} has one for each. Leave the model whole.")
    cut: Any = copy.deepcopy(config)
    cut.num_hidden_layers = depth
    lists = {field: entries[:depth] for field, entries in _per_block(whole).items()}
    for field, entries in lists.items():
        setattr(cut, field, entries)
    if (
        hasattr(whole, "attention_types") and "attention_layers" in lists
    ):  # GPT-Neo's own way to write a list of a kind each
        cut.attention_types = [[[kind], 1] for kind in cut.attention_layers]
    if last := getattr(whole, "num_kv_shared_layers", None):  # the last so many blocks reuse keys and values
        cut.num_kv_shared_layers = max(0, depth - (blocks - last))
    try:
        again: Any = type(config).from_dict(cut.to_dict())
    except (ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise InputError(
            f"`depth` {depth} makes no {config.model_type} model ({reason}). Choose another depth."
        ) from None
    if again.num_hidden_layers != depth or any(list(getattr(again, field)) != list(lists[field]) for field in lists):
        raise InputError(
            f"`depth` {depth} makes a model of which transformers opens another than was saved: {config.model_type} "
            f"demands a certain kind of last block. Choose another depth."
        )
    found: PreTrainedConfig = cut
    return found


def _per_block(config: PreTrainedConfig) -> dict[str, list[Any] | tuple[Any, ...]]:
    """The fields of `config` that hold one entry a block."""
    blocks = getattr(config, "num_hidden_layers", None)
    return {
        field: value
        for field, value in vars(config).items()
        if isinstance(value, (list, tuple)) and len(value) == blocks and not field.endswith(_NOT_OF_BLOCKS)
    }
