"""What a teacher says of the pairs that a run sees, read once and kept beside their tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from isoembed.core import fingerprint
from isoembed.data.batches import rows_seen
from isoembed.data.dataset import PairData
from isoembed.data.order import order_of
from isoembed.data.prompts import prompt_tokens
from isoembed.data.store import TokenStore
from isoembed.data.vectors import VECTORS_VERSION, TextVectors
from isoembed.encoder.embed import embed_ids, tokenize
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.teacher import open_teacher
from isoembed.recipe import Recipe, Setup, SourceShare

#: pairs embedded, and written, at a time
PART_PAIRS = 4096
#: pairs at most by which it is told how many tokens the teacher reads of one
COUNTED_PAIRS = 16_384


def with_teacher(data: PairData, recipe: Recipe) -> PairData:
    """`data` with its teacher's vectors of the pairs that `recipe` sees; the same where it has none.

    What an earlier run computed is not computed again.  Raises InputError where the teacher is not that of the recipe.
    """
    teacher = recipe.options.teacher
    if teacher is None:
        return data
    store, rows = data.store, rows_seen(data, recipe)
    texts = hashlib.sha256(store.column("pair_hash").data).hexdigest()
    key = fingerprint([VECTORS_VERSION, teacher.weights, recipe.context_tokens, texts])
    folder = store.folder.parent / f"teacher-{key}"
    vectors = TextVectors.open(folder, rows=len(store), width=teacher.width)
    if len(missing := vectors.missing(rows)):
        embedder = open_teacher(teacher.source, known=teacher)
        for first in range(0, len(missing), PART_PAIRS):
            part = missing[first : first + PART_PAIRS]
            vectors.add(part, *_read(embedder, store, part, recipe.context_tokens))
        vectors = TextVectors.open(folder, rows=len(store), width=teacher.width)
    return replace(data, teacher=replace(vectors, tokens=vectors.tokens_of(rows)))


def read_by_teacher(data: PairData, setup: Setup) -> PairData:
    """`data` with the mean tokens of a pair as its teacher reads it, by which a budget is shared, and that of each
    source where these have shares of the batches; the same where there is none."""
    teacher, options = setup.options.teacher, setup.options
    if teacher is None:
        return data
    embedder = open_teacher(teacher.source, known=teacher)

    def mean_tokens(rows: npt.NDArray[np.int64]) -> float:
        sides = _sides(embedder, data.store, rows, setup.context_tokens)
        return sum(len(text) for ids, _ in sides for text in ids) / len(rows)

    if options.source_alpha is None:
        read: dict[str, Any] = {"teacher_tokens": mean_tokens(data.train[:COUNTED_PAIRS])}
    else:
        order = order_of(data, options, batch_pairs=setup.batch_pairs, seed=0)
        counted = max(1, COUNTED_PAIRS // len(order.sources))
        shares = tuple(
            SourceShare(pairs=len(rows) / len(data.train), batches=share, teacher_tokens=mean_tokens(rows[:counted]))
            for rows, share in zip(order.sources, order.shares, strict=True)
        )
        read = {"shares": shares, "teacher_tokens": sum(each.batches * each.teacher_tokens for each in shares)}
    return replace(data, stats=data.stats.model_copy(update=read))


def _read(
    embedder: Embedder, store: TokenStore, rows: npt.NDArray[np.int64], context_tokens: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Tokens (N, 2) and vectors (N, 2, W) of the queries and positives at `rows`."""
    sides = _sides(embedder, store, rows, context_tokens)
    tokens = [np.array([len(text) for text in ids]) for ids, _ in sides]
    vectors = [embed_ids(embedder.encoder, ids, prompt=prompt).numpy() for ids, prompt in sides]
    return np.stack(tokens, axis=1), np.stack(vectors, axis=1)


def _sides(
    embedder: Embedder, store: TokenStore, rows: npt.NDArray[np.int64], context_tokens: int
) -> list[tuple[list[npt.NDArray[np.int64]], int]]:
    """(token ids of its texts, those of its prompt) of queries and of positives, cut where the student's texts are: no
    teacher is paid for what its student does not read."""
    prompts, found = embedder.encoder.prompts, []
    for side, prompt in (("query", prompts.query), ("positive", prompts.positive)):
        texts = [prompt + text for text in store.texts(side, rows)]
        ids = tokenize(embedder.tokenizer, texts, context_tokens=context_tokens)
        found.append((ids, prompt_tokens(embedder.tokenizer, prompt)))
    return found
