"""Run the library's tasks on a model, one after the other, each result kept as soon as it is there."""

from __future__ import annotations

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
from isoembed.evaluation.mteb.scores import BenchmarkScore


def run_tasks(
    model: SentenceTransformerEncoderWrapper, tasks: Sequence[AbsTask], results: Path, *, batch_texts: int = 32
) -> Iterator[BenchmarkScore]:
    """The main score of each task; the library's whole result lies in `results`, in its own layout
    (results/MODEL/REVISION/TASK.json), and what lies there already for this revision and these data is not run again.

    batch_texts: texts a forward pass.  Raises InputError where a task's data cannot be had from the hub.
    """
    with quiet():
        cache = mteb.ResultCache(results)
        for task in tasks:
            started = time.perf_counter()
            try:
                found = mteb.evaluate(
                    model,
                    task,
                    cache=cache,
                    co2_tracker=False,
                    show_progress_bar=False,
                    encode_kwargs={"batch_size": batch_texts, "show_progress_bar": False},
                )
            except (ConnectionError, HfHubHTTPError, DatasetNotFoundError) as error:
                raise InputError(
                    f"The data of {task.metadata.name} must come from the model hub, which cannot be reached or "
                    f"refuses ({str(error).strip().splitlines()[0]}). Run tasks of local files instead (--data FOLDER --mteb "
                    "local), or fetch the data where there is a network and bring the cache (HF_HOME) along."
                ) from None
            (result,) = found.task_results
            yield BenchmarkScore(
                task=task.metadata.name,
                type=task.metadata.type,
                metric=task.metadata.main_score,
                score=float(result.get_score()),
                data_revision=result.dataset_revision,
                seconds=time.perf_counter() - started,
            )
