"""Batches of one cluster of similar pairs: what is found, the same everywhere, and no pair lost for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data import clusters
from isoembed.data.batches import batches
from isoembed.data.clusters import cluster_counts, clustered
from isoembed.data.dataset import PairData, prepare
from isoembed.data.order import Order, order_of, ordered
from isoembed.data.packed import PackedData
from isoembed.data.pair import Pair
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.options import Options
from isoembed.recipe import Setup, solve
from tests.data.helpers import ListSource, tiny_tokenizer

TOPICS = 5
BY_CLUSTER = Options(batch_by="cluster", clusters=12)
SETUP = Setup(batch_pairs=10, context_tokens=16, options=BY_CLUSTER)


def topical(count: int = 400) -> list[Pair]:
    """Pairs of five topics, each with words of its own, of sizes that no batch divides."""
    random = np.random.default_rng(5)
    found = []
    for number in range(count):
        topic = min(TOPICS - 1, number % 7)
        words = [f"w{topic * 20 + word}" for word in random.integers(0, 20, 10)]
        found.append(Pair(" ".join(words[:5]), " ".join(words[5:]) + f" w{200 + number % 300}"))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    folder = tmp_path_factory.mktemp("topics")
    return prepare(ListSource(topical()), tiny_tokenizer(), context_tokens=16, folder=folder, heldout_pairs=0)


def topics_of(data: PairData, rows: np.ndarray) -> list[int]:
    return [(int(text.split()[0][1:])) // 20 for text in data.store.texts("query", rows)]


def test_similar_pairs_are_of_one_cluster(data: PairData) -> None:
    """Fails where tokens of a pair are counted for another, or a centroid is of other pairs than its own."""
    label, topic = clustered(data.store, data.train, 12), np.array(topics_of(data, data.train))
    of_most = sum(Counter(topic[label == each].tolist()).most_common(1)[0][1] for each in np.unique(label))
    assert of_most / len(label) > 0.97


def test_nothing_depends_on_the_order_of_sums(data: PairData) -> None:
    """Threads and libraries add in other orders: whole numbers come out alike, and the greatest sum fits in fp32."""
    _, token = clusters._tokens(data.store, data.train)
    vector_ND = clusters._vectors(data.store, data.train, np.bincount(token), len(data.train))
    assert (vector_ND == np.rint(vector_ND)).all()
    assert (clusters.LENGTH + clusters.DIMENSIONS**0.5 / 2) ** 2 < 2**24
    other = np.random.default_rng(0).permutation(vector_ND.shape[1])
    assert np.array_equal(vector_ND @ vector_ND.T, vector_ND[:, other] @ vector_ND[:, other].T)
    assert np.array_equal(vector_ND @ vector_ND.T, vector_ND.astype(np.float64) @ vector_ND.T.astype(np.float64))


def test_beyond_the_sample_pairs_go_to_the_nearest(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "SAMPLE_PAIRS", 150)
    monkeypatch.setattr(clusters, "PART_PAIRS", 64)
    label, topic = clustered(data.store, data.train, 12), np.array(topics_of(data, data.train))
    assert len(label) == len(data.train)
    assert np.array_equal(label[:150], clustered(data.store, data.train[:150], 12))
    beyond = [Counter(topic[150:][label[150:] == each].tolist()).most_common(1)[0][1] for each in {*label[150:]}]
    assert sum(beyond) / len(label[150:]) > 0.9


def test_a_pass_leaves_out_no_more_than_fills_no_batch() -> None:
    """Whole batches of each cluster, then batches of what is left: fails where leftovers are dropped, or a pair comes
    twice, or the same pairs are left out every time."""
    label = np.repeat(np.arange(6), [25, 3, 47, 10, 9, 31]).astype(np.int32)
    rows = np.arange(1000, 1000 + len(label))
    order = Order((rows,), 10, 3, 1.0, (label,))
    assert len(order) == 12
    missed: Counter[int] = Counter()
    for epoch in range(40):
        found = [*order.epoch(epoch)]
        seen = np.concatenate(found)
        assert len(set(seen.tolist())) == len(seen) == 120
        pure = [batch for batch in found if len(set(label[batch - 1000].tolist())) == 1]
        assert len(pure) >= 2 + 0 + 4 + 1 + 0 + 3
        assert all(len(set(label[batch - 1000].tolist())) <= 5 for batch in found)
        missed.update(set(rows.tolist()) - set(seen.tolist()))
    assert len({label[row - 1000] for row in missed}) >= 4  # of any cluster that leaves some
    assert max(missed.values()) < 20
    assert [each.tolist() for each in order.epoch(1)] != [each.tolist() for each in order.epoch(2)]
    assert [each.tolist() for each in replace(order, seed=4).epoch(1)] != [each.tolist() for each in order.epoch(1)]


def test_clusters_are_of_the_data_and_the_run(data: PairData, tmp_path: Path) -> None:
    """They are the same for every seed and for a part of the pairs, travel with the pairs, and are in the key."""
    with_them = ordered(data, SETUP)
    assert with_them.clusters is not None
    order = order_of(with_them, BY_CLUSTER, batch_pairs=10, seed=1)
    again = order_of(data, BY_CLUSTER, batch_pairs=10, seed=1)
    assert [each.tolist() for each in order.epoch(0)] == [each.tolist() for each in again.epoch(0)]
    part = order_of(with_them, BY_CLUSTER, batch_pairs=10, seed=1, unique_pairs=200)
    assert np.array_equal(part.clusters[0], order.clusters[0][:200])
    arrived = PackedData.of(with_them, files=False).open()
    assert arrived.clusters is not None
    assert np.array_equal(arrived.clusters, with_them.clusters)
    (note,) = set(with_them.notes) - set(data.notes)
    assert "One cluster a batch, of 12" in note
    assert "FLOP, which no budget pays" in note
    moved = with_them.clusters.copy()
    moved[with_them.train[:3]] = (moved[with_them.train[:3]] + 1) % 12
    elsewhere = ordered(replace(data, clusters=moved), SETUP)
    fingerprints = {each.stats.fingerprint for each in (data, with_them, elsewhere)}
    assert len(fingerprints) == 3

    def key(setup: Setup) -> str:
        return solve(1e9, NANO.models[0], Full(), 1e-3, setup, data.stats, family="nano").key

    more = SETUP.model_copy(update={"options": Options(batch_by="cluster", clusters=13)})
    assert len({key(SETUP), key(more), key(SETUP.model_copy(update={"options": Options()}))}) == 3


def test_clusters_that_fill_no_batch_are_warned_of(data: PairData) -> None:
    """It was a remark alone, whose number stands where the terminal cuts it off."""
    many = ordered(data, SETUP.model_copy(update={"options": Options(batch_by="cluster", clusters=300)}))
    (told,) = [each for each in many.facts if each.kind == "warning"]
    assert str(told).startswith("Warning: 0 of 40 batches are of one cluster")
    assert "lower `clusters`" in str(told)
    assert not [each for each in ordered(data, SETUP).facts if each.kind == "warning"]


def test_resume_is_exact(data: PairData) -> None:
    whole = [*islice(batches(data, batch_pairs=30, seed=3, options=BY_CLUSTER), 30)]
    assert whole[-1][0].epoch > 1
    for stop in (1, 12, 26):
        stream = batches(data, batch_pairs=30, seed=3, options=BY_CLUSTER, start=whole[stop - 1][0])
        rest = [*islice(stream, 30 - stop)]
        assert [batch.rows.tolist() for _, batch in rest] == [batch.rows.tolist() for _, batch in whole[stop:]]


def test_what_cannot_be_is_refused() -> None:
    for options in ({"batch_by": "cluster"}, {"clusters": 4}, {"batch_by": "source", "clusters": 4}):
        with pytest.raises(InputError, match="Give both or neither"):
            Options(**options)
    with pytest.raises(InputError, match="from 2 to"):
        Options(batch_by="cluster", clusters=1)
    with pytest.raises(InputError, match="2 `clusters` for 3 sources"):
        cluster_counts(2, [5, 5, 5])


def test_sources_have_as_many_clusters_as_were_asked_for() -> None:
    assert cluster_counts(10, [900, 10, 90]) == [8, 1, 1]
    assert cluster_counts(8, [100] * 3) == [2, 3, 3]
    assert cluster_counts(7, [100] * 3) == [3, 2, 2]
    assert cluster_counts(3, [1000, 1, 1]) == [1, 1, 1]
    assert cluster_counts(8, [250, 250, 500]) == [2, 2, 4]
    for asked in range(4, 40):
        for pairs in ([100] * 4, [1, 2, 3, 5000], [7, 11, 13, 17]):
            found = cluster_counts(asked, pairs)
            assert (sum(found), min(found) > 0) == (asked, True)
