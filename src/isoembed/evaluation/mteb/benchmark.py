"""Run the library's tasks on a model, one after the other, each result kept as soon as it is there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mteb
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from mteb.abstasks import AbsTask
from mteb.models import SentenceTransformerEncoderWrapper

from isoembed.core import InputError
from isoembed.evaluation.mteb.library import quiet
from isoembed.evaluation.mteb.model import SystemEncoder
from isoembed.evaluation.mteb.scores import BenchmarkScore
from isoembed.hub import hub_or_cache


def run_tasks(
    model: SentenceTransformerEncoderWrapper | SystemEncoder,
    tasks: Sequence[AbsTask],
    results: Path | None,
    *,
    batch_texts: int = 32,
) -> Iterator[BenchmarkScore]:
    """The main score of each task; the library's whole result lies in `results`, in its own layout
    (results/MODEL/REVISION/TASK.json), and what lies there already for this revision and these data is not run again.
    With None nothing is kept.

    batch_texts: texts a forward pass.  Raises InputError where a task's data cannot be had from the hub.
    """
    cache = None if results is None else mteb.ResultCache(results)
    for task in tasks:
        started = time.perf_counter()
        try:
            with quiet(), hub_or_cache():
                found = mteb.evaluate(
                    model,
                    task,
                    cache=cache,
                    overwrite_strategy="always"
                    if cache is not None and _is_stale(cache, model, task)
                    else "only-missing",
                    co2_tracker=False,
                    public_only=False,  # private data that cannot be had are an error here too
                    show_progress_bar=False,
                    encode_kwargs={"batch_size": batch_texts, "show_progress_bar": False},
                )
        except (ConnectionError, HfHubHTTPError, DatasetNotFoundError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"The data of {task.metadata.name} must come from the model hub, which cannot be reached or refuses "
                f"({reason}). Run tasks of local files instead (`mteb=local`, their folder as `data`), or fetch the "
                "data where there is a network and bring the cache (HF_HOME) along."
            ) from None
        (result,) = found.task_results
        score = float(result.get_score())
        yield BenchmarkScore(
            task=task.metadata.name,
            type=task.metadata.type,
            metric=task.metadata.main_score,
            score=score if math.isfinite(score) else None,
            data_revision=result.dataset_revision,
            seconds=time.perf_counter() - started,
        )


def _is_stale(cache: mteb.ResultCache, model: SentenceTransformerEncoderWrapper | SystemEncoder, task: AbsTask) -> bool:
    """Whether the kept result is of other data, or damaged.  The library compares data only where it merges results,
    and would hand it out."""
    try:
        kept = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
    except (ValueError, KeyError, TypeError):  # whatever is left of a file whose writer was killed
        return True
    return kept is not None and kept.dataset_revision != task.metadata.revision
