"""The MTEB library on a tiny exported model: our numbers, its files, its prompts; no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file

from isoembed.core import InputError
from isoembed.evaluation.mteb.task import LIBRARY_KINDS
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.sts import StsTask
from isoembed.evaluation.systems import BM25
from isoembed.records import RunRecord
from isoembed.workflows.benchmark import benchmark
from isoembed.workflows.sweep import open_all
from tests.evaluation.mteb.small import exported, texts, write_rows, write_tasks

mteb = pytest.importorskip("mteb", reason="mteb is not installed; it comes with isoembed[mteb]")


def scores_of(model: Path, *names: str, data: Path | None = None, **options: Any) -> dict[str, float | None]:
    return {score.task: score.score for score in benchmark(model, names, data=data, **options).tasks}


def average_precision(labels: list[bool], cosine: np.ndarray) -> float:
    """Mean, over the matches, of the share of matches down to each."""
    ranked = np.array(labels)[np.argsort(-cosine)]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def kept(model: Path, revision: str, task: str) -> Any:
    """What the library wrote."""
    file = model / "mteb" / "results" / f"isoembed__{model.name}" / revision / f"{task}.json"
    return mteb.results.TaskResult.from_disk(file)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("what is known already was computed again")


def test_local_tasks_score_as_our_evaluators_and_by_hand(tmp_path: Path) -> None:
    model, ours = exported(tmp_path)
    data = write_tasks(tmp_path / "tasks")
    told: list[str] = []
    found = benchmark(model, ["local"], data=data, progress=lambda score: told.append(score.task))
    scores = {score.task: score.score for score in found.tasks}
    assert list(scores) == told
    assert {task.removeprefix("local-") for task in scores} == {
        *("retrieval-t", "reranking-r", "sts-s", "pairclassification-p", "classification-c", "clustering-k")
    }

    retrieval = RetrievalTask.from_folder(data / "retrieval/t").score(ours)["ndcg@10"]
    assert scores["local-retrieval-t"] == pytest.approx(retrieval, abs=1e-4)
    assert scores["local-sts-s"] == pytest.approx(StsTask.from_path(data / "sts/s").score(ours)["spearman"], abs=1e-4)

    pairs = [json.loads(line) for line in (data / "pairclassification/p/test.jsonl").read_text().splitlines()]
    left, right = (ours.embed([row[key] for row in pairs]) for key in ("s1", "s2"))
    expected = average_precision([row["label"] == 1 for row in pairs], (left * right).sum(1))
    whole = kept(model, found.revision, "local-pairclassification-p").scores["test"][0]
    assert whole["cosine_ap"] == pytest.approx(expected, abs=1e-4)
    assert scores["local-pairclassification-p"] == pytest.approx(
        max(value for key, value in whole.items() if key.endswith("_ap")), abs=1e-4
    )

    precision = []
    for row in map(json.loads, (data / "reranking/r/test.jsonl").read_text().splitlines()):
        candidates = list(dict.fromkeys([*row["positive"], *row["negative"]]))
        cosine = ours.embed(candidates) @ ours.embed([row["query"]])[0]
        precision.append(average_precision([text in row["positive"] for text in candidates], cosine))
    assert scores["local-reranking-r"] == pytest.approx(float(np.mean(precision)), abs=1e-4)


def test_the_library_agrees_on_grades_own_ids_and_absent_documents(tmp_path: Path) -> None:
    """Binary grades, a query found as itself, or an id that is equal by chance left out would each tell them apart."""
    from isoembed.evaluation.mteb.benchmark import run_tasks
    from isoembed.evaluation.mteb.local import local_task
    from isoembed.evaluation.mteb.model import SystemEncoder

    _, ours = exported(tmp_path)
    folder, rng = tmp_path / "retrieval/g", np.random.default_rng(0)
    documents = texts(60, seed=1)
    queries = [*documents[:10], *texts(10, seed=5)]  # the first ten are documents, the others have a document's id
    for name, some in (("corpus", documents), ("queries", queries)):
        write_rows(folder / f"{name}.jsonl", [{"_id": f"{n}", "text": text} for n, text in enumerate(some)])
    judged = [(n, m, rng.integers(-1, 4)) for n in range(22) for m in rng.choice(65, 8, replace=False) if m != n]
    (folder / "qrels.tsv").write_text("".join(f"{n}\t{m}\t{grade}\n" for n, m, grade in judged))
    task = RetrievalTask.from_folder(folder)
    assert len(task.own) == 10
    (found,) = run_tasks(SystemEncoder(ours), [local_task("retrieval", folder)], None)
    assert found.score == pytest.approx(task.score(ours)["ndcg@10"], abs=1e-5)  # the library rounds to five digits


def test_our_systems_are_scored_through_the_librarys_classes_too(tmp_path: Path) -> None:
    model, ours = exported(tmp_path)
    data = write_tasks(tmp_path / "tasks")
    expected = benchmark(model, LIBRARY_KINDS, data=data).as_record()
    places = [str(data / kind / name) for kind, name in zip(LIBRARY_KINDS, "rpck", strict=True)]
    tasks = open_all(places)
    found = {
        f"local-{task.kind}-{task.name}/{metric}": value for task in tasks for metric, value in task.score(ours).items()
    }
    assert found == pytest.approx(expected, abs=1e-4)
    assert [task.score(BM25()) for task in tasks] == [{}] * 4
    assert tasks[0].counts == {"rows": 15}


def test_results_lie_in_the_librarys_format_and_in_the_record(tmp_path: Path) -> None:
    model, _ = exported(tmp_path)
    before = RunRecord.load(model / "record.json")
    found = benchmark(model, ["sts", "clustering/k"], data=write_tasks(tmp_path / "tasks"))
    for score in found.tasks:
        assert kept(model, found.revision, score.task).get_score() == pytest.approx(score.score, abs=1e-5)
    after = RunRecord.load(model / "record.json")
    assert after.scores == found.as_record()
    assert set(after.scores) == {"local-sts-s/cosine_spearman", "local-clustering-k/v_measure"}
    assert after.model_copy(update={"scores": before.scores}) == before
    weights = load_file(model / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    other = benchmark(model, ["sts"], data=tmp_path / "tasks")
    assert other.as_record() != {name: after.scores[name] for name in other.as_record()}
    assert RunRecord.load(model / "record.json") == after  # the weights are not those of the run


def test_kept_results_are_those_of_the_same_weights_data_and_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = exported(tmp_path)
    other, _ = exported(tmp_path / "other", shift=0.01)
    data, results = write_tasks(tmp_path / "tasks"), tmp_path / "results"
    first = benchmark(model, ["sts"], data=data, results=results)

    with monkeypatch.context() as patched:
        patched.setattr(mteb.models.SentenceTransformerEncoderWrapper, "encode", never)
        again = benchmark(model, ["sts"], data=data, results=results)
        assert again.tasks[0].score == pytest.approx(first.tasks[0].score, abs=1e-5)
        written = next((results / "results" / "isoembed__out" / first.revision).glob("local-*.json"))
        whole = written.read_text()
        written.write_text(whole[: len(whole) // 2])
        with pytest.raises(AssertionError, match="computed again"):  # the writer was killed
            benchmark(model, ["sts"], data=data, results=results)
        written.write_text(whole)
        with pytest.raises(AssertionError, match="computed again"):
            benchmark(other, ["sts"], data=data, results=results)
        with pytest.raises(AssertionError, match="computed again"):
            benchmark(model, ["sts"], data=data, results=results, prompts={"query": "x: ", "document": ""})
        with (data / "sts/s/test.jsonl").open("a") as file:
            file.write('{"s1": "sort a list", "s2": "open a file", "score": 0.3}\n')
        with pytest.raises(AssertionError, match="computed again"):
            benchmark(model, ["sts"], data=data, results=results)
    revisions = {path.name for path in (results / "results" / "isoembed__out").iterdir()}
    assert first.revision in revisions


@pytest.mark.parametrize("saved", [False, True], ids=["named", "saved with the model"])
def test_a_prompt_is_put_before_the_queries_alone(tmp_path: Path, saved: bool) -> None:
    model, _ = exported(tmp_path)
    plain, prefixed = write_tasks(tmp_path / "plain"), write_tasks(tmp_path / "prefixed")
    rows = [json.loads(line) for line in (plain / "retrieval/t/queries.jsonl").read_text().splitlines()]
    write_rows(prefixed / "retrieval/t/queries.jsonl", [row | {"text": f"sort axis {row['text']}"} for row in rows])
    expected = scores_of(model, "retrieval", data=prefixed)
    assert expected != scores_of(model, "retrieval", data=plain)
    prompts = {"query": "sort axis ", "document": ""}
    if saved:
        file = model / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": prompts}))
    found = scores_of(model, "retrieval", data=plain, prompts={} if saved else prompts)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_librarys_own_task_and_a_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ours = exported(tmp_path)

    def unreachable(**_: Any) -> Any:
        raise ConnectionError("Couldn't reach 'mteb/sts15-sts' on the Hub")

    monkeypatch.setattr("mteb.abstasks.abstask.load_dataset", unreachable)
    with pytest.raises(InputError, match=r"STS15 .*cannot be reached.*`mteb=local`, their folder as `data`"):
        benchmark(model, ["STS15"])

    left, right, human = texts(30, seed=5), texts(30, seed=6), np.linspace(0, 5, 30).tolist()
    rows = Dataset.from_dict({"sentence1": left, "sentence2": right, "score": human})
    monkeypatch.setattr("mteb.abstasks.abstask.load_dataset", lambda **_: DatasetDict({"test": rows}))
    expected = StsTask("s", tuple(left), tuple(right), tuple(human)).score(ours)["spearman"]
    assert scores_of(model, "STS15") == {"STS15": pytest.approx(expected, abs=1e-4)}
    assert set(RunRecord.load(model / "record.json").scores) == {"STS15/cosine_spearman"}


def test_an_undefined_score_is_missing(tmp_path: Path) -> None:
    model, _ = exported(tmp_path)
    write_rows(tmp_path / "tasks/sts/flat/test.jsonl", [{"s1": "a", "s2": "a", "score": n} for n in range(4)])
    found = benchmark(model, ["local"], data=tmp_path / "tasks")
    assert found.tasks[0].score is None
    assert found.mean is None
    assert found.as_record() == {}


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = exported(tmp_path)
    data = write_tasks(tmp_path / "tasks")
    for names, options, words in (
        (["STS51"], {}, r"did you mean 'STS\d+'\?"),
        (["local"], {}, "name it with `data`"),
        (["sts/x"], {"data": data}, r"sts/s.*got 'sts/x'"),
        (["local"], {"data": tmp_path / "base"}, "KIND/NAME"),
        (["local"], {"data": data / "sts/s", "kind": "poetry"}, "retrieval, reranking, sts.*got 'poetry'"),
        (["local"], {"data": data / "sts/s", "kind": "retrieval"}, r"corpus\.jsonl"),
        (["sts"], {"data": data, "prompts": {"question": "x"}}, "query, document.*got question"),
        (["VisualSTS15"], {}, "image|did you mean"),
    ):
        with pytest.raises(InputError, match=words):
            benchmark(model, names, **options)
    with pytest.raises(InputError, match=r"no modules\.json"):
        benchmark(tmp_path / "base", ["STS15"])
    (model / "isoembed.json").unlink()
    with pytest.raises(InputError, match="`results` must name a folder"):
        benchmark(model, ["sts"], data=data)
    write_rows(data / "reranking/r/test.jsonl", [{"query": "a", "positive": [], "negative": ["b"]}])
    with pytest.raises(InputError, match=r"test\.jsonl:1: a row needs texts"):
        benchmark(model, ["reranking"], data=data, results=tmp_path / "results")
    write_rows(data / "pairclassification/p/test.jsonl", [{"s1": "a", "s2": "b", "label": 2}])
    with pytest.raises(InputError, match="0 or 1; got 2"):
        benchmark(model, ["pairclassification"], data=data, results=tmp_path / "results")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'isoembed\[mteb\]'"):
        benchmark(model, ["sts"], data=data)
