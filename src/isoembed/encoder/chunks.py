"""Texts of a batch, sorted by length and cut into chunks of a token budget, so that little is padding."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from isoembed.estimates import CPU_CHUNK_TOKENS as CPU_CHUNK_TOKENS

#: on a GPU: what fills it; with four times as many, the few chunks of a batch of 1,024 short texts are half padding
GPU_CHUNK_TOKENS = 16384


def chunks_of(lengths: Sequence[int] | np.ndarray, chunk_tokens: int) -> list[np.ndarray]:
    """Index arrays, longest texts first, each of at most `chunk_tokens` tokens when padded to its longest text.

    Every index is in exactly one chunk; a text longer than `chunk_tokens` has a chunk of its own.  Longest first, so
    that a run that will not fit in memory fails on its first chunk.
    """
    lengths = np.asarray(lengths)
    descending = np.argsort(-lengths, kind="stable")
    chunks: list[np.ndarray] = []
    start = 0
    while start < len(descending):
        size = max(1, chunk_tokens // max(1, int(lengths[descending[start]])))
        chunks.append(descending[start : start + size])
        start += size
    return chunks


def even_tokens(lengths: Sequence[int], chunk_tokens: int, members: int) -> int:
    """The budget of at most `chunk_tokens` at which `members` that take the chunks in turn have about equally much to
    do: the smallest that makes no more chunks than the next multiple of `members`."""
    if members == 1:
        return chunk_tokens
    fewest = len(chunks_of(lengths, chunk_tokens))
    if not 0 < fewest < 32 * members:  # a chunk more or less among so many is nothing
        return chunk_tokens
    allowed = -(-fewest // members) * members
    budgets = range(min(max(lengths), chunk_tokens), chunk_tokens)
    return budgets.start + bisect_left(budgets, True, key=lambda budget: len(chunks_of(lengths, budget)) <= allowed)


def split_to(chunks: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The chunks, those of most texts halved until there are at least `count`, which no more than there are texts."""
    chunks = list(chunks)
    while len(chunks) < count:
        most = max(range(len(chunks)), key=lambda index: len(chunks[index]))
        chunks[most : most + 1] = np.array_split(chunks[most], 2)
    return chunks
