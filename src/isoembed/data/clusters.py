"""Clusters of similar pairs within a source, by their tokens: no model is run, and every machine finds the same ones.

1. A pair is the bag of its tokens, of both sides, each once, hashed with a sign into D dimensions (Weinberger et al.
   2009), weighted by idf, scaled to one length and rounded to whole numbers.
2. k-means on the sphere (Dhillon & Modha 2001): a centroid is the sum of its pairs, scaled and rounded in the same way.
   All products are sums of whole numbers below 2^24, which fp32 holds exactly: neither threads nor libraries matter.
3. It is fitted to a sample; then every pair goes to the centroid that it has the largest product with.

Legend: N = pairs, D = dimensions, K = clusters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isoembed.core import InputError
from isoembed.data.normalize import mixed_hashes
from isoembed.data.store import RowNumbers, TokenStore

#: D
DIMENSIONS = 256
#: the length of a vector: products are at most the square of a little more, below 2^24
LENGTH = 2047
#: pairs that k-means is fitted to at most, and how often centroids move
SAMPLE_PAIRS, ROUNDS = 16_384, 10
#: pairs at a time
PART_PAIRS = 8192

Labels = npt.NDArray[np.int32]


def cluster_counts(clusters: int, pairs: list[int]) -> list[int]:
    """How many of `clusters` each source has: by its `pairs`, rounded, one at least.  Where these are not `clusters`
    together, the sources that are farthest from their shares have one more or one less.

    Raises InputError where there are fewer clusters than sources.
    """
    if clusters < len(pairs):
        raise InputError(
            f"Every source has a cluster at least; got {clusters} `clusters` for {len(pairs)} sources. Give more."
        )
    counts = [max(1, round(clusters * count / sum(pairs))) for count in pairs]
    while over := sum(counts) - clusters:
        beyond = [found * sum(pairs) - clusters * count for found, count in zip(counts, pairs, strict=True)]
        if over < 0:
            counts[beyond.index(min(beyond))] += 1
        else:
            most = max(share for share, found in zip(beyond, counts, strict=True) if found > 1)
            counts[next(n for n, share in enumerate(beyond) if share == most and counts[n] > 1)] -= 1
    return counts


def clustered(store: TokenStore, rows: RowNumbers, clusters: int) -> Labels:
    """The cluster (N,) of each of `rows`, from 0; some of the `clusters` may have none.

    The order of `rows` is to be that of their content: the first ones are the sample.
    """
    sample = rows[:SAMPLE_PAIRS]
    clusters = min(clusters, len(sample))
    _, token = _tokens(store, sample)
    pairs_V = np.bincount(token)  # that have a token, by its number
    vector_ND = np.concatenate([_vectors(store, part, pairs_V, len(sample)) for part in _parts(sample)])
    centroid_KD = vector_ND[:clusters].copy()
    for _ in range(ROUNDS):
        label_N = _nearest(vector_ND, centroid_KD)
        grouped = np.argsort(label_N, kind="stable")
        present, first = np.unique(label_N[grouped], return_index=True)
        centroid_KD[present] = _scaled(np.add.reduceat(vector_ND[grouped].astype(np.int64), first, axis=0))
    found = [_nearest(_vectors(store, part, pairs_V, len(sample)), centroid_KD) for part in _parts(rows)]
    return np.concatenate(found)


def clustering_flop(pairs: int, clusters: int) -> float:
    """FLOP of the products of `clustered`."""
    return 2.0 * DIMENSIONS * clusters * (min(pairs, SAMPLE_PAIRS) * ROUNDS + pairs)


def _parts(rows: RowNumbers) -> list[RowNumbers]:
    return [rows[first : first + PART_PAIRS] for first in range(0, len(rows), PART_PAIRS)]


def _tokens(store: TokenStore, rows: RowNumbers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(number of the pair, token) of every token of `rows`, each once a pair."""
    texts = [*store.ids("query", rows), *store.ids("positive", rows)]
    pair = np.repeat(np.tile(np.arange(len(rows)), 2), [len(text) for text in texts])
    both = np.unique(pair << 32 | np.concatenate(texts).astype(np.int64))
    return both >> 32, both & 0xFFFFFFFF


def _vectors(
    store: TokenStore, rows: RowNumbers, pairs_V: npt.NDArray[np.int64], pairs: int
) -> npt.NDArray[np.float32]:
    """(N, D), whole numbers; `pairs_V` of `pairs` have a token."""
    pair, token = _tokens(store, rows)
    having = np.where(token < len(pairs_V), pairs_V[np.minimum(token, len(pairs_V) - 1)], 0)
    weight = np.frexp(pairs / np.maximum(having, 1))[1] - 1  # idf in whole bits: exact, unlike a logarithm
    mixed = mixed_hashes(token.astype(np.uint64), 0)
    place = pair * DIMENSIONS + (mixed % np.uint64(DIMENSIONS)).astype(np.int64)
    signed = np.where(mixed >> np.uint64(63), -weight, weight)
    bag = np.bincount(place, weights=signed, minlength=len(rows) * DIMENSIONS)
    return _scaled(bag.reshape(-1, DIMENSIONS))


def _scaled(whole_ND: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Whole numbers (N, D) at one length, rounded again; zeros stay."""
    squares = (whole_ND.astype(np.float64) ** 2).sum(1, keepdims=True)  # exact: whole numbers below 2^53
    scaled: npt.NDArray[np.float32] = np.rint(whole_ND * (LENGTH / np.sqrt(np.maximum(squares, 1)))).astype(np.float32)
    return scaled


def _nearest(vector_ND: npt.NDArray[np.float32], centroid_KD: npt.NDArray[np.float32]) -> Labels:
    """The centroid of each vector; of equally near ones the first."""
    products = [part @ centroid_KD.T for part in np.split(vector_ND, range(PART_PAIRS, len(vector_ND), PART_PAIRS))]
    return np.concatenate([product.argmax(1) for product in products]).astype(np.int32)
