"""Retrieval: rank a corpus for each query, score with sentence-transformers' own metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from isoembed.core import InputError
from isoembed.evaluation.files import lines, require, rows
from isoembed.evaluation.systems import System

#: how deep a ranking is read: Recall@100 is the deepest metric
DEPTH = 100


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, a corpus, and which documents are relevant to which query; texts and relevance go by id.

    Relevance is binary: a grade above 0.  Queries without a relevant document are left out of every metric.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, frozenset[str]]
    kind: ClassVar[str] = "retrieval"

    @classmethod
    def from_folder(cls, folder: Path) -> RetrievalTask:
        """Read corpus.jsonl and queries.jsonl ({"_id", "text"}, optional "title") and qrels.tsv (query id, corpus id,
        grade; a header line is skipped), each plain or .gz."""
        corpus = _texts(require(folder, "corpus.jsonl"))
        queries = _texts(require(folder, "queries.jsonl"))
        relevant: dict[str, set[str]] = {}
        for number, (place, line) in enumerate(lines(require(folder, "qrels.tsv"))):
            fields = line.split("\t")
            if number == 0 and fields[0] == "query-id":
                continue
            if len(fields) != 3 or not _is_number(fields[2]):
                raise InputError(
                    f"{place}: a line must be query id, corpus id and grade, tab-separated; got {line!r:.80}."
                )
            query, document, grade = fields
            for key, known, file in ((query, queries, "queries"), (document, corpus, "corpus")):
                if key not in known:
                    raise InputError(f"{place}: every id must be in {file}.jsonl; {key!r} is not. Add or remove it.")
            if float(grade) > 0:
                relevant.setdefault(query, set()).add(document)
        if not relevant:
            raise InputError(
                f"{folder} must name at least one relevant document in qrels.tsv (grade above 0); add some."
            )
        return cls(folder.name, queries, corpus, {query: frozenset(found) for query, found in relevant.items()})

    @classmethod
    def from_pairs(cls, name: str, queries: Sequence[str], positives: Sequence[str]) -> RetrievalTask:
        """Held-out pairs as a task: the corpus is the positives, and a query's own positive is relevant to it.

        Equal positives are one document and equal queries one query, with all the documents of its pairs relevant.
        """
        if not queries or len(queries) != len(positives):
            raise InputError(
                f"A task needs as many queries as positives, at least one; got {len(queries)}, {len(positives)}."
            )
        document_of = {text: f"d{number}" for number, text in enumerate(dict.fromkeys(positives))}
        query_of = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(queries))}
        relevant: dict[str, set[str]] = {key: set() for key in query_of.values()}
        for query, positive in zip(queries, positives, strict=True):
            relevant[query_of[query]].add(document_of[positive])
        return cls(
            name,
            {key: text for text, key in query_of.items()},
            {key: text for text, key in document_of.items()},
            {key: frozenset(found) for key, found in relevant.items()},
        )

    @property
    def counts(self) -> dict[str, int]:
        return {"queries": len(self.relevant), "documents": len(self.corpus)}

    def score(self, system: System) -> dict[str, float]:
        """nDCG@10, MRR@10 and Recall@1, 10, 100, each a fraction."""
        evaluator: Any = InformationRetrievalEvaluator(
            dict(self.queries),
            dict(self.corpus),
            {query: set(found) for query, found in self.relevant.items()},
            mrr_at_k=[10],
            ndcg_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[1, 10, DEPTH],
            map_at_k=[DEPTH],
        )
        found = system.search(evaluator.queries, evaluator.corpus, DEPTH)
        ranked = [
            [{"corpus_id": evaluator.corpus_ids[index], "score": score} for index, score in hits] for hits in found
        ]
        metrics = evaluator.compute_metrics(ranked)
        return {
            "ndcg@10": float(metrics["ndcg@k"][10]),
            "mrr@10": float(metrics["mrr@k"][10]),
            **{f"recall@{k}": float(metrics["recall@k"][k]) for k in (1, 10, DEPTH)},
        }


def _texts(file: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for place, row in rows(file, _id=str, text=str):
        if row["_id"] in texts:
            raise InputError(f"{place}: ids must differ; {row['_id']!r} is there twice. Remove one.")
        texts[row["_id"]] = f"{row.get('title') or ''} {row['text']}".strip()
    return texts


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
