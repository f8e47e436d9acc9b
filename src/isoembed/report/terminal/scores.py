"""Benchmark scores and their correlations as aligned text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.fitting.correlation import Choice, Correlation
from isoembed.fitting.intervals import Interval
from isoembed.report.terminal.layout import columns_table, pairs_table, si

if TYPE_CHECKING:
    from isoembed.evaluation.mteb.scores import BenchmarkScores
    from isoembed.published import PublishedScores


def benchmark_text(scores: BenchmarkScores, published: PublishedScores) -> RenderableType:
    """Main scores times 100, as benchmark tables show them, task by task, and their means; beside them what is
    published of other models on the same tasks."""
    tasks = columns_table(
        ("task", "type", "main score", "x 100", "seconds"),
        [(task.task, task.type, task.metric, times_100(task.score), f"{task.seconds:.1f}") for task in scores.tasks],
    )
    rows = [("model", f"{scores.model}, revision {scores.revision} (mteb {scores.library})")]
    if scores.prompts:
        rows.append(("prompts", ", ".join(f"{name}={text!r}" for name, text in scores.prompts.items())))
    if scores.mean is not None and scores.mean_of_types is not None:
        left_out = [task.task for task in scores.tasks if task.task in scores.left_out]
        without = f", without {', '.join(left_out)}" if left_out else ""
        rows.append(
            ("mean", f"{100 * scores.mean:.2f} over tasks{without}; {100 * scores.mean_of_types:.2f} over types")
        )
    return Group(pairs_table(rows), Text(""), tasks, *_beside(scores, published))


def _beside(scores: BenchmarkScores, published: PublishedScores) -> list[RenderableType]:
    """Published means over those of the tasks that are published, this model's among them; [] where there are none."""
    own = {task.task: task.score for task in scores.tasks if task.score is not None}
    tasks, others = published.beside(own)
    if not others:
        return []
    rows = [(model.name, _size(model.parameters), mean) for model, mean in others]
    rows.append((f"{scores.model} (this model)", "", sum(own[task] for task in tasks) / len(tasks)))
    which = tasks[0] if len(tasks) == 1 else f"mean of {len(tasks)} of these tasks"
    table = columns_table(
        ("published", "parameters", f"{which} x 100"),
        [(name, size, times_100(mean)) for name, size, mean in sorted(rows, key=lambda row: -row[2])],
    )
    return [Text(""), table]


def published_text(scores: PublishedScores) -> RenderableType:
    """One row per model: parameters, of these in the token table, means times 100; best first."""
    full, nano = scores.benchmarks["MTEB(eng, v2)"], scores.benchmarks["NanoBEIR"]
    columns = (full, scores.of_type("MTEB(eng, v2)", "Retrieval"), nano)
    means = {model.name: [model.mean(tasks) for tasks in columns] for model in scores.models}
    table = columns_table(
        ("model", "parameters", "token table", "MTEB(eng, v2)", "its retrieval", "NanoBEIR"),
        [
            (model.name, _size(model.parameters), _size(model.table_parameters), *map(times_100, means[model.name]))
            for model in sorted(scores.models, key=lambda model: -(means[model.name][0] or 0.0))
        ],
    )
    return Group(table, Text(""), Text(f"Main scores x 100, from {scores.source} at {scores.commit[:8]}."))


def _size(parameters: int | None) -> str:
    return "-" if parameters is None else si(parameters)


def times_100(score: float | None) -> str:
    """A score as benchmark tables show it; `-` where it is undefined."""
    return "-" if score is None else f"{100 * score:.2f}"


def correlations_text(found: Sequence[Correlation]) -> RenderableType:
    """One row a score."""
    return columns_table(
        ("score", "runs", "Spearman", "95 % interval"),
        [(each.score, str(each.runs), *_rho(each.rho)) for each in found],
    )


def choices_text(choices: Sequence[Choice]) -> RenderableType:
    """The task chosen of each category, then every candidate."""
    chosen = columns_table(
        ("category", "chosen task", "Spearman", "95 % interval", "tasks", "models"),
        [(each.category, each.task, *_rho(each.rho), str(len(each.candidates)), str(each.rows)) for each in choices],
    )
    candidates = columns_table(
        ("category", "candidate", "Spearman with the category's mean"),
        [
            (each.category, task, "-" if rho is None else f"{rho:.3f}")
            for each in choices
            for task, rho in each.candidates.items()
        ],
    )
    return Group(chosen, Text(""), candidates)


def _rho(rho: Interval) -> tuple[str, str]:
    if rho.value is None:
        return "-", "no correlation: one side never varies"
    return f"{rho.value:.3f}", f"{rho.ends[0]:.3f} to {rho.ends[1]:.3f}"
