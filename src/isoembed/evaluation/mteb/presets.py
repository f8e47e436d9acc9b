"""From names to the library's tasks: presets, whole benchmarks, single tasks."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import mteb
from mteb.abstasks import AbsTask

from isoembed.core import InputError
from isoembed.evaluation.mteb.library import quiet
from isoembed.records import ScoreName

#: the paper's subset (appendix B), by the names and in the versions of its time; Tatoeba is no part of its mean
PAPER = (
    "EmotionClassification",
    "TwentyNewsgroupsClustering",
    "SprintDuplicateQuestions",
    "AskUbuntuDupQuestions",
    "SciFact",
    "STS15",
    "SummEval",
    "Tatoeba",
)
LEFT_OUT_OF_MEAN = frozenset({"Tatoeba"})
#: short names of the library's benchmarks; its own names, as "MTEB(eng, v2)", are taken too
BENCHMARKS = {"nano-beir": "NanoBEIR", "eng-v2": "MTEB(eng, v2)"}


def tasks_named(names: Iterable[str]) -> list[AbsTask]:
    """The tasks of each preset, benchmark or task name, each once, in the order given.

    Raises InputError where a name is none of these, or a task is not of texts alone.
    """
    found: dict[str, AbsTask] = {}
    with quiet():
        for name in names:
            for task in _tasks(name):
                if task.metadata.modalities != ["text"]:
                    raise InputError(
                        f"A text model can be scored on tasks of texts only; {task.metadata.name} has "
                        f"{', '.join(task.metadata.modalities)}. Leave {name!r} out."
                    )
                found.setdefault(task.metadata.name, task)
    return list(found.values())


def task_types(names: Iterable[str]) -> dict[str, str]:
    """The library's type of each name that is one of its tasks, as `TASK` or `TASK/METRIC`; others are left out."""
    found = {}
    with quiet():
        for name in names:
            try:
                found[name] = str(mteb.get_task(ScoreName.of(name).task).metadata.type)
            except KeyError:
                continue
    return found


def _tasks(name: str) -> list[AbsTask]:
    if name == "paper":
        return [mteb.get_task(task) for task in PAPER]
    try:
        return list(mteb.get_benchmark(BENCHMARKS.get(name, name)).tasks)
    except KeyError:
        pass
    try:
        return [mteb.get_task(name)]
    except KeyError:
        with quiet():
            known = ["paper", *BENCHMARKS, *(task.metadata.name for task in mteb.get_tasks())]
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(
            f"`mteb` must be paper, {', '.join(BENCHMARKS)}, a benchmark or a task of the mteb library, or with "
            f"`data` the tasks in that folder; got {name!r}{hint} `mteb available-tasks` lists them."
        ) from None
