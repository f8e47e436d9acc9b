"""Batches, and where a run stands among them.

Legend: B = pairs of a batch, M = hard negatives of all its pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from isoembed.data.dataset import PairData
from isoembed.data.order import Order, order_of
from isoembed.data.store import Ids, RowNumbers, TokenStore
from isoembed.options import PLAIN, Options
from isoembed.recipe import Recipe

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some pairs, tokenised, and the hard negatives they bring, any number each.  Equal hashes mean the same text: such
    a pair is no negative of the other."""

    query_ids: list[Ids]
    positive_ids: list[Ids]
    query_hash_B: npt.NDArray[np.uint64]
    positive_hash_B: npt.NDArray[np.uint64]
    negative_ids: list[Ids] = field(default_factory=list)
    negative_hash_M: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    #: how many first tokens of each query, positive and hard negative are a prompt's; None: none
    prompt_tokens: tuple[Counts, Counts, Counts] | None = None
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  #: of the store
    teacher: tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]] | None = None  #: vectors (B, W) of both sides

    @property
    def pairs(self) -> int:
        return len(self.query_ids)

    @property
    def tokens(self) -> int:
        """Real tokens of all texts; there is no padding here."""
        return int(self.lengths.sum())

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every text: queries, positives, hard negatives."""
        return np.array([len(text) for text in (*self.query_ids, *self.positive_ids, *self.negative_ids)], np.int64)


@dataclass(frozen=True, order=True)
class Position:
    """The next batch to read: batch number `batch` of epoch `epoch`, both from 0."""

    epoch: int
    batch: int


def batches(
    data: PairData,
    *,
    batch_pairs: int,
    seed: int,
    start: Position = Position(0, 0),
    unique_pairs: int | None = None,
    options: Options = PLAIN,
) -> Iterator[tuple[Position, Batch]]:
    """Training batches from `start` on, epoch after epoch without end, each with the position after it; of the first
    `unique_pairs` training pairs alone, or of all.

    A pass leaves out the last pairs of its order that fill no batch; the next one's order has others there.
    Raises InputError as `order_of` does.
    """
    order = order_of(data, options, batch_pairs=batch_pairs, seed=seed, unique_pairs=unique_pairs)
    for position, rows in _positions(order, start):
        negative_ids, negative_hash_M, of_row_M = data.negatives(rows)
        batch = _batch(data.store, rows, of_row_M)
        yield (
            position,
            replace(
                batch,
                negative_ids=negative_ids,
                negative_hash_M=negative_hash_M,
                teacher=None if data.teacher is None else data.teacher.of(rows),
            ),
        )


def _positions(order: Order, start: Position) -> Iterator[tuple[Position, RowNumbers]]:
    """The rows of each batch from `start` on, without end, with the position after it."""
    position, last = start, len(order)
    while True:
        for rows in order.epoch(position.epoch, position.batch):
            number = position.batch + 1
            position = Position(position.epoch, number) if number < last else Position(position.epoch + 1, 0)
            yield position, rows


def is_spent(steps: int, tokens: int, more: int, train_tokens: int) -> bool:
    """Whether a run that took so many steps on so many tokens is over: a batch of `more` would take it further from
    `train_tokens` than it is."""
    return steps > 0 and tokens + more / 2 > train_tokens


def rows_seen(data: PairData, recipe: Recipe) -> npt.NDArray[np.int64]:
    """The rows that the steps of `recipe` see, each once, sorted; by lengths alone, no text is read."""
    order = order_of(
        data, recipe.options, batch_pairs=recipe.batch_pairs, seed=recipe.seed, unique_pairs=recipe.unique_pairs
    )
    length_N = data.store.kept_tokens("query").astype(np.int64) + data.store.kept_tokens("positive")
    is_seen = np.zeros(len(data.store), bool)
    unique, tokens = len(data.first(recipe.unique_pairs)), 0
    for steps, (after, rows) in enumerate(_positions(order, Position(0, 0))):
        more = int(length_N[rows].sum()) + sum(map(len, data.negatives(rows)[0]))
        if is_spent(steps, tokens, more, recipe.train_tokens):
            break
        tokens += more
        is_seen[rows] = True
        if after.batch == 0 and is_seen.sum() == unique:
            break
    return np.flatnonzero(is_seen)


def heldout_batch(data: PairData, first: int, last: int) -> Batch:
    """Held-out pairs `first` to `last` (exclusive) in their fixed order, without hard negatives: the held-out loss asks
    the same of every model."""
    rows = data.heldout[first:last]
    return _batch(data.heldout_store, rows, rows[:0])


def _batch(store: TokenStore, rows: RowNumbers, of_row_M: RowNumbers) -> Batch:
    """The pairs at `rows`, whose hard negatives are of the rows `of_row_M`; those themselves are left out."""
    behind, of_negatives = (store.prompt_tokens("positive", each) for each in (rows, of_row_M))
    return Batch(
        query_ids=store.ids("query", rows),
        positive_ids=store.ids("positive", rows),
        query_hash_B=store.hashes("query", rows),
        positive_hash_B=store.hashes("positive", rows),
        prompt_tokens=(store.prompt_tokens("query", rows), behind, of_negatives),
        rows=rows,
    )
