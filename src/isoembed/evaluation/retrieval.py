"""Retrieval: rank a corpus for each query, score as trec_eval does, which BEIR and MTEB score with."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from isoembed.core import InputError
from isoembed.evaluation.notes import ScoreNote, remark
from isoembed.evaluation.readers import lines, require, rows
from isoembed.evaluation.systems import Hits, System

#: how deep a ranking is read: Recall@100 is the deepest metric
DEPTH = 100
#: what the first column of judgments is not called, but for files that have their columns in another order
_NOT_QUERIES = re.compile(r"corpus|doc|passage|pid|score|grade|rel", re.IGNORECASE)
#: grades of relevance seen anywhere are a few; trec_eval allocates as many levels as the largest one says
_LARGEST_GRADE = 1000


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, a corpus, and how relevant which document is to which query; texts and grades go by id.

    relevant: the grades above 0.  A document that the corpus lacks counts as one that is never found, as in BEIR.
    Queries without a relevant document are left out of every metric, as in MTEB.
    own: queries that are a document of the corpus under the same id, as ArguAna's are: no candidate for themselves.
    facts: what the files hold that a reader of the scores should know.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: Mapping[str, Mapping[str, int]]
    own: frozenset[str] = frozenset()
    facts: tuple[ScoreNote, ...] = ()
    kind: ClassVar[str] = "retrieval"

    @property
    def notes(self) -> tuple[str, ...]:
        """The same in words."""
        return tuple(each.describe() for each in self.facts)

    @classmethod
    def from_folder(cls, folder: Path) -> RetrievalTask:
        """Read corpus.jsonl and queries.jsonl ({"_id", "text"}, optional "title") and qrels.tsv or qrels/test.tsv
        (query id, corpus id, grade; TREC's four columns too; a header line is skipped), each plain or .gz."""
        corpus = _texts(require(folder, "corpus.jsonl"))
        if not corpus:
            raise InputError(f"{folder} must hold a document at least; its corpus.jsonl has none. Add some.")
        queries = {key: text for key, (_, text) in _texts(require(folder, "queries.jsonl")).items()}
        judged = _judgments(require(folder, "qrels.tsv"), queries, corpus)
        relevant = {
            query: positive
            for query in queries
            if (positive := {document: grade for document, grade in judged.get(query, {}).items() if grade > 0})
        }
        if not relevant:
            raise InputError(
                f"{folder} must name at least one relevant document in its qrels (grade above 0, of a query that is in "
                "queries.jsonl); add some."
            )
        own = frozenset(
            query
            for query, grades in relevant.items()
            if query in corpus and query not in grades and _is_text_of(queries[query], *corpus[query])
        )
        texts = {key: f"{title} {text}".strip() for key, (title, text) in corpus.items()}
        return cls(folder.name, queries, texts, relevant, own, _facts(judged, queries, relevant, texts, own))

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
        relevant: dict[str, dict[str, int]] = {key: {} for key in query_of.values()}
        for query, positive in zip(queries, positives, strict=True):
            relevant[query_of[query]][document_of[positive]] = 1
        return cls(
            name,
            {key: text for text, key in query_of.items()},
            {key: text for text, key in document_of.items()},
            relevant,
        )

    @property
    def counts(self) -> dict[str, int]:
        return {"queries": len(self.relevant), "documents": len(self.corpus)}

    def score(self, system: System) -> dict[str, float]:
        """nDCG@10, MRR@10 and Recall@1, 10, 100, each a fraction; empty for a system that finds nothing for any query.

        Of documents with one score the greater id comes first, as in trec_eval.
        """
        queries, documents = list(self.relevant), list(self.corpus)
        found = system.search(
            [self.queries[query] for query in queries], list(self.corpus.values()), DEPTH + bool(self.own)
        )
        if not any(found):
            return {}
        metrics = [
            _metrics(self._ranked(query, hits, documents), self.relevant[query])
            for query, hits in zip(queries, found, strict=True)
        ]
        return {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]}

    def _ranked(self, query: str, hits: Hits, documents: Sequence[str]) -> list[str]:
        """Ids of the documents found, best first."""
        by_score = sorted(((score, documents[index]) for index, score in hits), reverse=True)
        return [key for _, key in by_score if key != query or query not in self.own][:DEPTH]


def _metrics(ranked: Sequence[str], grades: Mapping[str, int]) -> dict[str, float]:
    """One query's metrics; the gain of nDCG is the grade itself (Jarvelin and Kekalainen 2002), as in trec_eval."""
    grade = [grades.get(key, 0) for key in ranked]
    first = next((rank for rank, each in enumerate(grade[:10], 1) if each), None)
    return {
        "ndcg@10": _gain(grade) / _gain(sorted(grades.values(), reverse=True)),
        "mrr@10": 0.0 if first is None else 1.0 / first,
        **{f"recall@{k}": np.count_nonzero(grade[:k]) / len(grades) for k in (1, 10, DEPTH)},
    }


def _gain(grade: Sequence[int]) -> float:
    return float(np.sum(np.array(grade[:10]) / np.log2(np.arange(2, 2 + len(grade[:10])))))


def _texts(file: Path) -> dict[str, tuple[str, str]]:
    """Title and text by id."""
    texts: dict[str, tuple[str, str]] = {}
    for place, row in rows(file, _id=(str, int), text=str):
        key = str(row["_id"])
        if not key.strip() or "\t" in key:
            raise InputError(
                f"{place}: '_id' must be an id, without tabs, that judgments can name; got {key!r}. Mend it."
            )
        if key in texts:
            raise InputError(f"{place}: ids must differ; {key!r} is there twice. Remove one.")
        texts[key] = str(row.get("title") or ""), row["text"]
    return texts


def _judgments(file: Path, queries: Container[str], corpus: Container[str]) -> dict[str, dict[str, int]]:
    """Grade by document by query, as the lines say; of two for one pair the last."""
    judged: dict[str, dict[str, int]] = {}
    for number, (place, line) in enumerate(lines(file)):
        words = line.split()
        cut = (line.split("\t"), words, words[:1] + words[2:])
        forms = [form for form in cut if len(form) == 3 and all(map(str.strip, form))]
        form = next((form for form in forms if form[0] in queries), forms[0] if forms else None)
        grade = None if form is None else _grade(form[2])
        if form is not None and grade is not None:
            judged.setdefault(form[0], {})[form[1]] = grade
        elif (
            form is None or number > 0 or form[0] in queries or form[1] in corpus or _NOT_QUERIES.match(form[0].strip())
        ):
            raise InputError(
                f"{place}: a line must be query id, corpus id and grade, tab-separated, the grade a whole number of at "
                f"most {_LARGEST_GRADE}; got {line!r:.80}."
            )
    return judged


def _grade(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if abs(value) <= _LARGEST_GRADE and value.is_integer() else None


def _is_text_of(query: str, title: str, text: str) -> bool:
    """Whether a query is the document's text, or a part of it, or has it as one: an equal id alone is chance where both
    are numbered."""
    query, text, whole = (" ".join(each.split()).casefold() for each in (query, text, f"{title} {text}"))
    return bool(query and text) and (query in whole or text in query)


def _facts(
    judged: Mapping[str, Mapping[str, int]],
    queries: Container[str],
    relevant: Mapping[str, Mapping[str, int]],
    corpus: Container[str],
    own: frozenset[str],
) -> tuple[ScoreNote, ...]:
    unknown = [query for query in judged if query not in queries]
    absent = [document for grades in relevant.values() for document in grades if document not in corpus]
    facts = [remark("own", queries=len(own))] if own else []
    if absent:
        facts.append(remark("absent", documents=len(absent), first=absent[0]))
    if unknown:
        facts.append(remark("unknown", queries=len(unknown), first=unknown[0]))
    return tuple(facts)
