"""Published scores: the means that are known of them, and what stands beside one's own."""

from __future__ import annotations

import pytest
from rich.console import Console

from isoembed.evaluation.mteb.scores import BenchmarkScore, BenchmarkScores
from isoembed.published import published_scores
from isoembed.report.terminal.scores import benchmark_text


@pytest.mark.parametrize(
    ("name", "mean", "retrieval"),
    [
        ("minishlab/potion-base-8M", 53.3, 31.1),
        ("sentence-transformers/all-MiniLM-L6-v2", 59.0, 42.9),
        ("BAAI/bge-small-en-v1.5", 64.3, 53.9),
        ("google/embeddinggemma-300m", 69.7, 55.7),
        ("Qwen/Qwen3-Embedding-0.6B", 70.5, 61.8),
    ],
)
def test_means_are_those_of_the_public_table(name: str, mean: float, retrieval: float) -> None:
    """Fails where a task has another split, language or metric than the benchmark's."""
    scores = published_scores()
    (model,) = (each for each in scores.models if each.name == name)
    found = [model.mean(scores.benchmarks["MTEB(eng, v2)"]), model.mean(scores.of_type("MTEB(eng, v2)", "Retrieval"))]
    assert [round(100 * each, 1) for each in found if each is not None] == [mean, retrieval]


def test_only_models_with_all_of_the_tasks_are_compared() -> None:
    """BM25 has no score on STS: a mean over the rest would stand beside means over all."""
    known, models = published_scores().beside(["STSBenchmark", "ArguAna", "my own task"])
    assert known == ("STSBenchmark", "ArguAna")
    assert "mteb/baseline-bm25s" not in {model.name for model, _ in models}
    assert [mean for _, mean in models] == sorted((mean for _, mean in models), reverse=True)
    assert published_scores().beside(["my own task"]) == ((), [])


def test_a_models_own_scores_stand_among_the_published_ones() -> None:
    task = BenchmarkScore(
        task="STSBenchmark", type="STS", metric="cosine_spearman", score=0.8, data_revision="x", seconds=1.0
    )
    scores = BenchmarkScores(model="mine", revision="0", library="2", prompts={}, tasks=(task,))
    console = Console(width=120, record=True)
    console.print(benchmark_text(scores, published_scores()))
    lines = console.export_text().splitlines()
    (own,) = (number for number, line in enumerate(lines) if "(this model)" in line)
    assert "80.00" in lines[own]
    (better,) = (number for number, line in enumerate(lines) if "all-MiniLM-L6-v2" in line)
    assert better < own
    assert "82.03" in lines[better]
