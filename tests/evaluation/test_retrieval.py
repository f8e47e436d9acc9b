import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.systems import Hits, System
from isoembed.evaluation.tasks import open_tasks


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
        {"a": {"t0": 1}, "b": {"t1": 1, "t2": 1, "t199": 1}},
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
    task = RetrievalTask("toy", {"a": "q"}, {"p": "p", "o": "o"}, {"a": {"p": 1}})
    assert set(task.score(Fixed({"q": ["o"]})).values()) == {0.0}
    assert task.score(Fixed({"q": []})) == {}  # nothing ranked at all is no score, and no zero


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
    assert task.relevant == {"q1": {"d1": 1}, "q2": {"d2": 2}}  # grade 0 is not relevant
    assert (task.own, task.notes) == (frozenset(), ())


def test_reads_a_folder_as_beir_ships_it(tmp_path: Path) -> None:
    """Judgments in qrels/test.tsv, beside those of other splits; ids may be whole numbers."""
    folder = task_folder(
        tmp_path / "toy",
        corpus='{"_id": 7, "text": "one"}\n{"_id": 8, "text": "two"}\n',
        queries='{"_id": 1, "text": "uno"}\n{"_id": "2", "text": "dos"}\n',
    )
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n2\t8\t1\n")
    missing = r"must hold qrels\.tsv or qrels/test\.tsv \(or either as \.gz\); .*only test\.tsv is read, not train\.tsv"
    with pytest.raises(InputError, match=missing):
        RetrievalTask.from_folder(folder)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t7\t1\n")
    assert RetrievalTask.from_folder(folder).relevant == {"1": {"7": 1}}
    with pytest.raises(InputError, match="`task=retrieval`"):
        open_tasks(folder)


@pytest.mark.parametrize("header", ["corpus-id\tquery-id\tscore", "score\tquery-id\tcorpus-id", "doc_id qid grade"])
def test_judgments_whose_header_names_another_order_are_refused(tmp_path: Path, header: str) -> None:
    """Ids that are numbers on both sides fit either way: the judgments were read backwards without a word."""
    texts = "".join(f'{{"_id": {number}, "text": "text {number}"}}\n' for number in range(3))
    folder = task_folder(tmp_path / "toy", corpus=texts, queries=texts, qrels=f"{header}\n1\t2\t1\n2\t1\t1\n")
    with pytest.raises(InputError, match=r"qrels\.tsv:1: .*query id, corpus id and grade"):
        RetrievalTask.from_folder(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus", '{"_id": "d1", "text": "one"}\n{"_id": ', r"corpus\.jsonl:2: .*JSON"),
        ("corpus", '{"_id": "d1"}\n', r"corpus\.jsonl:1: .*'text' is missing"),
        ("corpus", '{"_id": 1.5, "text": "one"}\n', r"corpus\.jsonl:1: '_id' has the wrong type"),
        ("corpus", '["d1", "one"]\n', r"corpus\.jsonl:1: .*got list"),
        ("corpus", '{"_id": "d1", "text": "one"}\n' * 2, r"corpus\.jsonl:2: .*twice"),
        ("corpus", '{"_id": "", "text": "one"}\n', r"corpus\.jsonl:1: '_id' must be an id"),
        ("queries", '{"_id": "q\\t1", "text": "one"}\n', r"queries\.jsonl:1: '_id' must be an id"),
        ("queries", '{"_id": " ", "text": "one"}\n', r"queries\.jsonl:1: '_id' must be an id"),
        ("qrels", "q1\t\t1\n", r"qrels\.tsv:1: .*tab-separated"),
        ("qrels", "q1\td1\t1\n\td1\t1\n", r"qrels\.tsv:2: .*tab-separated"),
        ("corpus", "\n", "a document at least"),
        ("qrels", "q1\td1\n", r"qrels\.tsv:1: .*tab-separated"),
        ("qrels", "q1\td1\tyes\n", r"qrels\.tsv:1: .*tab-separated"),
        ("qrels", "q1\td1\t1.5\n", r"qrels\.tsv:1: .*whole number"),
        ("qrels", "q1\td1\tnan\n", r"qrels\.tsv:1: .*whole number"),
        ("qrels", "q1\td1\t1e308\n", r"qrels\.tsv:1: .*at most 1000"),
        ("qrels", "q9\td1\t1\n", "at least one relevant"),
        ("corpus", '{"_id": "d1", "text": "a \\ud800"}\n', r"corpus\.jsonl:1: .*lone surrogate"),
        ("queries", '{"_id": "q1", "text": "", "title": "\\udfff"}\n', r"queries\.jsonl:1: .*lone surrogate"),
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


def test_graded_judgments_score_as_trec_eval_scores_them() -> None:
    """Zero and negative grades, documents that the corpus lacks, ties and short rankings included; a binary nDCG, an
    ideal without the absent, or ties in the order of the corpus would each fail."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(0)
    corpus = {f"d{number}": f"text {number}" for number in range(150)}
    queries = {f"q{number}": f"query {number}" for number in range(30)}
    judged = {
        query: {f"d{document}": int(grade) for document, grade in zip(*each, strict=True)}
        for query in queries
        if (each := (rng.choice(160, 12, replace=False), rng.integers(-1, 5, 12)))
    }
    scores_QN = np.round(rng.uniform(1, 2, (30, 150)), 1)
    scores_QN[:5, 7:] = 0.0  # found by nothing

    class Scored(System):
        def search(self, queries: Sequence[str], documents: Sequence[str], k: int) -> list[Hits]:
            rows = [scores_QN[int(query.split()[1])] for query in queries]
            return [[(int(n), float(row[n])) for n in np.argsort(-row, kind="stable") if row[n]] for row in rows]

    task = RetrievalTask(
        "toy",
        queries,
        corpus,
        {query: {key: g for key, g in found.items() if g > 0} for query, found in judged.items()},
    )
    run = {f"q{q}": {f"d{n}": float(s) for n, s in enumerate(row) if s} for q, row in enumerate(scores_QN)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.1,10,100"}).evaluate(run)
    top = {q: dict(sorted(found.items(), key=lambda hit: (hit[1], hit[0]))[-10:]) for q, found in run.items()}
    reciprocal = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(top)
    expected = {
        "ndcg@10": np.mean([each["ndcg_cut_10"] for each in theirs.values()]),
        "mrr@10": np.mean([each["recip_rank"] for each in reciprocal.values()]),
        **{f"recall@{k}": np.mean([each[f"recall_{k}"] for each in theirs.values()]) for k in (1, 10, 100)},
    }
    assert task.score(Scored()) == pytest.approx(expected, abs=1e-12)


def test_a_query_that_is_a_document_is_no_candidate_for_itself(tmp_path: Path) -> None:
    """ArguAna's shape.  An equal id of another text, or a document judged relevant to itself, stays a candidate."""
    corpus = {"a": ("On cats", "Cats are  good"), "b": ("", "cats are not good"), "1": ("", "one"), "s": ("", "self")}
    rows = [{"_id": key, "title": title, "text": text} for key, (title, text) in corpus.items()]
    queries = [{"_id": key, "text": text} for key, text in (("a", "cats are good"), ("1", "uno"), ("s", "self"))]
    folder = task_folder(
        tmp_path / "toy",
        corpus="".join(json.dumps(row) + "\n" for row in rows),
        queries="".join(json.dumps(row) + "\n" for row in queries),
        qrels="a\tb\t1\n1\tb\t1\ns\ts\t1\n",
    )
    task = RetrievalTask.from_folder(folder)
    assert task.own == {"a"}
    assert task.notes == ("1 of the queries are documents under the same id, and no candidates for themselves",)
    order = {"cats are good": ["On cats Cats are  good", "cats are not good"], "uno": ["one", "cats are not good"]}
    assert task.score(Fixed(order | {"self": ["self"]}))["mrr@10"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_unknown_ids_count_as_in_beir_and_are_said(tmp_path: Path) -> None:
    """An absent document stays in the ideal ranking and in the recall; an absent query is left out."""
    task = RetrievalTask.from_folder(task_folder(tmp_path / "toy", qrels="q1\td1\t1\nq1\td9\t2\nq9\td1\t1\n"))
    scores = task.score(Fixed({"uno": ["one", "Two two"]}))
    assert scores["ndcg@10"] == pytest.approx(1 / (2 + 1 / math.log2(3)))
    assert scores["recall@10"] == 0.5
    assert task.counts["queries"] == 1
    absent, unknown = task.notes
    assert "'d9'" in absent
    assert "'q9'" in unknown


@pytest.mark.parametrize(
    "qrels",
    [
        "q1 0 d1 1\nq2 Q0 d2 2\n",
        "query_id\tdoc_id\trelevance\nq1\td1\t1\nq2\td2\t2\n",
        "query-id\titer\tcorpus-id\tscore\nq1\t0\td1\t1\nq2\t0\td2\t2\n",
        "q1 0\td1\t1\nq2\td2\t2.0\n",
    ],
)
def test_forms_of_judgments(tmp_path: Path, qrels: str) -> None:
    """TREC's four columns, any header, and ids apart by spaces are read alike."""
    task = RetrievalTask.from_folder(task_folder(tmp_path / "toy", qrels=qrels))
    assert task.relevant == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert task.notes == ()


@pytest.mark.parametrize("name", ["qrels/test.tsv", "qrels/test.tsv.gz"])
def test_a_folder_laid_out_as_beir_lays_it_out_is_read(tmp_path: Path, name: str) -> None:
    """BEIR keeps its judgments a split a file; qrels.tsv alone was looked for."""
    import gzip

    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "", "text": "a river"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "river"}\n')
    (tmp_path / "qrels").mkdir()
    content = b"query-id\tcorpus-id\tscore\nq1\td1\t2\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert RetrievalTask.from_folder(tmp_path).relevant == {"q1": {"d1": 2}}
