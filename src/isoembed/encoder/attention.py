"""Attention for texts that need no mask: padded on the right, or packed one behind the other without padding.

transformers asks the positions of every forward pass on a GPU whether texts are packed in it, and waits for the answer;
an implementation under a name of its own, for which it makes no mask, is not asked.

Shape legend: B texts, T tokens of the longest, N real tokens of all of them, H heads, K width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
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
    groups = query_BHTK.shape[1] // key_BHTK.shape[1]
    query_NHK, key_NHK, value_NHK = (
        side[0].transpose(0, 1)
        for side in (query_BHTK, *(x.repeat_interleave(groups, 1) for x in (key_BHTK, value_BHTK)))
    )
    if query_BHTK.device.type == "cuda":
        return _on_gpu(query_NHK, key_NHK, value_NHK, cu_seq_lens_q, max_length_q, scaling)[None], None
    texts = []
    for start, stop in zip(cu_seq_lens_q.tolist(), cu_seq_lens_q[1:].tolist(), strict=False):
        query_HTK, key_HTK, value_HTK = (side[start:stop].transpose(0, 1) for side in (query_NHK, key_NHK, value_NHK))
        attended_HTK = functional.scaled_dot_product_attention(
            query_HTK, key_HTK, value_HTK, is_causal=True, scale=scaling
        )
        texts.append(attended_HTK.transpose(0, 1))
    return torch.cat(texts)[None], None


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
def unmasked(encoder: Encoder, *, context_tokens: int, bf16: bool, packed: bool = False) -> Iterator[None]:
    """Inside the body `encoder` runs texts padded on the right without transformers' masks, with `packed` without the
    padding too, where its architecture gives the same hidden states that way, which is tried first.

    Raises InputError where texts are to be packed and it does not.
    """
    config: Any = base_of(encoder.model).config
    own, able = config._attn_implementation, looks_back_only(encoder.model)
    able = able and own == "sdpa"
    if packed:
        able = able and encoder.takes_positions and varlen_attn is not None
    wanted = _states(encoder, context_tokens, bf16) if able else None
    try:
        if wanted is not None:
            config._attn_implementation, encoder.packed = NAME, packed
            away = (_states(encoder, context_tokens, bf16) - wanted).norm() / wanted.norm()
            able = bool(away <= _NEAR[bf16])
        if not able:
            config._attn_implementation, encoder.packed = own, False
            if packed:
                raise InputError(
                    f"Texts cannot be packed for {config.model_type}: its attention asks for more than what came "
                    "before, or torch is older than 2.10. Leave `packed` out."
                )
        yield
    finally:
        config._attn_implementation, encoder.packed = own, False


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
