"""The presets name tasks that the installed library has."""

from __future__ import annotations

import pytest

from isoembed.evaluation.mteb.scores import BenchmarkScore, BenchmarkScores

mteb = pytest.importorskip("mteb", reason="mteb is not installed; it comes with isoembed[mteb]")


def test_the_papers_subset_is_one_task_a_category() -> None:
    from isoembed.evaluation.mteb.presets import tasks_named

    types = {task.metadata.name: task.metadata.type for task in tasks_named(["paper"])}
    assert types == {
        "EmotionClassification": "Classification",
        "TwentyNewsgroupsClustering": "Clustering",
        "SprintDuplicateQuestions": "PairClassification",
        "AskUbuntuDupQuestions": "Reranking",
        "SciFact": "Retrieval",
        "STS15": "STS",
        "SummEval": "Summarization",
        "Tatoeba": "BitextMining",
    }


def test_benchmarks_tasks_and_repeats() -> None:
    from isoembed.evaluation.mteb.presets import task_types, tasks_named

    nano = tasks_named(["nano-beir"])
    assert len(nano) == 13
    assert all(task.metadata.name.startswith("Nano") for task in nano)
    english = [task.metadata.name for task in tasks_named(["eng-v2"])]
    assert len(english) == 41
    assert english == [task.metadata.name for task in tasks_named(["MTEB(eng, v2)", "STS15"])]  # STS15 is among them
    assert task_types(["STS15", "SciFact/ndcg_at_10", "loss"]) == {"STS15": "STS", "SciFact/ndcg_at_10": "Retrieval"}


def test_means_leave_out_what_the_paper_leaves_out() -> None:
    def score(task: str, kind: str, value: float) -> BenchmarkScore:
        return BenchmarkScore(task=task, type=kind, metric="m", score=value, data_revision="r", seconds=0.0)

    found = BenchmarkScores(
        model="isoembed/x",
        revision="r",
        library="2",
        prompts={},
        tasks=(
            score("A", "STS", 0.2),
            score("B", "STS", 0.4),
            score("C", "Retrieval", 0.9),
            score("Tatoeba", "B", 0.0),
        ),
        left_out=("Tatoeba",),
    )
    assert found.mean == pytest.approx(0.5)
    assert found.mean_of_types == pytest.approx((0.3 + 0.9) / 2)
