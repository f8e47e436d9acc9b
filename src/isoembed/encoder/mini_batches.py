"""Texts of a batch, sorted by length and cut into mini-batches of a token budget, so that little is padding; where
texts are packed, nothing is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch

from isoembed.estimates import CPU_MINI_BATCH_TOKENS as CPU_MINI_BATCH_TOKENS

#: on a GPU: what fills it; with four times as many, the few mini-batches of a batch of 1,024 short texts are half
#: padding
GPU_MINI_BATCH_TOKENS = 16384
#: how many times its tokens a packed mini-batch may hold when padded: a long text among many short ones
PADDED = 2


def mini_batch_tokens_for(device: torch.device, *, bf16: bool = False) -> int:
    """Padded tokens of a mini-batch that suit `device`: in bf16 on a CPU twice as many, because every mini-batch casts
    all weights."""
    if device.type == "cpu":
        return 2 * CPU_MINI_BATCH_TOKENS if bf16 else CPU_MINI_BATCH_TOKENS
    return GPU_MINI_BATCH_TOKENS


def mini_batches_of(
    lengths: Sequence[int] | np.ndarray, mini_batch_tokens: int, *, packed: bool = False
) -> list[np.ndarray]:
    """Index arrays, longest texts first, each of at most `mini_batch_tokens` tokens when padded to its longest text;
    where texts are `packed`, without padding, and of at most `PADDED` times as many with it, as the last hidden states
    are.

    Every index is in exactly one mini-batch; a text longer than `mini_batch_tokens` has a mini-batch of its own.
    Longest first, so that a run that will not fit in memory fails on its first mini-batch.
    """
    lengths = np.asarray(lengths)
    descending = np.argsort(-lengths, kind="stable")
    before = np.concatenate([[0], np.cumsum(lengths[descending])])
    mini_batches: list[np.ndarray] = []
    start = 0
    while start < len(descending):
        longest = max(1, int(lengths[descending[start]]))
        if packed:
            fit = int(np.searchsorted(before, before[start] + mini_batch_tokens, side="right")) - 1
            stop = min(fit, start + PADDED * mini_batch_tokens // longest)
        else:
            stop = start + mini_batch_tokens // longest
        mini_batches.append(descending[start : max(start + 1, stop)])
        start += len(mini_batches[-1])
    return mini_batches


def even_tokens(lengths: Sequence[int], mini_batch_tokens: int, workers: int, *, packed: bool = False) -> int:
    """The budget of at most `mini_batch_tokens` at which `workers` that take the mini-batches in turn have about
    equally much to do: the smallest that makes no more mini-batches than the next multiple of `workers`."""
    if workers == 1:
        return mini_batch_tokens

    def count(budget: int) -> int:
        return len(mini_batches_of(lengths, budget, packed=packed))

    fewest = count(mini_batch_tokens)
    if not 0 < fewest < 32 * workers:  # a mini-batch more or less among so many is nothing
        return mini_batch_tokens
    allowed = -(-fewest // workers) * workers
    budgets = range(min(max(lengths), mini_batch_tokens), mini_batch_tokens)
    return budgets.start + bisect_left(budgets, True, key=lambda budget: count(budget) <= allowed)


def split_to(mini_batches: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The mini-batches, those of most texts halved until there are at least `count`, which no more than there are
    texts."""
    mini_batches = list(mini_batches)
    while len(mini_batches) < count:
        most = max(range(len(mini_batches)), key=lambda index: len(mini_batches[index]))
        mini_batches[most : most + 1] = np.array_split(mini_batches[most], 2)
    return mini_batches
