"""A tiny exported model with a record, and a folder of tasks of all six kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import base_of
from isoembed.encoder.shapes import spec_of
from isoembed.evaluation.systems import DenseSystem
from isoembed.families import NANO
from isoembed.methods import Full
from tests.evaluation.tiny import load, write_model
from tests.fitting.ledgers import planned
from tests.sweep.fake import record

WORDS = ["file", "list", "array", "date", "server", "lines", "axis", "numbers", "second", "open", "sort", "mean", "fox"]
CONTEXT = 24


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 12))) for _ in range(count)]


def exported(folder: Path, *, shift: float = 0.0) -> tuple[Path, DenseSystem]:
    """A model as isoembed leaves it, and our own system over the same weights; `shift` makes other weights."""
    encoder, tokenizer = load(write_model(folder / "base"))
    for parameter in encoder.parameters():
        parameter.data.add_(shift)
    made = record(planned(1e10, NANO.models[0], Full()))
    read_as = {"model": spec_of(base_of(encoder.model), "tiny", "tiny"), "context_tokens": CONTEXT}
    made = made.model_copy(update={"recipe": made.recipe.model_copy(update=read_as)})
    Embedder(encoder, tokenizer, CONTEXT).save(folder / "out", card="", record=made)
    return folder / "out", DenseSystem(Embedder(encoder, tokenizer, CONTEXT))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tasks(folder: Path) -> Path:
    """Random tasks: what a model scores on them is not what is tested."""
    rng = np.random.default_rng(0)
    left, right = texts(60, seed=1), texts(60, seed=2)
    pairs = list(zip(left, right, strict=True))
    write_rows(folder / "sts/s/test.jsonl", [{"s1": a, "s2": b, "score": float(rng.uniform())} for a, b in pairs])
    matches = [{"s1": a, "s2": b, "label": n % 3 // 2} for n, (a, b) in enumerate(pairs)]
    write_rows(folder / "pairclassification/p/test.jsonl", matches)
    labelled = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts(80, seed=3))]
    write_rows(folder / "classification/c/train.jsonl", labelled[:40])
    write_rows(folder / "classification/c/test.jsonl", labelled[40:])
    write_rows(folder / "clustering/k/test.jsonl", labelled)
    candidates = [
        {"query": query, "positive": right[2 * n : 2 * n + 2], "negative": left[3 * n : 3 * n + 3]}
        for n, query in enumerate(texts(15, seed=4))
    ]
    write_rows(folder / "reranking/r/test.jsonl", candidates)
    for name, letter, some in (("corpus", "d", left), ("queries", "q", right[:20])):
        rows = [{"_id": f"{letter}{n}", "text": text} for n, text in enumerate(some)]
        write_rows(folder / f"retrieval/t/{name}.jsonl", rows)
    (folder / "retrieval/t/qrels.tsv").write_text("".join(f"q{n % 20}\td{n}\t1\n" for n in range(40)))
    return folder
