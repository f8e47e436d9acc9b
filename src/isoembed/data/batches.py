"""Batches in an order that is a pure function of (seed, epoch), so that a run resumes exactly where it was.

Legend: B = pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoembed.core import InputError
from isoembed.data.dataset import PairData
from isoembed.data.store import Ids, TokenStore


@dataclass(frozen=True)
class Batch:
    """Some pairs, tokenised.  Equal hashes mean the same text: such a pair is no negative of the other."""

    query_ids: list[Ids]
    positive_ids: list[Ids]
    query_hash_B: npt.NDArray[np.uint64]
    positive_hash_B: npt.NDArray[np.uint64]

    @property
    def pairs(self) -> int:
        return len(self.query_ids)

    @property
    def tokens(self) -> int:
        """Real tokens of both sides; there is no padding here."""
        return sum(map(len, self.query_ids)) + sum(map(len, self.positive_ids))


@dataclass(frozen=True, order=True)
class Position:
    """The next batch to read: batch number `batch` of epoch `epoch`, both from 0."""

    epoch: int
    batch: int


def order(seed: int, epoch: int, pairs: int) -> npt.NDArray[np.int64]:
    """The permutation of `range(pairs)` in which epoch `epoch` of seed `seed` visits the pairs."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


def batches(
    data: PairData, *, batch_pairs: int, seed: int, start: Position = Position(0, 0)
) -> Iterator[tuple[Position, Batch]]:
    """Training batches from `start` on, epoch after epoch without end, each with the position after it.

    An epoch leaves out the last pairs of its order that fill no batch; the next epoch's order has others there.
    """
    pairs = len(data.train)
    if pairs < batch_pairs:
        raise InputError(
            f"The data must hold at least one batch: {pairs} pairs < {batch_pairs}; lower --batch-pairs or bring more."
        )
    last = pairs // batch_pairs
    position = start
    while True:
        visited = data.train[order(seed, position.epoch, pairs)]
        for number in range(position.batch, last):
            rows = visited[number * batch_pairs : (number + 1) * batch_pairs]
            position = Position(position.epoch, number + 1) if number + 1 < last else Position(position.epoch + 1, 0)
            yield position, _batch(data.store, rows)


def heldout_batch(data: PairData, first: int, last: int) -> Batch:
    """Held-out pairs `first` to `last` (exclusive) in their fixed order."""
    return _batch(data.heldout_store, data.heldout[first:last])


def _batch(store: TokenStore, rows: npt.NDArray[np.int64]) -> Batch:
    return Batch(
        query_ids=store.ids("query", rows),
        positive_ids=store.ids("positive", rows),
        query_hash_B=store.hashes["query"][rows],
        positive_hash_B=store.hashes["positive"][rows],
    )
