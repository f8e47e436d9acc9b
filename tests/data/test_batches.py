"""Batches: exact resume, every pair once an epoch, duplicates marked."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoembed.core import InputError
from isoembed.data.batches import Batch, Position, batches, heldout_batch
from isoembed.data.dataset import PairData, prepare
from isoembed.data.normalize import text_hash
from isoembed.data.order import permutation
from isoembed.data.pair import Pair
from tests.data.helpers import ListSource, numbered, tiny_tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    """53 training pairs."""
    folder = tmp_path_factory.mktemp("tokens")
    return prepare(ListSource(numbered(60)), tiny_tokenizer(), context_tokens=8, folder=folder, heldout_pairs=7)


def content(batch: Batch) -> list[list[int]]:
    return [ids.tolist() for ids in (*batch.query_ids, *batch.positive_ids)]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 200))
def test_order_is_a_permutation(seed: int, epoch: int, pairs: int) -> None:
    assert sorted(permutation(seed, epoch, pairs)) == list(range(pairs))
    assert (permutation(seed, epoch, pairs) == permutation(seed, epoch, pairs)).all()


def test_order_golden() -> None:
    """A resumed run needs the order that was.  Changing this is right only together with `SEMANTICS_VERSION`."""
    assert permutation(0, 0, 8).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert permutation(0, 1, 8).tolist() != permutation(0, 0, 8).tolist() != permutation(1, 0, 8).tolist()
    assert permutation(1, 0, 50).tolist() != permutation(0, 1, 50).tolist()


def test_epoch(data: PairData) -> None:
    """Five whole batches of ten an epoch, no pair twice in it, other pairs left out in the next one."""
    seen = list(islice(batches(data, batch_pairs=10, seed=3), 10))
    assert [position for position, _ in seen] == [
        *(Position(0, number) for number in range(1, 5)),
        *(Position(1, number) for number in range(5)),
        Position(2, 0),
    ]
    epochs = [{int(value) for _, batch in half for value in batch.query_hash_B} for half in (seen[:5], seen[5:])]
    assert [len(epoch) for epoch in epochs] == [50, 50]
    assert epochs[0] != epochs[1]
    heldout = heldout_batch(data, 0, 7)
    assert heldout.pairs == 7
    assert not {int(value) for value in heldout.query_hash_B} & (epochs[0] | epochs[1])


@pytest.mark.parametrize("stop", range(1, 12))
def test_resume_is_exact(data: PairData, stop: int) -> None:
    """From the position after any batch, the rest is what an uninterrupted run reads (trap 19)."""
    whole = list(islice(batches(data, batch_pairs=10, seed=3), 15))
    rest = list(islice(batches(data, batch_pairs=10, seed=3, start=whole[stop - 1][0]), 15 - stop))
    assert [position for position, _ in rest] == [position for position, _ in whole[stop:]]
    assert [content(batch) for _, batch in rest] == [content(batch) for _, batch in whole[stop:]]


def test_the_first_pairs_alone_nest_and_repeat(data: PairData) -> None:
    """12 of 53 are among the first 30; an epoch of them is one of no others; all of them are the whole."""

    def seen(unique_pairs: int | None, count: int) -> list[list[int]]:
        stream = batches(data, batch_pairs=6, seed=3, unique_pairs=unique_pairs)
        return [batch.query_hash_B.tolist() for _, batch in islice(stream, count)]

    few, more = (np.concatenate(seen(pairs, 20)).tolist() for pairs in (12, 30))
    assert set(few) < set(more)
    assert len(set(few)) == 12
    assert all(few.count(pair) == 10 for pair in few)
    assert not set(more) & {int(value) for value in heldout_batch(data, 0, 7).query_hash_B}
    assert seen(53, 20) == seen(None, 20)
    with pytest.raises(InputError, match="54 > 53"):
        data.first(54)


def test_the_first_pairs_do_not_depend_on_the_order_of_the_file(data: PairData, tmp_path: Path) -> None:
    shuffled = prepare(
        ListSource(numbered(60)[::-1]), tiny_tokenizer(), context_tokens=8, folder=tmp_path, heldout_pairs=7
    )
    for pairs in (7, 20):
        own, other = (each.store.column("query_hash")[each.first(pairs)].tolist() for each in (data, shuffled))
        assert own == other


@pytest.mark.parametrize("stop", range(1, 8))
def test_resume_among_the_first_pairs_is_exact(data: PairData, stop: int) -> None:
    whole = list(islice(batches(data, batch_pairs=5, seed=3, unique_pairs=12), 9))
    rest = list(islice(batches(data, batch_pairs=5, seed=3, unique_pairs=12, start=whole[stop - 1][0]), 9 - stop))
    assert [content(batch) for _, batch in rest] == [content(batch) for _, batch in whole[stop:]]


def test_batch(data: PairData) -> None:
    """Sides belong together, tokens are counted on both, and hashes are those of the texts."""
    _, batch = next(batches(data, batch_pairs=53, seed=0))
    assert batch.pairs == 53
    assert batch.tokens == sum(map(len, content(batch)))
    store = data.store
    for query_ids, positive_ids, query, positive in zip(
        batch.query_ids, batch.positive_ids, batch.query_hash_B, batch.positive_hash_B, strict=True
    ):
        row = int(np.flatnonzero(store.column("query_hash") == query)[0])
        assert store.column("positive_hash")[row] == positive
        assert (store.ids("query", np.array([row]))[0] == query_ids).all()
        assert (store.ids("positive", np.array([row]))[0] == positive_ids).all()


def test_planted_duplicates(tmp_path: Path) -> None:
    """A text that occurs in two pairs of a batch has equal hashes there, whatever its case (trap 20)."""
    pairs = [Pair("q a", "same text"), Pair("q b", "Same  Text"), Pair("Q A", "p c"), *numbered(17)]
    data = prepare(ListSource(pairs), tiny_tokenizer(), context_tokens=8, folder=tmp_path, heldout_pairs=0)
    _, batch = next(batches(data, batch_pairs=20, seed=0))
    assert len(set(batch.positive_hash_B.tolist())) == 19
    assert len(set(batch.query_hash_B.tolist())) == 19


def test_fewer_pairs_than_a_batch(data: PairData) -> None:
    with pytest.raises(InputError, match="53 pairs < 54"):
        next(batches(data, batch_pairs=54, seed=0))


def test_hard_negatives_come_with_their_pairs(tmp_path: Path) -> None:
    """None, one or two a row; over three record batches, the last one partly filled."""
    many = {number: tuple(f"w{(number + k) % 400}" for k in range(number % 3)) for number in range(2100)}
    pairs = [replace(pair, negatives=many[number]) for number, pair in enumerate(numbered(2100))]
    data = prepare(ListSource(pairs), tiny_tokenizer(), context_tokens=8, folder=tmp_path, heldout_pairs=0)
    for _, batch in islice(batches(data, batch_pairs=70, seed=0), 30):
        rows = [int(np.flatnonzero(data.store.column("query_hash") == query)[0]) for query in batch.query_hash_B]
        expected = [text for row in rows for text in many[row]]
        assert [ids.tolist() for ids in batch.negative_ids] == [[2 + int(text[1:]), 1] for text in expected]
        assert batch.negative_hash_M.tolist() == [text_hash(text) for text in expected]
        assert batch.tokens == sum(map(len, content(batch))) + 2 * len(expected)
    assert heldout_batch(replace(data, heldout=data.train), 0, 9).negative_ids == []
