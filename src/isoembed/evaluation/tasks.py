"""From a path to tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from isoembed.core import InputError, check_named
from isoembed.evaluation.mteb.task import LIBRARY_KINDS, LibraryTask
from isoembed.evaluation.readers import task_folders
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.sts import StsTask

Task = RetrievalTask | StsTask | LibraryTask

#: kinds that need nothing but this package: what a folder of tasks is searched for
READERS: dict[str, Callable[[Path], Task]] = {"retrieval": RetrievalTask.from_folder, "sts": StsTask.from_path}
#: every kind, those that the MTEB library scores included
ALL_READERS = READERS | {kind: partial(LibraryTask.from_folder, kind) for kind in LIBRARY_KINDS}


def open_task(kind: str, path: Path) -> Task:
    """The task of `kind` (one of ALL_READERS) at `path`; raises InputError where there is none."""
    check_named("task", kind, ALL_READERS)
    if not path.exists():
        raise InputError(f"The {kind} task must exist; there is nothing at {path}.")
    return ALL_READERS[kind](path)


def open_tasks(folder: Path) -> tuple[Task, ...]:
    """Every task of a folder with retrieval/NAME and sts/NAME in it, by kind and name; other kinds are passed over."""
    tasks = tuple(open_task(kind, path) for kind, path in task_folders(folder, READERS))
    if not tasks and (folder / "corpus.jsonl").is_file():
        raise InputError(f"{folder} is one retrieval task: say so with `task=retrieval`.")
    if not tasks:
        raise InputError(
            f"A folder of tasks must hold retrieval/NAME or sts/NAME; {folder} does not. Name another one."
        )
    return tasks
