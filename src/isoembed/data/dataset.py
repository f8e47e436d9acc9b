"""From a source to what training reads: duplicates removed, held-out pairs set apart, nothing shared between the two.

Everything here depends on the pairs alone, not on their order in the files: the same pairs shuffled give the same
split, the same training order and the same fingerprint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, checked, expanded, fingerprint
from isoembed.data.normalize import mixed_hashes, text_hash
from isoembed.data.notes import DataNote, remark, warning
from isoembed.data.prompts import check_sources
from isoembed.data.sources import Source, open_source
from isoembed.data.store import Ids, RowNumbers, TokenStore
from isoembed.data.vectors import TextVectors
from isoembed.options import NO_PROMPTS, Prompts
from isoembed.recipe import DataStats

#: the held-out loss is computed in blocks of this many candidates
BLOCK_PAIRS = 1024
#: the largest share of the pairs that is set apart
HELDOUT_SHARE = 0.2
#: set apart where nobody says how many
HELDOUT_PAIRS = 4096
#: a pair whose texts occur in more pairs than this, its own included, is not held out: it would cost training them all
SHARED_PAIRS = 10
#: no group fills more of the held-out pairs than this where there are others
GROUP_SHARE = 0.25

#: a warning is due where a pair shares a text with more of the others than this
SHARED_SHARE = 0.01

#: hashes looked up at a time
PART = 1 << 20


@dataclass(frozen=True, eq=False)
class PairData:
    """Tokenised pairs, split.

    `train` and `heldout` are row numbers of `store` and of `heldout_store` (the same store unless the held-out pairs
    came from a source of their own).  The held-out ones are whole blocks of 1024 where there are as many, in a fixed
    order, and no text occurs twice on one side of them.  `facts` say what was left out and why.
    """

    store: TokenStore
    train: RowNumbers
    heldout_store: TokenStore
    heldout: RowNumbers
    stats: DataStats
    facts: tuple[DataNote, ...]
    teacher: TextVectors | None = None  #: a teacher's vectors of the pairs that a run sees
    datasets: tuple[str, ...] = ()  #: hub ids of those that `store` was made of
    clusters: npt.NDArray[np.int32] | None = None  #: of each row of `store`; None where batches do not go by them

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out and why, in words."""
        return tuple(each.describe() for each in self.facts)

    def first(self, unique_pairs: int | None) -> RowNumbers:
        """The first so many training rows, or all: the order is that of a hash of the pairs' content, so that these are
        a random subset, the same one in every run, and fewer lie within more.

        Raises InputError where there are not as many.
        """
        if unique_pairs is not None and unique_pairs > len(self.train):
            raise InputError(
                f"`unique_pairs` must be at most the training pairs there are: {unique_pairs:,} > {len(self.train):,}; "
                "lower it, or leave it out to train on all."
            )
        return self.train[:unique_pairs]

    def negatives(self, rows: RowNumbers) -> tuple[list[Ids], npt.NDArray[np.uint64], RowNumbers]:
        """Token ids of the hard negatives of training `rows`, one row's behind the other's, their texts' hashes, and
        the row of each.  Texts of the held-out pairs are not among them: training must not see them, as negatives
        neither."""
        if not self.store.facts.negatives:
            return [], np.empty(0, np.uint64), np.empty(0, np.int64)
        ids, hashes, own = self.store.negatives(rows)
        heldout = _among(hashes, self._heldout_texts)
        return [text for text, drop in zip(ids, heldout, strict=True) if not drop], hashes[~heldout], own[~heldout]

    @cached_property
    def _heldout_texts(self) -> npt.NDArray[np.uint64]:
        """Hashes of all texts that are held out, sorted: of an explicit held-out source all, whether chosen or not."""
        shared = self.heldout_store.folder == self.store.folder
        return _texts(self.heldout_store, self.heldout if shared else np.arange(len(self.heldout_store)))

    def heldout_texts(self) -> tuple[list[str], list[str]]:
        """The held-out queries and their positives."""
        return self.heldout_store.texts("query", self.heldout), self.heldout_store.texts("positive", self.heldout)


@checked
def prepare(
    source: str | Path | Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    folder: str | Path,
    heldout: str | Path | Source | None = None,
    prompts: Prompts = NO_PROMPTS,
    heldout_pairs: int = HELDOUT_PAIRS,
    seed: int = 0,
) -> PairData:
    """Tokenise `source` behind `prompts` into `folder` (or find it there), remove duplicates, and set held-out pairs
    apart.

    Held-out pairs come from `heldout`, or else from the source itself: whole groups where it has groups (packages, for
    docstrings), single pairs otherwise, at most a fifth of all.  A training pair with a text that also occurs on the
    held-out side is dropped.  Raises InputError where no training pair is left, or `heldout_pairs` is negative.
    """
    if heldout_pairs < 0:
        raise InputError(f"`heldout_pairs` must be at least 0, for none; got {heldout_pairs}. Give another number.")
    folder = expanded(folder)
    source = source if isinstance(source, Source) else open_source(str(source), prompts=prompts)
    check_sources(prompts, source.sources)
    # 1. tokens
    store = _build(source, tokenizer, context_tokens, folder, prompts)
    facts = remarks(store) + _skipped(store)

    # 2. one of each pair, in the order of their content
    rows = unique_rows(store)
    if len(rows) < len(store):
        facts.append(remark("duplicates", pairs=len(store) - len(rows)))

    # 3. held-out pairs, and the rows they leave to training
    if heldout is None:
        heldout_store = store
        chosen, candidates, remaining = _split(store, rows, heldout_pairs, seed, facts)
    else:
        heldout_store = _build(heldout, tokenizer, context_tokens, folder, prompts)
        candidates, remaining = unique_rows(heldout_store), rows
        chosen = _choose(heldout_store, candidates, heldout_pairs, seed)

    # 4. no text on both sides.  All of an explicit held-out source counts, not only the pairs chosen from it.
    train = _without(store, remaining, _texts(heldout_store, chosen if heldout is None else candidates), facts)
    if not len(train):
        raise InputError(warning("none-left", pairs=len(rows), source=store.facts.source))

    # 5. what a reader should know
    few = sameness(store, train)
    if any(each.code == "one-text" for each in few):
        raise InputError(*few)
    facts[:0] = few
    if heldout is not None and len(chosen) < 2 <= heldout_pairs:
        raise InputError(
            f"Held-out pairs must be two at least that share no text; {heldout_store.facts.source} has none such. "
            "Bring others."
        )
    if len(chosen) < heldout_pairs:
        facts.append(remark("few-heldout", pairs=len(chosen), wanted=heldout_pairs))
    data = PairData(store, train, heldout_store, chosen, _stats(store, train, prompts), tuple(facts))
    return replace(_with_negatives(data) if store.facts.negatives else data, datasets=source.datasets)


def _skipped(store: TokenStore) -> list[DataNote]:
    return [remark("skipped", rows=rows, reason=reason) for reason, rows in sorted(store.facts.skipped.items())]


def remarks(store: TokenStore) -> list[DataNote]:
    """What a reader should know of what was read, beside the rows that were skipped."""
    facts = [remark("damaged", damage=store.damage)] if store.damage else []
    for fields in store.facts.fields:
        if fields.in_order:
            facts.append(remark("in-order", source=fields.source, query=fields.query, positive=fields.positive))
        if fields.unexpected:
            facts.append(remark("unread", source=fields.source, fields=fields.unexpected))
    if store.facts.wordless:
        facts.append(warning("wordless", wordless=store.facts.wordless, pairs=len(store)))
    return facts


def sameness(store: TokenStore, rows: RowNumbers) -> list[DataNote]:
    """A warning where many pairs of a batch share a text and so are no negatives of each other; empty where few do.

    Where all do it is `one-text`: without negatives the loss is 0 from the first step.
    """
    if len(rows) < 2:
        return []
    shares = []
    for side in ("query", "positive"):
        _, others = _repeated(store.column(f"{side}_hash")[rows])
        shares.append(float((others * (others + 1.0)).sum() / (len(rows) * (len(rows) - 1.0))))
    if max(shares) == 1.0 and not store.facts.negatives:
        side = "query" if shares[0] == 1.0 else "positive"
        return [warning("one-text", pairs=len(rows), source=store.facts.source, side=side)]
    if max(shares) < SHARED_SHARE:
        return []
    return [warning("few-texts", variety=_variety(store, rows), pairs=len(rows), share=max(shares))]


def _variety(store: TokenStore, rows: RowNumbers) -> str:
    """How many different texts there are on each side."""
    query, positive = (len(np.unique(store.column(f"{side}_hash")[rows])) for side in ("query", "positive"))
    return f"different queries: {query:,}, different positives: {positive:,}"


def unique_rows(store: TokenStore) -> RowNumbers:
    """RowNumbers without duplicates (equal query and positive once normalised), sorted by a hash of their content."""
    query, positive, pair = (store.column(f"{what}_hash") for what in ("query", "positive", "pair"))
    last = (store.column("negatives_hash"),) if store.facts.negatives else ()  # else they are all the same
    rows = np.lexsort((*last, pair, positive, query))
    repeats = np.zeros(len(rows), bool)
    repeats[1:] = (query[rows[1:]] == query[rows[:-1]]) & (positive[rows[1:]] == positive[rows[:-1]])
    del query, positive
    rows = rows[~repeats]
    ordered: RowNumbers = rows[np.argsort(pair[rows], kind="stable")]
    return ordered


def _among(hashes: npt.NDArray[np.uint64], few: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are among `few`, which is sorted; a part at a time, in no more memory than the answer."""
    found = np.zeros(len(hashes), bool)
    for first in range(0, len(hashes) if len(few) else 0, PART):
        part = hashes[first : first + PART]
        found[first : first + PART] = few.take(np.searchsorted(few, part), mode="clip") == part
    return found


def _build(
    source: str | Path | Source, tokenizer: PreTrainedTokenizerBase, context_tokens: int, folder: Path, prompts: Prompts
) -> TokenStore:
    source = source if isinstance(source, Source) else open_source(str(source), prompts=prompts)
    return TokenStore.build(source, tokenizer, context_tokens=context_tokens, folder=folder, prompts=prompts)


def _split(
    store: TokenStore, rows: RowNumbers, wanted: int, seed: int, facts: list[DataNote]
) -> tuple[RowNumbers, RowNumbers, RowNumbers]:
    """(held-out rows, the rows they were chosen from, the rows left to training)."""
    limit = int(HELDOUT_SHARE * len(rows))
    wanted = min(wanted, limit)
    group = store.column("group")[rows]
    grouped = np.array([name is not None for name in store.facts.groups])[group]
    apart = _groups_apart(store, group[grouped], round(wanted * grouped.mean()), limit, seed)
    candidates = np.isin(group, apart) | ~grouped
    if wanted and not candidates.any():
        facts.append(remark("groups-too-large"))
        candidates = ~candidates
        apart = np.array([], group.dtype)
    cost = _pairs_sharing(store, rows)
    candidates &= cost <= SHARED_PAIRS
    if candidates.any():
        wanted = min(wanted, int(limit / cost[candidates].mean()))
    elif wanted:
        raise InputError(
            f"Held-out pairs must not share their texts with many others; each pair of {store.facts.source} shares one "
            f"with {SHARED_PAIRS} or more of the {len(rows):,} ({_variety(store, rows)}). These are labels rather than "
            "pairs: bring pairs of a text of its own, or held-out pairs (`heldout`)."
        )
    chosen = _choose(store, rows[candidates], wanted, seed)
    remaining = rows[~np.isin(group, apart)]
    unused = np.isin(group, apart).sum() - np.isin(chosen, rows[np.isin(group, apart)]).sum()
    if unused:
        facts.append(remark("of-heldout-groups", pairs=int(unused)))
    return chosen, rows[candidates], remaining[~np.isin(remaining, chosen)]


def _pairs_sharing(store: TokenStore, rows: RowNumbers) -> npt.NDArray[np.int32]:
    """Of each row, how many of `rows` have its query or its positive, itself included."""
    sharing = np.ones(len(rows), np.int32)
    for side in ("query", "positive"):
        hashes = store.column(f"{side}_hash")[rows]
        several, others = _repeated(hashes)
        found = np.flatnonzero(_among(hashes, several))
        sharing[found] += others[np.searchsorted(several, hashes[found])].astype(np.int32)
    return sharing


def _repeated(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    """The hashes that occur more than once, sorted, and how often beside the first time."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]], return_counts=True)


def _groups_apart(
    store: TokenStore, group: npt.NDArray[np.uint32], wanted: int, limit: int, seed: int
) -> npt.NDArray[np.uint32]:
    """Groups that together hold at least `wanted` pairs where possible and never more than `limit`."""
    apart, held = [], 0
    present, counts = np.unique(group, return_counts=True)
    for _, _, number, count in sorted(
        (count > GROUP_SHARE * wanted, text_hash(f"{seed}\0{store.facts.groups[number]}"), number, count)
        for number, count in zip(present, counts, strict=True)
    ):
        if held < wanted and held + count <= limit:
            apart.append(number)
            held += count
    return np.array(apart, group.dtype)


def _without(store: TokenStore, rows: RowNumbers, seen: npt.NDArray[np.uint64], facts: list[DataNote]) -> RowNumbers:
    """Those of `rows` with no text of which the hash is among `seen`."""
    shared = np.zeros(len(rows), bool)
    for side in ("query", "positive"):
        shared |= _among(store.column(f"{side}_hash")[rows], seen)
    if shared.any():
        facts.append(remark("overlap", pairs=int(shared.sum())))
    return rows[~shared]


def _choose(store: TokenStore, rows: RowNumbers, wanted: int, seed: int) -> RowNumbers:
    """The first `wanted` of `rows` by a seeded hash of their content, none with a text that an earlier one has on the
    same side, so that no candidate of a held-out block is a false negative; whole blocks where there is one."""
    mixed = mixed_hashes(store.column("pair_hash")[rows], seed)
    reach = wanted
    while True:  # the first few mostly suffice; what they come to does not depend on those behind them
        reach = min(2 * reach, len(rows))
        near = np.flatnonzero(mixed <= np.partition(mixed, reach - 1)[reach - 1]) if reach else np.arange(0)
        chosen = rows[near[np.argsort(mixed[near], kind="stable")]]
        for side in ("query", "positive"):
            _, first = np.unique(store.hashes(side, chosen), return_index=True)
            chosen = chosen[np.sort(first)]
        if len(chosen) >= wanted or reach == len(rows):
            break
    count = min(len(chosen), wanted)
    return chosen[: count - count % BLOCK_PAIRS if count >= BLOCK_PAIRS else count]


def _texts(store: TokenStore, rows: RowNumbers) -> npt.NDArray[np.uint64]:
    """Hashes of the texts of `rows`, both sides, each once, sorted."""
    return np.unique(np.concatenate([store.column(f"{side}_hash")[rows] for side in ("query", "positive")]))


def token_means(data: PairData, rows: RowNumbers) -> dict[str, float]:
    """Of the training pairs at `rows`, what `DataStats` says of the tokens of all."""
    means = _side_means(data.store, rows)
    if not data.stats.negatives:
        return means
    kept, tokens, squares, _ = _negatives_of(data, rows)
    means["squared_tokens"] += squares / len(rows)
    return {**means, "negatives": kept / len(rows), "negative_tokens": tokens / len(rows)}


def _side_means(store: TokenStore, rows: RowNumbers) -> dict[str, float]:
    query, positive = (store.kept_tokens(side)[rows] for side in ("query", "positive"))
    squares = sum(int((side.astype(np.uint64) ** 2).sum()) for side in (query, positive))
    return {
        "query_tokens": float(query.mean()),
        "positive_tokens": float(positive.mean()),
        "squared_tokens": squares / len(rows),
    }


def _stats(store: TokenStore, train: RowNumbers, prompts: Prompts) -> DataStats:
    hashes = store.column("pair_hash")
    content = hashlib.sha256(hashes[train].data).hexdigest()
    before: list[Any] = [prompts.query, prompts.positive] if prompts.query or prompts.positive else []
    if store.facts.source_prompt_tokens:  # which pairs stand behind which, in whatever order the sources are named
        of_source = [prompts.of_source(name) for name in store.facts.sources]
        own = [(each.query, each.positive) for each in of_source]
        source = store.column("source")[train]
        alike = {sides: train[np.isin(source, [n for n, each in enumerate(own) if each == sides])] for sides in {*own}}
        before = [[*sides, hashlib.sha256(hashes[alike[sides]].data).hexdigest()] for sides in sorted(alike)]
    return DataStats(
        fingerprint=fingerprint([content, store.facts.tokenizer, store.facts.context_tokens, *before]),
        source=store.facts.source,
        tokenizer=store.facts.tokenizer,
        context_tokens=store.facts.context_tokens,
        pairs=len(train),
        **_side_means(store, train),
    )


def _with_negatives(data: PairData) -> PairData:
    """`data` with the hard negatives of its training pairs counted in."""
    stats, count = data.stats, len(data.train)
    kept, tokens, squares, content = _negatives_of(data, data.train)
    brought = int(data.store.column("negative_count")[data.train].sum())
    facts = [remark("negatives", negatives=kept, each=kept / count)]
    if brought > kept:
        facts.append(remark("negatives-heldout", negatives=brought - kept))
    counted = stats.model_copy(
        update={
            "fingerprint": fingerprint([stats.fingerprint, content]),
            "negatives": kept / count,
            "negative_tokens": tokens / count,
            "squared_tokens": stats.squared_tokens + squares / count,
        }
    )
    return replace(data, stats=counted if kept else stats, facts=(*data.facts, *facts))


def _negatives_of(data: PairData, rows: RowNumbers) -> tuple[int, int, int, str]:
    """(number, tokens, squared lengths, hash) of the hard negatives at `rows`."""
    content = hashlib.sha256(data.store.column("negatives_hash")[rows].data)
    kept = tokens = squares = 0
    for first in range(0, len(rows), BLOCK_PAIRS):
        ids, hashes, _ = data.negatives(rows[first : first + BLOCK_PAIRS])
        lengths = np.array([len(text) for text in ids], np.int64)
        kept, tokens, squares = kept + len(ids), tokens + int(lengths.sum()), squares + int((lengths**2).sum())
        content.update(hashes.data)
    return kept, tokens, squares, content.hexdigest()
