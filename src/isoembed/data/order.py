"""Which pairs stand in which batch: a pure function of (seed, epoch), so that a run resumes exactly where it was.

Batches are of all pairs mixed, or of one source each (`Options.batch_by`): in-batch negatives of one source are of one
kind of text, and the source gives nothing away.  Or each of one cluster of similar pairs of a source.

Legend: B = pairs of a batch, L = batches of an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from isoembed.core import InputError, fingerprint
from isoembed.data.clusters import Labels, cluster_counts, clustered, clustering_flop
from isoembed.data.dataset import PairData, token_means
from isoembed.data.notes import DataNote, remark, warning
from isoembed.data.store import RowNumbers
from isoembed.options import Options
from isoembed.recipe import Setup


def permutation(seed: int, epoch: int, pairs: int, source: int = 0) -> npt.NDArray[np.int64]:
    """The order in which pass `epoch` of seed `seed` visits `range(pairs)`, of each source another."""
    # numpy's seeds [s, e] and [s, e, 0] are one: mixed batches are those of a single source
    return np.random.default_rng([seed, epoch, source]).permutation(pairs)


@dataclass(frozen=True, eq=False)
class Order:
    """The batches of every epoch.

    sources: the rows of each source, which fill one batch at least; of all pairs together where batches are mixed.
    alpha: a source has a share of the batches that goes with its whole batches to this power (temperature sampling with
        T = 1 / alpha).  1: an epoch is one pass over every source.  Else as many batches, of a source that is small for
        its share more than one pass; a pass always ends before the next one begins.
    clusters: of each source's rows the cluster, where batches are of one.  What is left of the clusters once their
        whole batches are taken makes batches too, of as few clusters each as can be: a pass is over as many pairs.
    """

    sources: tuple[RowNumbers, ...]
    batch_pairs: int
    seed: int
    alpha: float = 1.0
    clusters: tuple[Labels, ...] = ()

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Batches of each source in an epoch, one at least."""
        whole = np.array([len(rows) // self.batch_pairs for rows in self.sources])
        shares = whole**self.alpha / (whole**self.alpha).sum()
        return tuple(max(1, round(share * int(whole.sum()))) for share in shares.tolist())

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the batches, those of each source."""
        return tuple(count / len(self) for count in self.counts)

    def __len__(self) -> int:
        """L."""
        return sum(self.counts)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[RowNumbers]:
        """The rows (B) of each batch of that epoch, from batch `first` on."""
        turns = np.repeat(np.arange(len(self.sources)), self.counts)
        if len(self.sources) > 1:
            turns = np.random.default_rng([self.seed, epoch, len(self.sources)]).permutation(turns)
        batch = [epoch * count for count in self.counts]
        passes: list[tuple[int, RowNumbers]] = [(-1, np.empty(0, np.int64))] * len(self.sources)
        for number, source in enumerate(turns.tolist()):
            rows, at = self.sources[source], batch[source]
            batch[source] += 1
            if number < first:
                continue
            this, place = divmod(at, len(rows) // self.batch_pairs)
            if passes[source][0] != this:
                passes[source] = (this, self._pass(this, source))
            places = passes[source][1][place * self.batch_pairs : (place + 1) * self.batch_pairs]
            yield rows[places]

    def _pass(self, number: int, source: int) -> RowNumbers:
        """The order in which that pass visits the rows of a source."""
        places = permutation(self.seed, number, len(self.sources[source]), source)
        if not self.clusters:
            return places
        random = np.random.default_rng([self.seed, number, source, 1])
        label = self.clusters[source][places]
        label = random.permutation(label.max() + 1)[label]  # so that what fills no batch at last is of any cluster
        by_cluster = np.argsort(label, kind="stable")
        size = np.bincount(label)
        size_N, first_N = (each[label[by_cluster]] for each in (size, np.cumsum(size) - size))
        left = np.arange(len(places)) - first_N >= size_N - size_N % self.batch_pairs
        places = places[by_cluster[np.argsort(left, kind="stable")]]
        whole = len(places) // self.batch_pairs * self.batch_pairs
        batches = random.permutation(places[:whole].reshape(-1, self.batch_pairs))
        return np.concatenate([batches.ravel(), places[whole:]])


def order_of(
    data: PairData, options: Options, *, batch_pairs: int, seed: int, unique_pairs: int | None = None
) -> Order:
    """The order of the first `unique_pairs` training pairs, or of all.

    Raises InputError where the pairs, or those of a source, fill no batch, or are fewer than `unique_pairs`.
    """
    train = data.first(unique_pairs)
    if options.batch_by == "mixed":
        if len(train) < batch_pairs:
            raise InputError(
                f"The data must hold at least one batch: {len(train)} pairs < {batch_pairs}; lower `batch_pairs` or "
                "bring more."
            )
        return Order((train,), batch_pairs, seed)
    alpha = 1.0 if options.source_alpha is None else options.source_alpha
    sources = _parts(data, options, train)
    short = [(name, len(rows)) for name, rows in sources if len(rows) < batch_pairs]
    if short:
        found = ", ".join(f"{name} has {count:,} training pairs < {batch_pairs}" for name, count in short)
        raise InputError(
            f"With `batch_by={options.batch_by}` every source must fill a batch; {found}. Change the weights "
            "that cut it, lower `batch_pairs`, leave it out, or join it with another one."
        )
    parts = tuple(rows for _, rows in sources)
    if options.batch_by == "source":
        return Order(parts, batch_pairs, seed, alpha)
    label = with_clusters(data, options).clusters
    assert label is not None
    return Order(parts, batch_pairs, seed, alpha, tuple(label[rows] for rows in parts))


def ordered(data: PairData, setup: Setup) -> PairData:
    """`data` as the setup batches them, which a note says of several sources: of one source or one cluster a
    batch they are other data than mixed, unless their sources and clusters are the same too.  Where sources have shares
    of the batches, means of tokens are over these.

    Raises InputError where there is one source, but for clusters, or one that fills no batch.
    """
    if setup.options.batch_by == "mixed":
        mixed = len(np.unique(data.store.column("source")[data.train]))
        told = [warning("sources-told")] if data.store.facts.source_prompt_tokens else []
        seen = [remark("sources-mixed", sources=mixed), *told] if mixed > 1 else []
        return replace(data, facts=(*data.facts, *seen))
    data = with_clusters(data, setup.options)
    order = order_of(data, setup.options, batch_pairs=setup.batch_pairs, seed=0)
    sources = _parts(data, setup.options, data.train)
    parts = tuple(
        remark("batches-of", source=name, batches=count, whole=len(order), pairs=len(rows))
        for (name, rows), count in zip(sources, order.counts, strict=True)
    )
    facts = [remark("source-a-batch", parts=parts)] if len(sources) > 1 else []
    hashes = data.store.column("pair_hash")
    contents = [hashlib.sha256(hashes[rows].data).hexdigest() for _, rows in sources]
    if data.clusters is not None:
        contents += [hashlib.sha256(np.ascontiguousarray(label).data).hexdigest() for label in order.clusters]
        facts += _clusters_seen(order, setup.options)
    read: dict[str, Any] = {"fingerprint": fingerprint([data.stats.fingerprint, *contents])}
    if setup.options.source_alpha is not None:
        means = [token_means(data, rows) for rows in order.sources]
        weighed = [*zip(order.shares, means, strict=True)]
        read |= {name: sum(share * each[name] for share, each in weighed) for name in means[0]}
    return replace(data, stats=data.stats.model_copy(update=read), facts=(*data.facts, *facts))


def with_clusters(data: PairData, options: Options) -> PairData:
    """`data` with the clusters of its training pairs, the same ones for every seed; as it is where batches do not go by
    clusters, or where it has them."""
    if options.clusters is None or data.clusters is not None:
        return data
    parts = [rows for _, rows in _parts(data, options, data.train)]
    found = np.full(len(data.store), -1, np.int32)
    for rows, count in zip(parts, cluster_counts(options.clusters, [len(rows) for rows in parts]), strict=True):
        found[rows] = clustered(data.store, rows, count)
    return replace(data, clusters=found)


def _clusters_seen(order: Order, options: Options) -> list[DataNote]:
    """How many clusters there are, how many batches are of one, and what it took to find them; first, that these are
    fewer than half, where they are."""
    assert options.clusters is not None
    sizes = [np.bincount(label) for label in order.clusters]
    pairs = [len(rows) for rows in order.sources]
    counts = cluster_counts(options.clusters, pairs)
    whole = sum(int((size // order.batch_pairs).sum()) for size in sizes)
    batches = sum(count // order.batch_pairs for count in pairs)
    flop = sum(clustering_flop(*each) for each in zip(pairs, counts, strict=True))
    clusters = sum(int((size > 0).sum()) for size in sizes)
    seen = [remark("cluster-a-batch", clusters=clusters, whole=whole, batches=batches, flop=flop)]
    if 2 * whole >= batches:
        return seen
    return [warning("few-of-a-cluster", whole=whole, batches=batches), *seen]


def _parts(data: PairData, options: Options, train: RowNumbers) -> list[tuple[str, RowNumbers]]:
    """(name, its rows) of each source; batches by clusters do with one."""
    alone = options.batch_by == "cluster" and len(np.unique(data.store.column("source")[train])) == 1
    return [(data.store.facts.source, train)] if alone else _by_source(data, train)


def _by_source(data: PairData, train: RowNumbers) -> list[tuple[str, RowNumbers]]:
    """(name, its rows) of each source among `train`, in the order of their first pairs there, whatever the order in
    which they were given.  Raises InputError where there is one alone."""
    source = data.store.column("source")[train]
    numbers, first = np.unique(source, return_index=True)
    if len(numbers) == 1 < len(data.store.facts.sources):
        raise InputError(
            f"`batch_by=source` needs two sources with pairs to train on; only {data.store.facts.sources[numbers[0]]} "
            f"of {data.store.facts.source} has any left, those of the others are held out or are duplicates. Leave it "
            "out, hold out fewer (`heldout_pairs`), or bring more pairs."
        )
    if len(numbers) < 2:
        raise InputError(
            f"`batch_by=source` needs a mixture of sources, as a.jsonl,b.jsonl; {data.store.facts.source} is one "
            "source. Leave it out, or bring others."
        )
    names = data.store.facts.sources
    return [(names[number], train[source == number]) for number in numbers[np.argsort(first)].tolist()]
