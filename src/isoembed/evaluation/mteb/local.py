"""Local files as tasks of the library: its own task classes and metrics, with data that need no hub.

A task is a folder KIND/NAME whose files hold JSON lines, plain or .gz:

| kind | files |
|---|---|
| retrieval | as for `RetrievalTask`: corpus.jsonl, queries.jsonl, qrels.tsv |
| reranking | test.jsonl {"query", "positive": [texts], "negative": [texts]} |
| sts | test.jsonl {"s1", "s2", "score"} |
| pairclassification | test.jsonl {"s1", "s2", "label"}, the label 0 or 1 |
| classification | train.jsonl and test.jsonl {"text", "label"}: 16 examples a label are learnt from, ten times |
| clustering | test.jsonl {"text", "label"}: all texts are embedded, samples of them clustered ten times |
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from isoembed.core import InputError
from isoembed.data.sources.files import file_hash
from isoembed.evaluation.mteb.library import quiet
from isoembed.evaluation.readers import require, rows, task_folders
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.sts import StsTask


class Local(AbsTask, ABC):
    """A task of the library over the files of one folder.  Subclasses are bound to a folder by `local_task`."""

    #: the library's task type, its main score, the files read
    task_type: ClassVar[str]
    score_name: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ("test.jsonl",)
    folder: ClassVar[Path]

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read the files; raises InputError naming the file and line that cannot be read."""
        if not self.data_loaded:
            self.dataset = self.read(self.folder)
            self.data_loaded = True

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """The data as the library's task class wants them."""


class LocalSts(Local, AbsTaskSTS):
    """Cosine against people's scores."""

    task_type, score_name = "STS", "cosine_spearman"

    def read(self, folder: Path) -> DatasetDict:
        task = StsTask.from_path(folder)
        return _test(sentence1=task.left, sentence2=task.right, score=[float(score) for score in task.scores])


class LocalRetrieval(Local, AbsTaskRetrieval):
    """A corpus ranked for each query."""

    task_type, score_name = "Retrieval", "ndcg_at_10"
    files = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
    ignore_identical_ids = True

    def read(self, folder: Path) -> dict[str, Any]:
        task = RetrievalTask.from_folder(folder)
        key = dict(zip(task.relevant, _library_ids(task), strict=True))
        queries = {key[query]: task.queries[query] for query in task.relevant}
        return _ranking(queries, task.corpus, {key[query]: dict(found) for query, found in task.relevant.items()}, None)


class LocalReranking(Local, AbsTaskRetrieval):
    """Each query's own candidates ranked."""

    task_type, score_name = "Reranking", "map_at_1000"

    def read(self, folder: Path) -> dict[str, Any]:
        queries: dict[str, str] = {}
        documents: dict[str, str] = {}
        relevant: dict[str, dict[str, int]] = {}
        ranked: dict[str, list[str]] = {}
        for place, row in rows(require(folder, "test.jsonl"), query=str, positive=list, negative=list):
            texts = [*row["positive"], *row["negative"]]
            if not row["positive"] or not all(isinstance(text, str) for text in texts):
                raise InputError(f"{place}: a row needs texts, at least one of them positive. Mend or remove it.")
            ids = [documents.setdefault(text, f"d{len(documents)}") for text in texts]
            query = f"q{len(queries)}"
            queries[query] = row["query"]
            relevant[query] = dict.fromkeys(ids[: len(row["positive"])], 1)
            ranked[query] = list(dict.fromkeys(ids))
        if not queries:
            raise InputError(f"{folder / 'test.jsonl'} must hold at least one query; it holds none. Add some.")
        return _ranking(queries, {key: text for text, key in documents.items()}, relevant, ranked)


class LocalPairs(Local, AbsTaskPairClassification):
    """Cosine tells pairs that match from pairs that do not."""

    task_type, score_name = "PairClassification", "max_ap"

    def read(self, folder: Path) -> DatasetDict:
        read = []
        for place, row in rows(require(folder, "test.jsonl"), s1=str, s2=str, label=int):
            if row["label"] not in (0, 1):
                raise InputError(f"{place}: 'label' must be 0 or 1; got {row['label']}. Mend or remove the row.")
            read.append(row)
        left, right, labels = ([row[key] for row in read] for key in ("s1", "s2", "label"))
        if len(set(labels)) < 2:
            raise InputError(
                f"{folder / 'test.jsonl'} must hold pairs of both labels, or nothing can be told. Add some."
            )
        return _test(sentence1=left, sentence2=right, labels=labels)


class LocalClassification(Local, AbsTaskClassification):
    """Logistic regression on the embeddings of few examples a label."""

    task_type, score_name = "Classification", "accuracy"
    files = ("train.jsonl", "test.jsonl")
    samples_per_label = 16  # as the library's EmotionClassification

    def read(self, folder: Path) -> DatasetDict:
        splits = {name: _labelled(require(folder, f"{name}.jsonl")) for name in ("train", "test")}
        number = {
            label: n for n, label in enumerate(sorted({label for _, labels in splits.values() for label in labels}))
        }
        return DatasetDict(
            {
                name: Dataset.from_dict({"text": texts, "label": [number[label] for label in labels]})
                for name, (texts, labels) in splits.items()
            }
        )


class LocalClustering(Local, AbsTaskClustering):
    """k-means clusters against labels."""

    task_type, score_name = "Clustering", "v_measure"
    max_fraction_of_documents_to_embed = None

    def read(self, folder: Path) -> DatasetDict:
        texts, labels = _labelled(require(folder, "test.jsonl"))
        return _test(sentences=texts, labels=labels)


KINDS: dict[str, type[Local]] = {
    "retrieval": LocalRetrieval,
    "reranking": LocalReranking,
    "sts": LocalSts,
    "pairclassification": LocalPairs,
    "classification": LocalClassification,
    "clustering": LocalClustering,
}


def local_task(kind: str, folder: Path) -> Local:
    """The task of `kind` over `folder`, named `local-KIND-NAME`; its revision is a hash of the files, so that results
    on other contents are never taken for its own.  Raises InputError where a file is missing."""
    if kind not in KINDS:
        raise InputError(f"`task` must be {', '.join(KINDS)}; got {kind!r}.")
    base = KINDS[kind]
    if not folder.is_dir():
        raise InputError(f"The {kind} task must be a folder; {folder} is none. Check the path.")
    digest = hashlib.sha256()
    for name in base.files:
        digest.update(f"{name} {file_hash(require(folder, name))}\n".encode())
    name = folder.resolve().name
    metadata = TaskMetadata.model_validate(
        {
            "name": f"local-{kind}-{name}",
            "description": f"The {kind} task {name}, read from local files.",
            "dataset": {"path": f"local/{kind}/{name}", "revision": digest.hexdigest()[:16]},
            "type": base.task_type,
            "category": "t2c" if base.task_type in ("Classification", "Clustering") else "t2t",
            "eval_langs": ["eng-Latn"],  # must be named; only filters by language read it
            "main_score": base.score_name,
        }
    )
    # a class of its own, because the library keeps metadata by class
    with quiet():
        bound: Local = type(base.__name__, (base,), {"metadata": metadata, "folder": folder})()
    return bound


def local_tasks(folder: Path, names: Sequence[str] = ()) -> list[Local]:
    """Tasks of a folder of KIND/NAME folders: all, or those that `names` (each KIND or KIND/NAME) name.

    Raises InputError where there is none, or not the one named.
    """
    places = {f"{kind}/{path.name}": (kind, path) for kind, path in task_folders(folder, KINDS)}
    if not places:
        raise InputError(
            f"A folder of tasks must hold KIND/NAME folders, the kinds being {', '.join(KINDS)}; {folder} holds none. "
            "Name another one, or with `task` a folder of one task."
        )
    chosen: dict[str, tuple[str, Path]] = {}
    for name in names:
        found = {key: place for key, place in places.items() if key == name or place[0] == name}
        if not found:
            raise InputError(f"`mteb` with `data` must name tasks in {folder}, as {', '.join(places)}; got {name!r}.")
        chosen |= found
    return [local_task(kind, path) for kind, path in (chosen or places).values()]


def _library_ids(task: RetrievalTask) -> Iterator[str]:
    """An id for each query that is a document's only where the query is that document, which the library leaves out."""
    taken = task.corpus.keys() | task.relevant.keys()
    for query in task.relevant:
        key = query
        while key in taken and query not in task.own and query in task.corpus:
            key = f"query {key}"
        taken.add(key)
        yield key


def _labelled(file: Path) -> tuple[list[str], list[str]]:
    """Texts and labels; a label may be a text or a whole number."""
    read = [row for _, row in rows(file, text=str, label=(str, int))]
    labels = [str(row["label"]) for row in read]
    if len(set(labels)) < 2:
        raise InputError(f"{file} must hold rows of at least two labels; it holds {len(set(labels))}. Add some.")
    return [row["text"] for row in read], labels


def _test(**columns: Iterable[Any]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_dict({name: list(values) for name, values in columns.items()})})


def _ranking(
    queries: dict[str, str],
    corpus: dict[str, str],
    relevant: dict[str, dict[str, int]],
    ranked: dict[str, list[str]] | None,
) -> dict[str, Any]:
    def texts(by_id: dict[str, str]) -> Dataset:
        return Dataset.from_dict({"id": list(by_id), "text": list(by_id.values())})

    split = {"queries": texts(queries), "corpus": texts(corpus), "relevant_docs": relevant, "top_ranked": ranked}
    return {"default": {"test": split}}
