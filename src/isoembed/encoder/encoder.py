"""Token ids in, unit vectors out: a decoder-only model with its pooling.

Shape legend: B texts, T tokens of the longest, D embedding width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from isoembed.core import InputError
from isoembed.encoder.pooling import pool
from isoembed.encoder.precision import AttentionInFp32
from isoembed.options import NO_PROMPTS, Prompts


class Encoder(nn.Module):
    """`model` (of `load_model`, as a method's `apply` returned it) with the pooling called `pooling`, for texts behind
    `prompts`; `dense`, where there is one, maps what is pooled to the embedding (`isoembed.encoder.dense`)."""

    def __init__(
        self, model: nn.Module, pooling: str, prompts: Prompts = NO_PROMPTS, dense: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.prompts = prompts
        self.dense = dense
        self._pool = pool(pooling, prompts)
        self.takes_positions = "position_ids" in inspect.signature(base_of(model).forward).parameters
        self.projection: nn.Linear | None = None  #: to a teacher's width; of training alone
        self.packed = False  #: texts run one behind the other, without padding (`isoembed.encoder.attention`)

    def forward(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, prompt_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings (B, D) of length 1 in fp32; the same for left padding, right padding and none.

        `mask_BT` is 1 at real tokens.  What is given may lie on the CPU wherever the model is: whether it is padded on
        the right is then known without waiting for a GPU.  `prompt_B` says how many of a text's first tokens are its
        prompt's; where prompts are not pooled, the pooling passes over them, but for the last token of a text that is
        nothing else (a word of one letter may melt into the prompt's last token; sentence-transformers makes a zero
        vector of it).

        Positions count real tokens only (architectures without `position_ids`, such as Bloom, derive theirs from the
        mask).  Where attention looks back only, a real token never sees padding on its right, and needs no mask.
        """
        device = next(self.parameters()).device
        hidden_BTD = self.hidden(ids_BT, mask_BT, device)
        if prompt_B is not None and not self.prompts.pooled:
            count_BT = mask_BT.cumsum(1)
            passed_B1 = torch.minimum(prompt_B, count_BT[:, -1] - 1)[:, None]
            mask_BT = mask_BT * (count_BT > passed_B1)
        pooled_BD = self._pool(hidden_BTD, to_device(mask_BT, device))
        if self.dense is not None:
            with torch.autocast(device.type, enabled=False):  # in fp32, as the pooling: it is no share of the work
                pooled_BD = self.dense(pooled_BD)
        return functional.normalize(pooled_BD, dim=-1)

    def hidden(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The last hidden states (B, T, D); what stands at padding means nothing."""
        if self.packed:
            return self._hidden_packed(ids_BT, mask_BT.bool(), device)
        told = {name: to_device(value, device) for name, value in self._masked(mask_BT).items()}
        hidden_BTD: torch.Tensor = self.model(input_ids=to_device(ids_BT, device), **told).last_hidden_state
        return hidden_BTD

    def _hidden_packed(self, ids_BT: torch.Tensor, real_BT: torch.Tensor, device: torch.device) -> torch.Tensor:
        bounds = functional.pad(real_BT.sum(1).cumsum(0), (1, 0)).int()
        position_BT = real_BT.cumsum(1) - 1
        place_N, ids_1N, position_1N, bounds = (
            to_device(value, device)
            for value in (real_BT.flatten().nonzero()[:, 0], ids_BT[real_BT][None], position_BT[real_BT][None], bounds)
        )
        texts = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        longest = {"max_length_q": ids_BT.shape[1], "max_length_k": ids_BT.shape[1]}
        found = self.model(input_ids=ids_1N, position_ids=position_1N, **texts, **longest)
        hidden_ND: torch.Tensor = found.last_hidden_state[0]
        hidden_BTD = hidden_ND.new_zeros(ids_BT.numel(), hidden_ND.shape[-1]).index_copy(0, place_N, hidden_ND)
        return hidden_BTD.view(*ids_BT.shape, -1)

    def _masked(self, mask_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model must be told of `mask_BT`."""
        if looks_back_only(self.model) and bool((mask_BT[:, :-1] >= mask_BT[:, 1:]).all()):
            return {}
        positions = {"position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0)} if self.takes_positions else {}
        return {"attention_mask": mask_BT, **positions}


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`; to a GPU through pinned memory, so that nothing waits for the copy."""
    to_gpu = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if to_gpu else tensor).to(device, non_blocking=to_gpu)


def looks_back_only(model: nn.Module) -> bool:
    """Whether no token's output depends on a later token, as far as is known: a decoder of transformers' own that is
    not set to attend both ways."""
    config: Any = base_of(model).config
    kind = config.model_type
    return (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and type(base_of(model)).__module__.startswith("transformers.")
        and getattr(config, "is_causal", True) is not False
        and not getattr(config, "use_bidirectional_attention", False)
    )


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model itself, without LoRA's wrapper."""
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    return base


def is_sharded(encoder: Encoder) -> bool:
    """Whether `isoembed.training.sharding.shard` cut it over several processes."""
    return isinstance(encoder, FSDPModule)


def enable_checkpointing(model: nn.Module) -> None:
    """Keep only the blocks' inputs in the forward pass and run each block again in the backward pass.

    The non-reentrant kind, for the reentrant one gives silently no gradient to anything inside a block whose input
    needs none, as with frozen embeddings.  transformers' remedy, to let the embeddings' output require a gradient, is
    taken back: it would send the backward pass through frozen blocks.
    """
    base: Any = base_of(model)
    if not base.supports_gradient_checkpointing:
        raise InputError(f"{type(base).__name__} cannot recompute its blocks; leave gradient checkpointing off.")
    # under its name since transformers 5.23, or the one before
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": _run_again})
    base.disable_input_require_grads()


def _run_again() -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
    """What a block runs in, the first time and again: checkpoints bring autocast back, not how attention runs in it."""
    return nullcontext(), AttentionInFp32()


def pad(rows: Sequence[np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of unequal length as (ids_BT, mask_BT), padded on the right with `pad_id`; mask 1 at real tokens."""
    length_B = np.array([len(row) for row in rows])
    real_BT = np.arange(length_B.max()) < length_B[:, None]
    ids_BT = np.full(real_BT.shape, pad_id, np.int64)
    ids_BT[real_BT] = np.concatenate(rows)  # a loop over the rows takes as long as a small model's step on a GPU
    return torch.from_numpy(ids_BT), torch.from_numpy(real_BT.astype(np.int64))
