"""What can be scored: one small contract, three systems that always stand side by side.

Shape legend: N texts, Q queries, D embedding width, V vocabulary.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import bm25s
import numpy as np
import regex
import torch
from bm25s.stopwords import STOPWORDS_EN
from sentence_transformers.util import dot_score, semantic_search
from sentence_transformers.util.quantization import quantize_embeddings
from torch.nn import functional

from isoembed.core import InputError
from isoembed.encoder.embed import tokenize
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import base_of
from isoembed.encoder.statement import Side

#: (index of the document, its score), best first
Hits = list[tuple[int, float]]


class System(ABC):
    """Anything that ranks documents for a query."""

    @abstractmethod
    def search(self, queries: Sequence[str], documents: Sequence[str], k: int) -> list[Hits]:
        """For each query at most `k` documents, best first; higher scores are better and compare within a query."""


class EmbeddingSystem(System):
    """A system whose score is the cosine of two embeddings."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-length embeddings (N, D) of `texts`, float32; the zero vector where a text has no tokens."""

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """As `embed`, for texts that are queries, where the system makes a difference."""
        return self.embed(texts)

    def embed_pairs(self, left: Sequence[str], right: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `embed_queries`, of two texts that are alike; a system that keeps documents in less keeps both so."""
        return self.embed_queries(left), self.embed_queries(right)

    def search(self, queries: Sequence[str], documents: Sequence[str], k: int) -> list[Hits]:
        query_QD, document_ND = map(torch.from_numpy, (self.embed_queries(queries), self.embed(documents)))
        ranked = semantic_search(query_QD, document_ND, top_k=k, score_function=dot_score)
        return [[(int(hit["corpus_id"]), float(hit["score"])) for hit in hits] for hits in ranked]


class DenseSystem(EmbeddingSystem):
    """An embedder, trained or not; of its embeddings the first `dims` dimensions, or all."""

    def __init__(self, embedder: Embedder, *, dims: int | None = None) -> None:
        self.embedder, self.dims = embedder, dims

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(texts, "document")

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(texts, "query")

    def _embed(self, texts: Sequence[str], side: Side) -> np.ndarray:
        embedding_ND = self.embedder.embed(texts, side)
        if self.dims is None:
            return embedding_ND
        if not 1 <= self.dims < embedding_ND.shape[1]:
            raise InputError(
                f"`truncate_dim` must be at least 1 and fewer than the embedding's {embedding_ND.shape[1]} "
                f"dimensions; got {self.dims}."
            )
        return functional.normalize(torch.from_numpy(embedding_ND[:, : self.dims]), dim=-1).numpy()


class Quantized(EmbeddingSystem):
    """`inner` with its embeddings kept as `int8`, a byte a dimension, or `binary`, a bit (its sign), as
    sentence-transformers makes them; those of queries stay whole, for they are not kept.  Of pairs both texts are.

    A byte counts 256 steps from the smallest to the largest value that its dimension has among the texts embedded
    together, and is read as the middle of its step.
    """

    def __init__(self, inner: EmbeddingSystem, precision: Literal["int8", "binary"]) -> None:
        self.inner, self.precision = inner, precision

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._kept(self.inner.embed(texts))

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.inner.embed_queries(texts)

    def embed_pairs(self, left: Sequence[str], right: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        kept_ND = self._kept(np.concatenate(self.inner.embed_pairs(left, right)))
        return kept_ND[: len(left)], kept_ND[len(left) :]

    def _kept(self, embedding_ND: np.ndarray) -> np.ndarray:
        """What is read of `embedding_ND` once it was kept."""
        if self.precision == "binary":
            bits_ND = np.unpackbits(quantize_embeddings(embedding_ND, "ubinary"), axis=1, count=embedding_ND.shape[1])
            kept_ND = 2.0 * bits_ND - 1.0
        else:
            ranges_2D = np.stack([embedding_ND.min(0), embedding_ND.max(0)])
            steps_ND = np.asarray(quantize_embeddings(embedding_ND, "uint8", ranges=ranges_2D))
            kept_ND = ranges_2D[0] + (steps_ND + 0.5) * (ranges_2D[1] - ranges_2D[0]) / 255
        kept_ND[~embedding_ND.any(1)] = 0.0  # a text without tokens stays similar to nothing
        return functional.normalize(torch.from_numpy(kept_ND.astype(np.float32)), dim=-1).numpy()


class Static(EmbeddingSystem):
    """An embedder's token table alone, mean over a text's tokens: what a model gives for no FLOP at all."""

    def __init__(self, embedder: Embedder) -> None:
        model: Any = base_of(embedder.encoder.model)
        self.table_VD = model.get_input_embeddings().weight.detach().float().cpu()
        self.tokenizer, self.context_tokens = embedder.tokenizer, embedder.context_tokens

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        ids = tokenize(self.tokenizer, texts, context_tokens=self.context_tokens)
        starts = np.cumsum([0, *(len(row) for row in ids[:-1])])
        flat = torch.from_numpy(np.concatenate(ids))
        mean_ND = functional.embedding_bag(flat, self.table_VD, torch.from_numpy(starts), mode="mean")
        return functional.normalize(mean_ND, dim=-1).numpy()


class BM25(System):
    """Okapi BM25 (Lucene's variant) over lower-cased words without English stop words, nothing stemmed.

    Scripts that put no spaces between words are cut into overlapping pairs of characters, and single ones, as Lucene's
    CJK filter cuts them.
    """

    def search(self, queries: Sequence[str], documents: Sequence[str], k: int) -> list[Hits]:
        corpus = [_words(document) for document in documents]
        if not any(corpus):
            return [[] for _ in queries]
        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
        found, scores = index.retrieve([_words(q) for q in queries], k=min(k, len(documents)), show_progress=False)
        # a document that shares no word with the query is not found, rather than found in arbitrary order
        return [
            [(int(document), float(score)) for document, score in zip(*row, strict=True) if score > 0]
            for row in zip(found, scores, strict=True)
        ]


#: scripts without spaces between words, and Korean, whose words carry endings
_UNSPACED = (
    r"[\p{Line_Break=Complex_Context}\p{Han}\p{Script_Extensions=Hiragana}\p{Script_Extensions=Katakana}\p{Bopomofo}"
    r"\p{Hangul}\p{Yi}&&\w]"
)
#: a run of such a script, or a word: letters with their marks, digits, underscores
_RUN = regex.compile(rf"(?V1)(?P<unspaced>{_UNSPACED}+)|[\w--{_UNSPACED}]{{2,}}")
_STOP_WORDS = frozenset(STOPWORDS_EN)


def _words(text: str) -> list[str]:
    words: list[str] = []
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        if run["unspaced"]:
            words += [*run[0], *map("".join, pairwise(run[0]))]
        elif run[0] not in _STOP_WORDS:
            words.append(run[0])
    return words
