"""`isoembed eval`: a model scored beside its baselines, or by the MTEB library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson, PrecisionName
from isoembed.cli.parse import named_texts
from isoembed.core import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from isoembed.evaluation.mteb.scores import BenchmarkScores
    from isoembed.evaluation.score import Scores


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Files to score on, and of what."""

    panel: ClassVar[str] = "Data"

    data: Annotated[
        Path | None, typer.Option(help="folder of one task, or of tasks as retrieval/NAME and sts/NAME")
    ] = None
    task: Annotated[str | None, typer.Option(help="retrieval, sts or another kind, where --data is one task")] = None
    truncate_dim: Annotated[
        int | None,
        typer.Option(help="score by the first so many dimensions of the embeddings alone", rich_help_panel="Model"),
    ] = None
    quantized: Annotated[
        bool,
        typer.Option(
            "--quantized", help="score embeddings kept as int8 and as single bits too", rich_help_panel="Model"
        ),
    ] = False
    precision: PrecisionName = "auto"


@dataclass(frozen=True, kw_only=True)
class MTEBOptions:
    """What the MTEB library scores."""

    panel: ClassVar[str] = "MTEB"

    mteb: Annotated[
        list[str] | None,
        typer.Option(
            help="with the MTEB library: paper, nano-beir, eng-v2, a benchmark or a task; with --data local, KIND or "
            "KIND/NAME; may be repeated"
        ),
    ] = None
    prompt: Annotated[
        list[str] | None, typer.Option(help="with --mteb: query=TEXT, document=TEXT or TASK=TEXT; may be repeated")
    ] = None
    results: Annotated[
        Path | None, typer.Option(help="with --mteb: folder of the library's results; default: mteb/ in the model's")
    ] = None


def evaluate(
    model: Annotated[str, typer.Argument(help="folder of an exported model, or a base model's name, hub id or folder")],
    tasks: TaskOptions,
    library: MTEBOptions,
    out: Annotated[
        Path | None, typer.Option(help="also write the scores to this file", rich_help_panel="Output")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on retrieval and STS files beside its untrained base, the static table and BM25; or, with --mteb,
    on the tasks of the MTEB library or on local files through it."""
    from isoembed.core import write_atomically

    terminal.no_library_bars()
    scores, text = (_by_library if library.mteb else _by_files)(model, tasks, library)
    if out is not None:
        write_atomically(out, scores.model_dump_json(indent=1) + "\n")
    if as_json:
        terminal.print_json(scores.model_dump(mode="json"))
    else:
        terminal.console().print(text)


def _by_library(model: str, tasks: TaskOptions, library: MTEBOptions) -> tuple[BenchmarkScores, RenderableType]:
    if tasks.truncate_dim is not None or tasks.quantized:
        raise InputError(
            "`--truncate-dim` and `--quantized` do not go with --mteb, which scores whole embeddings; leave them out."
        )
    from isoembed.published import published_scores
    from isoembed.report.terminal.scores import benchmark_text, times_100
    from isoembed.workflows.benchmark import benchmark

    scores = benchmark(
        Path(model),
        library.mteb or [],
        data=tasks.data,
        kind=tasks.task,
        prompts=named_texts(library.prompt),
        results=library.results,
        progress=lambda score: terminal.say(f"{score.task}: {times_100(score.score)} {score.metric}", err=True),
    )
    return scores, benchmark_text(scores, published_scores())


def _by_files(model: str, tasks: TaskOptions, library: MTEBOptions) -> tuple[Scores, RenderableType]:
    from isoembed.encoder.precision import precision_named
    from isoembed.report.terminal.recommendation import scores_text
    from isoembed.workflows.job import evaluate_folder
    from isoembed.workflows.models import source_of

    if tasks.data is None or library.prompt or library.results:
        raise InputError("`isoembed eval` needs --data FOLDER or --mteb NAME; --prompt and --results go with --mteb.")
    scores = evaluate_folder(
        source_of(model),
        tasks.data,
        kind=tasks.task,
        dims=tasks.truncate_dim,
        quantized=tasks.quantized,
        precision=precision_named(tasks.precision),
    )
    return scores, scores_text(scores)
