"""Semantic search over documents: embed them once, keep them in the cache, scan them for each query.

Shape legend: N documents, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from isoembed.cache import used, user_cache
from isoembed.core import Frozen, InputError, sole_writer
from isoembed.encoder.embed import Progress
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.export import scratch_folder
from isoembed.encoder.exported import load_exported
from isoembed.evaluation.readers import rows


class IndexKey(Frozen):
    """What an index was made from: it is reused only where all of this is unchanged."""

    model: str
    corpus: str
    documents: int


@dataclass(frozen=True)
class Hit:
    """One document found: cosine with the query, and the document."""

    score: float
    title: str
    text: str


@dataclass(frozen=True)
class Index:
    """Documents and their embeddings, with the model that made them."""

    embedder: Embedder
    documents: tuple[tuple[str, str], ...]
    embedding_ND: np.ndarray

    @classmethod
    def build(cls, folder: Path, documents: Iterable[tuple[str, str]], *, progress: Progress | None = None) -> Index:
        """Embed the text of each (title, text) with the exported model in `folder` and keep the index in the user's
        cache (`isoembed.cache`), whole or not at all: a model's folder may be published, the documents may not.

        An index that is there already is reused where model and documents are the same.  The title is shown, not
        embedded: the model was trained on texts.  Products are in bf16 where that is faster.
        """
        embedder = _opened(folder)
        pairs = tuple((_encodable(title), _encodable(text)) for title, text in documents)
        if not pairs:
            raise InputError("An index must hold at least one document; the source gave none.")
        key = IndexKey(model=embedder.identity, corpus=_corpus_key(pairs), documents=len(pairs))
        place = index_folder(key.model)
        if _stored_key(place) != key:
            texts = [text for _, text in pairs]
            embedding_ND = embedder.embed(texts, progress=progress)
            with sole_writer(place.parent), scratch_folder(place.parent / f".{key.model}.partial") as partial:
                save_file({"embedding": embedding_ND}, partial / "embeddings.safetensors")
                with (partial / "documents.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps({"title": title, "text": text}) + "\n" for title, text in pairs)
                (partial / "index.json").write_text(key.model_dump_json() + "\n", encoding="utf-8")
                shutil.rmtree(place, ignore_errors=True)
                partial.rename(place)
        return cls._read(embedder, place)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """The model of an exported `folder` and its last index; raises InputError where there is none."""
        if (found := cls.find(folder)) is None:
            raise InputError(f"The model in {folder} must have a search index, and there is none; build it first.")
        return found

    @classmethod
    def find(cls, folder: Path) -> Index | None:
        """The model of an exported `folder` and its last index, of the cache or, of before there was one, in `folder`;
        None where there is none."""
        embedder = _opened(folder)
        model = embedder.identity
        for place in (index_folder(model), folder / "index"):
            if (key := _stored_key(place)) is not None and key.model == model:
                used(place)
                return cls._read(embedder, place)
        return None

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The `k` documents nearest to `query`, best first."""
        query_D = self.embedder.embed([_encodable(query)], "query")[0]
        score_N = self.embedding_ND @ query_D
        best = np.argsort(-score_N, kind="stable")[:k]
        return [Hit(float(score_N[index]), *self.documents[index]) for index in best]

    @classmethod
    def _read(cls, embedder: Embedder, place: Path) -> Index:
        try:
            embedding_ND = load_file(place / "embeddings.safetensors")["embedding"]
            with (place / "documents.jsonl").open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            documents = tuple((_encodable(str(row["title"])), _encodable(str(row["text"]))) for row in rows)
            width = embedder.dimensions
            if embedding_ND.shape != (len(documents), width) or embedding_ND.dtype != np.float32:
                raise ValueError(
                    f"{len(documents)} documents and width {width}, embeddings of {embedding_ND.shape} "
                    f"{embedding_ND.dtype}"
                )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The index in {place} is damaged ({error}); remove that folder and build it anew."
            ) from None
        return cls(embedder, documents, embedding_ND)


def index_folder(model: str) -> Path:
    """Where the index of the model of that key lies."""
    return user_cache() / "index" / model


def read_documents(file: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of each line of a JSONL file, plain or .gz: {"text"} and, where there is one, "title"."""
    for _, row in rows(file, text=str):
        yield str(row.get("title") or ""), row["text"]


def _opened(folder: Path) -> Embedder:
    return Embedder(*load_exported(folder)).in_precision("auto")


def _encodable(text: str) -> str:
    """`text` with a replacement sign for every half character (lone surrogate): no tokenizer and no terminal takes
    one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _corpus_key(documents: tuple[tuple[str, str], ...]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document).encode())
    return digest.hexdigest()[:16]


def _stored_key(place: Path) -> IndexKey | None:
    try:
        return IndexKey.model_validate_json((place / "index.json").read_bytes())
    except (OSError, ValidationError):
        return None
