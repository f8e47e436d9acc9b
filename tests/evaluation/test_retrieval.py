import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.systems import Hits, System


class Fixed(System):
    """Ranks documents in the order given per query."""

    def __init__(self, order: dict[str, list[str]]) -> None:
        self.order = order

    def search(self, queries: Sequence[str], documents: Sequence[str], k: int) -> list[Hits]:
        place = {text: index for index, text in enumerate(documents)}
        return [[(place[text], 1 / (1 + rank)) for rank, text in enumerate(self.order[query][:k])] for query in queries]


def task_folder(folder: Path, **replace: str) -> Path:
    folder.mkdir(exist_ok=True)
    files = {
        "corpus.jsonl": '{"_id": "d1", "text": "one"}\n{"_id": "d2", "title": "Two", "text": "two"}\n',
        "queries.jsonl": '{"_id": "q1", "text": "uno"}\n\n{"_id": "q2", "text": "dos"}\n',
        "qrels.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td1\t0\n",
    }
    for name, text in files.items():
        (folder / name).write_text(replace.get(name.partition(".")[0], text))
    return folder


def test_metrics_by_hand() -> None:
    texts = [f"t{index}" for index in range(200)]
    task = RetrievalTask(
        "toy",
        {"a": "first", "b": "second", "c": "unjudged"},
        {text: text for text in texts},
        {"a": frozenset({"t0"}), "b": frozenset({"t1", "t2", "t199"})},
    )
    order = {
        "first": [*texts[1:3], "t0", *texts[3:]],  # the only relevant one is third
        "second": ["t1", *texts[3:50], "t2", *texts[50:]],  # first, 49th, and beyond 100
    }
    scores = task.score(Fixed(order))
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores["ndcg@10"] == pytest.approx((1 / math.log2(4) + 1 / ideal) / 2)
    assert scores["mrr@10"] == pytest.approx((1 / 3 + 1) / 2)
    assert scores["recall@1"] == pytest.approx((0 + 1 / 3) / 2)
    assert scores["recall@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores["recall@100"] == pytest.approx((1 + 2 / 3) / 2)
    assert task.counts == {"queries": 2, "documents": 200}


def test_a_ranking_with_nothing_relevant_scores_zero() -> None:
    task = RetrievalTask.from_pairs("toy", ["q"], ["p"])
    assert set(task.score(Fixed({"q": []})).values()) == {0.0}


def test_pairs_become_a_task_with_equal_texts_merged() -> None:
    task = RetrievalTask.from_pairs("held out", ["a", "b", "a", "c"], ["one", "one", "two", "three"])
    assert list(task.corpus.values()) == ["one", "two", "three"]
    assert list(task.queries.values()) == ["a", "b", "c"]
    by_text = {
        task.queries[query]: {task.corpus[document] for document in found} for query, found in task.relevant.items()
    }
    assert by_text == {"a": {"one", "two"}, "b": {"one"}, "c": {"three"}}
    with pytest.raises(InputError, match="as many queries"):
        RetrievalTask.from_pairs("empty", [], [])


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_a_folder(tmp_path: Path, zipped: bool) -> None:
    folder = task_folder(tmp_path / "toy")
    if zipped:
        for file in list(folder.iterdir()):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    task = RetrievalTask.from_folder(folder)
    assert task.name == "toy"
    assert task.corpus == {"d1": "one", "d2": "Two two"}
    assert task.queries == {"q1": "uno", "q2": "dos"}
    assert task.relevant == {"q1": frozenset({"d1"}), "q2": frozenset({"d2"})}  # grade 0 is not relevant


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus", '{"_id": "d1", "text": "one"}\n{"_id": ', r"corpus\.jsonl:2: .*JSON"),
        ("corpus", '{"_id": "d1"}\n', r"corpus\.jsonl:1: .*'text' is missing"),
        ("corpus", '{"_id": 1, "text": "one"}\n', r"corpus\.jsonl:1: '_id' has the wrong type"),
        ("corpus", '["d1", "one"]\n', r"corpus\.jsonl:1: .*got list"),
        ("corpus", '{"_id": "d1", "text": "one"}\n' * 2, r"corpus\.jsonl:2: .*twice"),
        ("qrels", "q1\td1\n", r"qrels\.tsv:1: .*tab-separated"),
        ("qrels", "q1\td1\tyes\n", r"qrels\.tsv:1: .*tab-separated"),
        ("qrels", "q1\td9\t1\n", r"qrels\.tsv:1: .*corpus\.jsonl; 'd9' is not"),
        ("qrels", "q9\td1\t1\n", r"qrels\.tsv:1: .*queries\.jsonl; 'q9' is not"),
        ("qrels", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", "at least one relevant"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RetrievalTask.from_folder(task_folder(tmp_path / "toy", **{file: text}))


def test_missing_undecodable_and_truncated_files(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "toy")
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"queries\.jsonl:1: every line must be UTF-8"):
        RetrievalTask.from_folder(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl \(or queries\.jsonl\.gz\)"):
        RetrievalTask.from_folder(folder)
    rows = "".join(json.dumps({"_id": f"q{index}", "text": str(index)}) + "\n" for index in range(999))
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-100])
    with pytest.raises(InputError, match=r"queries\.jsonl\.gz must be a whole file"):
        RetrievalTask.from_folder(folder)
