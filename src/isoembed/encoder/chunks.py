"""Texts of a batch, sorted by length and cut into chunks of a token budget, so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def split_to(chunks: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The chunks, those of most texts halved until there are at least `count`, which no more than there are texts."""
    chunks = list(chunks)
    while len(chunks) < count:
        most = max(range(len(chunks)), key=lambda index: len(chunks[index]))
        chunks[most : most + 1] = np.array_split(chunks[most], 2)
    return chunks
