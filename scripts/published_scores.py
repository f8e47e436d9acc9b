"""The table of published scores that ships, from a clone of the MTEB results.

    git clone https://github.com/embeddings-benchmark/results
    python scripts/published_scores.py results

Scores are read through the mteb library: each task's own splits, languages and main score.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path

import mteb
import typer
from mteb.abstasks import AbsTask
from mteb.results import TaskResult

from isoembed.core import write_atomically
from isoembed.published import FILE, PublishedModel, PublishedScores

BENCHMARKS = ("MTEB(eng, v2)", "NanoBEIR")
MODELS = (
    "mteb/baseline-bm25s",
    "minishlab/potion-base-8M",
    "minishlab/potion-base-32M",
    "sentence-transformers/static-retrieval-mrl-en-v1",
    "sentence-transformers/all-MiniLM-L6-v2",
    "Snowflake/snowflake-arctic-embed-xs",
    "intfloat/e5-small-v2",
    "BAAI/bge-small-en-v1.5",
    "BAAI/bge-base-en-v1.5",
    "ibm-granite/granite-embedding-small-english-r2",
    "nomic-ai/nomic-embed-text-v1.5",
    "codefuse-ai/F2LLM-v2-80M",
    "codefuse-ai/F2LLM-v2-160M",
    "codefuse-ai/F2LLM-v2-330M",
    "codefuse-ai/F2LLM-v2-0.6B",
    "google/embeddinggemma-300m",
    "Qwen/Qwen3-Embedding-0.6B",
    "intfloat/e5-mistral-7b-instruct",
)


def git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=True).stdout


def score(clone: Path, revisions: list[str], task: AbsTask) -> float | None:
    """Of the first revision that has the whole of it."""
    for revision in revisions:
        try:
            text = git(clone, "show", f"HEAD:{revision}/{task.metadata.name}.json")
        except subprocess.CalledProcessError:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            file.write_text(text)
            try:
                found = float(TaskResult.from_disk(file).validate_and_filter_scores(task).get_score())
            except (ValueError, KeyError):  # a split or a language is missing
                continue
        if math.isfinite(found):
            return round(found, 5)
    return None


def of_model(clone: Path, name: str, tasks: dict[str, AbsTask]) -> PublishedModel:
    meta = mteb.get_model_meta(name)
    folders = git(clone, "ls-tree", "--name-only", "HEAD", f"results/{name.replace('/', '__')}/").split()
    # what the library ran before what authors reported themselves; what has no revision is of no known model
    revisions = sorted((each for each in folders if "no_revision" not in each), key=lambda each: "external" in each)
    scores = {task: found for task, each in tasks.items() if (found := score(clone, revisions, each)) is not None}
    print(f"{name}: {len(scores)} tasks", flush=True)
    table = meta.n_embedding_parameters
    return PublishedModel(
        name=name, parameters=meta.n_parameters or None, table_parameters=table or None, scores=scores
    )


def main(clone: Path) -> None:
    benchmarks = {name: list(mteb.get_benchmark(name).tasks) for name in BENCHMARKS}
    tasks = {task.metadata.name: task for each in benchmarks.values() for task in each}
    found = PublishedScores(
        source="https://github.com/embeddings-benchmark/results",
        commit=git(clone, "rev-parse", "HEAD").strip(),
        benchmarks={name: tuple(task.metadata.name for task in each) for name, each in benchmarks.items()},
        types={name: str(task.metadata.type) for name, task in tasks.items()},
        models=tuple(of_model(clone, name, tasks) for name in MODELS),
    )
    write_atomically(FILE, json.dumps(found.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
