"""Poolings: one vector per text from its last hidden states.  Add a function, list it in `POOLINGS`.

Contract: `(hidden_BTD, mask_BT) -> embedding_BD` in fp32, whatever the side and amount of padding; what stands at
padding (NaN even) neither reaches the vector nor its gradient.  Every row has at least one real token.

Shape legend: B texts, T tokens, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from isoembed.core import InputError
from isoembed.options import NO_PROMPTS, Prompts
from isoembed.recipe import check_pooling

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens (paper section 3.2)."""
    real_BT1 = mask_BT.bool()[..., None]
    return hidden_BTD.float().masked_fill(~real_BT1, 0.0).sum(1) / real_BT1.sum(1)


def last(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The last real token, the only one that has read the whole text."""
    place_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device) * mask_BT.bool()
    rows_B = torch.arange(len(mask_BT), device=mask_BT.device)
    return hidden_BTD[rows_B, place_BT.argmax(1)].float()


def first(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The first real token, which in a decoder has read nothing but itself: worth trying with attention both ways."""
    rows_B = torch.arange(len(mask_BT), device=mask_BT.device)
    return hidden_BTD[rows_B, mask_BT.bool().int().argmax(1)].float()


def weighted_mean(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens, the n-th of them n times as heavy as the first, for later ones have read more
    (Muennighoff 2022, SGPT, arXiv 2202.08904, section 3.1)."""
    real_BT = mask_BT.bool()
    weight_BT1 = (real_BT.cumsum(1) * real_BT).float()[..., None]
    weighted_BTD = hidden_BTD.float().masked_fill(~real_BT[..., None], 0.0) * weight_BT1
    return weighted_BTD.sum(1) / weight_BT1.sum(1)


def maximum(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The largest value of each dimension over the real tokens."""
    real_BT1 = mask_BT.bool()[..., None]
    return hidden_BTD.float().masked_fill(~real_BT1, -torch.inf).max(1).values


POOLINGS: dict[str, Pooling] = {
    "mean": mean,
    "weighted-mean": weighted_mean,
    "last": last,
    "first": first,
    "max": maximum,
}


def pool(name: str, prompts: Prompts = NO_PROMPTS) -> Pooling:
    """The pooling called `name`; raises InputError where there is none, or it cannot leave `prompts` out."""
    check_pooling(name)
    if not prompts.pooled and name == "weighted-mean":
        raise InputError(
            "A prompt is left out of a pooling whose weights do not count its tokens; got weighted-mean. "
            "Choose mean, last, first or max as `pooling`."
        )
    return POOLINGS[name]
