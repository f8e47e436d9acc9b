"""`isoembed eval` by the library: the MTEB library on an exported folder, its scores kept with the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isoembed.core import InputError
from isoembed.encoder.certificate import earlier_certificate
from isoembed.encoder.export import MARKER
from isoembed.encoder.exported import MODULES
from isoembed.encoder.statement import fingerprints
from isoembed.evaluation.mteb.library import require
from isoembed.evaluation.mteb.scores import BenchmarkScore, BenchmarkScores
from isoembed.records import RECORD, RunRecord

_LOG = logging.getLogger(__name__)
#: folder of the library's own results, beside the model
RESULTS = "mteb"
#: with local data: all tasks of the folder
ALL_LOCAL = "local"


def benchmark(
    folder: Path,
    names: Sequence[str],
    *,
    data: Path | None = None,
    kind: str | None = None,
    prompts: Mapping[str, str] | None = None,
    results: Path | None = None,
    progress: Callable[[BenchmarkScore], None] | None = None,
) -> BenchmarkScores:
    """Score the exported model in `folder` on the tasks that `names` name.

    names: presets, benchmarks or tasks of the library; with `data`, tasks of local files: `local` for all, KIND, or
        KIND/NAME.  With `kind`, `data` is one task's folder.
    results: folder of the library's result files; default: mteb/ beside a model that isoembed exported.
    progress: told of each score as it comes.

    Each score goes into the model's record (`task/metric`) as it comes, unless the weights have changed since that was
    written.  Raises InputError where the folder holds no
    exported model, a name is unknown, or data cannot be had.
    """
    require()
    if not (folder / MODULES).is_file():
        raise InputError(
            f"`mteb` must be given an exported model; {folder} holds no {MODULES}. Train one with `isoembed train`."
        )
    if results is None:
        if not (folder / MARKER).is_file():
            raise InputError(
                f"`results` must name a folder for the results, because {folder} is no export of isoembed's; add it."
            )
        results = folder / RESULTS

    from isoembed.evaluation.mteb.benchmark import run_tasks
    from isoembed.evaluation.mteb.model import open_model
    from isoembed.evaluation.mteb.presets import LEFT_OUT_OF_MEAN

    tasks = _tasks(names, data, kind)  # before the model is loaded: a misspelt name costs nothing
    model = open_model(folder, prompts)
    meta = model.mteb_model_meta
    of_its_record = _as_certified(model, folder)
    if not of_its_record and (folder / RECORD).is_file():
        _LOG.warning("The scores are not put into %s: the weights have changed since it was written.", RECORD)
    scores = BenchmarkScores(
        model=str(meta.name),
        revision=str(meta.revision),
        library=version("mteb"),
        prompts=dict(prompts or {}),
        tasks=(),
        left_out=tuple(sorted(LEFT_OUT_OF_MEAN)) if "paper" in names else (),
    )
    for score in run_tasks(model, tasks, results):
        scores = scores.model_copy(update={"tasks": (*scores.tasks, score)})
        if of_its_record:
            _into_record(folder / RECORD, scores)
        if progress is not None:
            progress(score)
    return scores


def _tasks(names: Sequence[str], data: Path | None, kind: str | None) -> list[Any]:
    """The library's tasks that `names` name, as of `benchmark`."""
    from isoembed.evaluation.mteb.local import local_task, local_tasks
    from isoembed.evaluation.mteb.presets import tasks_named

    if data is not None:
        return (
            [local_task(kind, data)] if kind is not None else [*local_tasks(data, () if ALL_LOCAL in names else names)]
        )
    if ALL_LOCAL in names:
        raise InputError("`mteb=local` needs the folder of the tasks; name it with `data`.")
    return tasks_named(names)


def _as_certified(model: Any, folder: Path) -> bool:
    """Whether the weights are those that the folder was written with, as its certificate has them."""
    stated = earlier_certificate(folder).statement
    found = fingerprints(model.model[0].auto_model)
    return stated is None or stated.tensors == {name: str(tensor) for name, tensor in found.items()}


def _into_record(file: Path, scores: BenchmarkScores) -> None:
    """Add the scores to the model's record, where it has one."""
    if file.is_file():
        record = RunRecord.load(file)
        record.model_copy(update={"scores": {**record.scores, **scores.as_record()}}).save(file)
