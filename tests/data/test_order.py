"""Batches of one source each: shares by temperature, exact resume, no pair twice in a pass, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data.batches import Batch, batches, rows_seen
from isoembed.data.dataset import PairData, prepare
from isoembed.data.order import Order, order_of, ordered
from isoembed.data.sources import open_source
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.options import Options
from isoembed.recipe import Setup, solve
from tests.data.helpers import tiny_tokenizer, write_jsonl

SIZES = {"a": 45, "b": 200, "c": 90}
ONE_SOURCE = Options(batch_by="source", source_alpha=1.0)


def mixture(folder: Path, names: str = "abc", *, whole: bool = True) -> PairData:
    """Pairs that say which file they are from; nothing held out."""
    for name in names:
        texts = [(f"{name} q{n} " + "w1 " * (n % 5), f"{name} p{n}") for n in range(SIZES[name])]
        rows = [{"query": query, "pos": positive, "neg": "w2"} for query, positive in texts]
        write_jsonl(folder / f"{name}.jsonl", rows)
    source = open_source(",".join(str(folder / f"{name}.jsonl") for name in names), whole=whole)
    return prepare(source, tiny_tokenizer(), context_tokens=8, folder=folder / "tokens", heldout_pairs=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return mixture(tmp_path_factory.mktemp("mixture"))


def sources_of(data: PairData, batch: Batch) -> str:
    """The files that the pairs of a batch are from."""
    return "".join(sorted({text[0] for text in data.store.texts("query", batch.rows)}))


@pytest.mark.parametrize(
    ("alpha", "shares"),
    # whole batches of 10: 4, 20 and 9 of 33; by their roots 2, 4.47 and 3 of 9.47; equal
    [(1.0, {"a": 4, "b": 20, "c": 9}), (0.5, {"a": 7, "b": 16, "c": 10}), (0.0, {"a": 11, "b": 11, "c": 11})],
)
def test_every_batch_is_of_one_source_and_shares_go_by_the_temperature(
    data: PairData, alpha: float, shares: dict[str, int]
) -> None:
    options = Options(batch_by="source", source_alpha=alpha)
    length = sum(shares.values())
    stream = batches(data, batch_pairs=10, seed=3, options=options)
    epochs = [[batch for _, batch in islice(stream, length)] for _ in range(3)]
    orders = [[sources_of(data, batch) for batch in epoch] for epoch in epochs]
    assert [Counter(order) for order in orders] == [shares] * 3
    assert orders[0] != orders[1] != orders[2]
    for name, size in SIZES.items():  # no pair again before the pass over its source is through
        rows = [batch.rows for epoch in epochs for batch in epoch if sources_of(data, batch) == name]
        whole = size // 10
        passes = [np.concatenate(rows[first : first + whole]) for first in range(0, len(rows), whole)]
        assert all(len(set(each.tolist())) == len(each) for each in passes)
        assert len({tuple(each.tolist()) for each in passes}) == len(passes)


def test_means_are_over_the_batches(tmp_path: Path) -> None:
    """They were over the pairs: a small source of long texts that has half of the batches counted by its pairs."""
    for name, count, words in (("long", 20, 6), ("short", 200, 1)):
        rows = [{"query": f"{name}{n} " + "w1 " * words, "pos": f"w{n}", "neg": "w2 " * words} for n in range(count)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    source = open_source(f"{tmp_path}/long.jsonl,{tmp_path}/short.jsonl", negatives_key="neg", whole=True)
    data = prepare(source, tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens", heldout_pairs=0)
    setup = Setup(batch_pairs=10, context_tokens=8, options=Options(batch_by="source", source_alpha=0.0))
    stats = ordered(data, setup).stats
    order = order_of(data, setup.options, batch_pairs=10, seed=1)
    read = [batch for _, batch in islice(batches(data, batch_pairs=10, seed=1, options=setup.options), len(order))]
    pairs = 10 * len(order)
    assert stats.query_tokens == pytest.approx(sum(len(each) for batch in read for each in batch.query_ids) / pairs)
    assert stats.negative_tokens == pytest.approx(sum(len(n) for b in read for n in b.negative_ids) / pairs)
    assert stats.tokens_per_pair == pytest.approx(sum(batch.tokens for batch in read) / pairs)
    assert stats.squared_tokens == pytest.approx(sum(int((batch.lengths**2).sum()) for batch in read) / pairs)
    recipe = solve(1e9, NANO.models[0], Full(), 1e-3, setup, stats, family="nano")
    assert recipe.over(1).steps == len(order)
    by_pairs = ordered(data, setup.model_copy(update={"options": Options(batch_by="source")})).stats
    assert by_pairs.model_copy(update={"fingerprint": None}) == data.stats.model_copy(update={"fingerprint": None})


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_resume_is_exact(data: PairData, alpha: float | None) -> None:
    """From any position on, also in a later epoch, the rest is what an uninterrupted run reads."""
    options = Options(batch_by="source", source_alpha=alpha)
    whole = [*islice(batches(data, batch_pairs=20, seed=3, options=options), 40)]
    assert whole[-1][0].epoch > 1
    for stop in (1, 7, 20, 33):
        rest = [*islice(batches(data, batch_pairs=20, seed=3, options=options, start=whole[stop - 1][0]), 40 - stop)]
        assert [position for position, _ in rest] == [position for position, _ in whole[stop:]]
        assert [batch.rows.tolist() for _, batch in rest] == [batch.rows.tolist() for _, batch in whole[stop:]]


@pytest.mark.parametrize("first", ["large", "tiny"])
def test_the_source_that_cuts_the_others_is_named(first: str, tmp_path: Path) -> None:
    """Equal weights leave one file as many pairs as the other has; the one that comes first alone was blamed."""
    for name, count in (("large", 200), ("tiny", 20)):
        rows = [{"query": f"{name} q{n}", "pos": f"{name} p{n}"} for n in range(count)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    files = sorted(("large", "tiny"), key=lambda name: name != first)
    source = open_source(",".join(f"{tmp_path}/{name}.jsonl" for name in files))
    data = prepare(source, tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens", heldout_pairs=0)
    with pytest.raises(InputError, match=r"tiny\.jsonl has 20 training pairs < 32.* Change the weights"):
        order_of(data, ONE_SOURCE, batch_pairs=32, seed=0)


def test_the_order_of_the_files_changes_nothing(data: PairData, tmp_path: Path) -> None:
    other = mixture(tmp_path, "cab")
    setup = Setup(batch_pairs=10, context_tokens=8, options=ONE_SOURCE)
    streams = [islice(batches(each, batch_pairs=10, seed=1, options=ONE_SOURCE), 9) for each in (data, other)]
    read = [
        [each.store.texts("query", batch.rows) for _, batch in stream]
        for each, stream in zip((data, other), streams, strict=True)
    ]
    assert read[0] == read[1]
    assert ordered(data, setup).stats.fingerprint == ordered(other, setup).stats.fingerprint != data.stats.fingerprint


def test_of_other_sources_is_another_run(data: PairData, tmp_path: Path) -> None:
    """The same pairs in other files make other batches: only where batches go by them is that another key."""
    plain, setup = Setup(batch_pairs=10, context_tokens=8), Setup(batch_pairs=10, context_tokens=8, options=ONE_SOURCE)
    mixed = ordered(data, plain)
    assert (mixed.stats, mixed.train) == (data.stats, data.train)
    assert "`batch_by=source` gained" in mixed.notes[-1]
    moved = data.store.column("source")
    moved[np.flatnonzero(moved == 1)[:30]] = 0

    class Moved(type(data.store)):  # type: ignore[misc]
        def column(self, name: str) -> np.ndarray:
            found: np.ndarray = moved if name == "source" else super().column(name)
            return found

    elsewhere = replace(data, store=Moved(data.store.folder, data.store.facts, data.store._batches))
    assert ordered(elsewhere, setup).stats.fingerprint != ordered(data, setup).stats.fingerprint
    (note,) = set(ordered(data, setup).notes) - set(data.notes)
    assert "b.jsonl 20 of 33 batches (200 pairs)" in note

    def key(of: Setup) -> str:
        return solve(1e9, NANO.models[0], Full(), 1e-3, of, data.stats, family="nano").key

    half = Options(batch_by="source", source_alpha=0.5)
    assert key(plain) == key(plain.model_copy(update={"options": Options(batch_by="mixed", source_alpha=None)}))
    assert len({key(plain), key(setup), key(plain.model_copy(update={"options": half}))}) == 3


def test_without_a_temperature_the_pairs_are_those_of_mixed_batches(tmp_path: Path) -> None:
    """A comparison of the two is of batches, not of data: 45 of each file, as the mixture's weights leave."""
    data = mixture(tmp_path, whole=False)
    options = Options(batch_by="source")
    assert order_of(data, options, batch_pairs=9, seed=0).counts == (5, 5, 5)
    mixed = order_of(data, Options(), batch_pairs=9, seed=0)
    assert len(mixed) == 15
    for order in (mixed, order_of(data, options, batch_pairs=9, seed=0)):
        rows = np.concatenate([*order.epoch(0)])
        assert len(set(rows.tolist())) == 135
        assert set(rows.tolist()) <= set(data.train.tolist())
    assert ordered(data, Setup(batch_pairs=9, context_tokens=8, options=options)).heldout is data.heldout


@pytest.mark.parametrize("options", [Options(), ONE_SOURCE, Options(batch_by="source", source_alpha=0.2)])
@pytest.mark.parametrize("epochs", [0.3, 2.5])
def test_rows_seen_are_those_of_the_steps(data: PairData, options: Options, epochs: float) -> None:
    setup = Setup(batch_pairs=10, context_tokens=8, options=options)
    recipe = solve(1e9, NANO.models[0], Full(), 1e-3, setup, data.stats, family="nano").over(epochs)
    tokens, seen = 0, set()
    for step, (_, batch) in enumerate(batches(data, batch_pairs=10, seed=0, options=options)):
        if step and tokens + batch.tokens / 2 > recipe.train_tokens:
            break
        tokens += batch.tokens
        seen |= {*batch.rows.tolist()}
    assert rows_seen(data, recipe).tolist() == sorted(seen)


def test_what_cannot_be_is_refused(data: PairData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl has 45 training pairs < 46"):
        order_of(data, ONE_SOURCE, batch_pairs=46, seed=0)
    with pytest.raises(InputError, match="needs a mixture of sources"):
        order_of(mixture(tmp_path, "a"), ONE_SOURCE, batch_pairs=10, seed=0)
    left = np.flatnonzero(data.store.column("source") == 1)
    with pytest.raises(InputError, match=r"two sources with pairs.*only \S*b\.jsonl of .* has any left.*out fewer"):
        order_of(replace(data, train=left), ONE_SOURCE, batch_pairs=10, seed=0)
    with pytest.raises(InputError, match="give `batch_by=source` too"):
        Options(source_alpha=0.5)
    with pytest.raises(InputError, match="from 0, equal shares, to 1"):
        Options(batch_by="source", source_alpha=2)
    with pytest.raises(InputError, match="weights or by `source_alpha`; got both, weights 3, 1"):
        open_source(f"{tmp_path}/a.jsonl:3,{tmp_path}/a.jsonl", whole=True)


def test_few_batches_of_many_epochs() -> None:
    """A source that a share of next to nothing would leave out has one batch an epoch."""
    order = Order((np.arange(10), np.arange(10, 2010)), batch_pairs=10, seed=0, alpha=1.0)
    assert order.counts == (1, 200)
    lopsided = Order((np.arange(10), np.arange(10, 2010)), batch_pairs=10, seed=0, alpha=0.0)
    assert lopsided.counts == (100, 100)
    assert len([*lopsided.epoch(4)]) == 200
