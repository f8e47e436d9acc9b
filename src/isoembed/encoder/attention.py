"""Attention for texts that need no mask: padded on the right, or packed one behind the other without padding.

transformers asks the positions of every forward pass on a GPU whether texts are packed in it, and waits for the answer;
an implementation under a name of its own, for which it makes no mask, is not asked.

Shape legend: B texts, T tokens of the longest, N real tokens of all of them, H heads, K width of a head.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from isoembed.core import InputError
from isoembed.encoder.encoder import base_of, looks_back_only
from isoembed.encoder.precision import products

if TYPE_CHECKING:
    from isoembed.encoder.encoder import Encoder

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen_attn: Any = None
else:
    varlen_attn = varlen.varlen_attn

NAME = "isoembed"
#: on a CPU packed texts are padded for attention, and nothing else: neighbours of at least this share of the longest
LIKE = 0.75
#: what tells `varlen_attn` to look back only: its name changed after torch 2.10
_LOOKS_BACK: dict[str, Any] = (
    {"window_size": (-1, 0)}
    if varlen_attn is None or "window_size" in inspect.signature(varlen_attn).parameters
    else {"is_causal": True}
)
#: how far outputs may lie from those of transformers' own implementation, as a share of their length: by precision
_NEAR = {True: 3e-2, False: 1e-4}


def attend(
    module: nn.Module,
    query_BHTK: torch.Tensor,
    key_BHTK: torch.Tensor,
    value_BHTK: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it: (B, T, H, K).  A token attends to itself and to what is before it in its
    text; texts end at `cu_seq_lens_q` where they are packed in one row."""
    assert attention_mask is None
    if cu_seq_lens_q is None:
        padded: torch.Tensor = sdpa_attention_forward(
            module, query_BHTK, key_BHTK, value_BHTK, None, dropout=dropout, scaling=scaling, is_causal=True
        )[0]
        return padded, None
    if query_BHTK.device.type == "cuda":
        if dropout:
            raise InputError(f"Packed texts have no dropout of attention on a GPU; got {dropout}. Leave `packed` out.")
        groups = query_BHTK.shape[1] // key_BHTK.shape[1]
        query_NHK, key_NHK, value_NHK = (
            side[0].transpose(0, 1)
            for side in (query_BHTK, *(x.repeat_interleave(groups, 1) for x in (key_BHTK, value_BHTK)))
        )
        return _on_gpu(query_NHK, key_NHK, value_NHK, cu_seq_lens_q, max_length_q, scaling)[None], None
    sides = [side[0].transpose(0, 1) for side in (query_BHTK, key_BHTK, value_BHTK)]
    attended = []
    for place_BT, real in _runs(cu_seq_lens_q):
        # `index_select`, for the gradient of an index by tensors is slow on a CPU
        query_BHTK, key_BHTK, value_BHTK = (
            side.index_select(0, place_BT.flatten()).unflatten(0, place_BT.shape).transpose(1, 2) for side in sides
        )
        out_BTHK = sdpa_attention_forward(
            module, query_BHTK, key_BHTK, value_BHTK, None, dropout=dropout, scaling=scaling, is_causal=True
        )
        attended.append(out_BTHK[0].flatten(0, 1).index_select(0, real))
    return torch.cat(attended)[None], None


def _runs(bounds: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Packed texts as neighbours of like length, padded to the first of them: where their tokens lie (B, T), and the
    places of the real ones among these."""
    lengths = bounds.diff()
    first = 0
    while first < len(lengths):
        longest = int(lengths[first])
        unlike = (lengths[first:] > longest) | (lengths[first:] < LIKE * longest)
        last = first + int(unlike.int().argmax()) if unlike.any() else len(lengths)
        step_T = torch.arange(longest)
        place_BT = (bounds[first:last, None] + step_T).clamp(max=int(bounds[-1]) - 1)
        yield place_BT, (step_T < lengths[first:last, None]).flatten().nonzero()[:, 0]
        first = last


def _on_gpu(
    query_NHK: torch.Tensor,
    key_NHK: torch.Tensor,
    value_NHK: torch.Tensor,
    bounds: torch.Tensor,
    longest: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """FlashAttention's kernel for texts of unequal length, which computes in 16 bits."""
    half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query_NHK.dtype
    if scaling is not None:  # the kernel's own is 1 / sqrt(K); torch 2.10 takes no other
        query_NHK = query_NHK * (scaling * query_NHK.shape[-1] ** 0.5)
    sides = (side.to(half).contiguous() for side in (query_NHK, key_NHK, value_NHK))
    attended_NHK: torch.Tensor = varlen_attn(*sides, bounds, bounds, longest, longest, **_LOOKS_BACK)
    return attended_NHK


AttentionInterface.register(NAME, attend)


@contextmanager
def unmasked(
    encoders: Sequence[Encoder], *, context_tokens: int, bf16: bool, packed: bool = False, required: bool = True
) -> Iterator[None]:
    """Inside the body `encoders`, replicas of one, run texts padded on the right without transformers' masks, with
    `packed` without the padding too, where their architecture gives the same hidden states that way, which is tried
    first.

    Raises InputError where texts are to be packed, that is `required`, and it does not.
    """
    configs: list[Any] = [base_of(encoder.model).config for encoder in encoders]
    first, own = encoders[0], configs[0]._attn_implementation
    able = looks_back_only(first.model) and own == "sdpa"
    on_gpu = next(first.parameters()).device.type == "cuda"
    if packed:
        able = able and first.takes_positions and not (on_gpu and varlen_attn is None)
    # tried in fp32, which tells another computation from rounding; but for the GPU's kernel, which has 16 bits alone
    bf16 = bf16 and packed and on_gpu
    wanted = _states(first, context_tokens, bf16) if able else None

    def change(implementation: str, packed: bool) -> None:
        for encoder, config in zip(encoders, configs, strict=True):
            config._attn_implementation, encoder.packed = implementation, packed

    try:
        if wanted is not None:
            change(NAME, packed)
            able = _away(first, wanted, context_tokens, bf16) <= _NEAR[bf16]
        if not able:
            change(own, False)
            if packed and required:
                raise InputError(
                    f"Texts cannot be packed for {configs[0].model_type}: its attention asks for more than what came "
                    "before, or torch is older than 2.10 on a GPU. Leave `packed` out."
                )
        yield
    finally:
        change(own, False)


def _away(encoder: Encoder, wanted: torch.Tensor, context_tokens: int, bf16: bool) -> float:
    """How far its hidden states are from those `wanted`, as a share of their length; infinitely where the architecture
    does not run this way: one that adds a mask of its own, or keeps a state that packed texts would share."""
    try:
        found = _states(encoder, context_tokens, bf16)
    except Exception:  # whatever an architecture raises
        return math.inf
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def _states(encoder: Encoder, context_tokens: int, bf16: bool) -> torch.Tensor:
    """Hidden states of the real tokens of a text as long as allowed, and a short one, in evaluation mode."""
    device, training = next(encoder.parameters()).device, encoder.training
    config: Any = base_of(encoder.model).config
    ids_BT = torch.arange(1, 2 * context_tokens + 1).reshape(2, -1) % config.vocab_size
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, max(1, context_tokens // 3) :] = 0
    try:
        encoder.eval()
        with products(device, bf16=bf16):
            hidden_BTD = encoder.hidden(ids_BT, mask_BT, device)
        return hidden_BTD.float()[mask_BT.bool().to(device)]
    finally:
        encoder.train(training)
