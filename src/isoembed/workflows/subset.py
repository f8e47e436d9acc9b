"""A table of scores, anybody's, to the few tasks that stand for the rest."""

from __future__ import annotations

from pathlib import Path

from isoembed.core import InputError
from isoembed.fitting.correlation import Choice, choose
from isoembed.fitting.io.columns import Table


def choose_tasks(table: Path, categories: Path | None = None) -> tuple[Choice, ...]:
    """The task of each category that correlates most with its mean, in a table of models (rows) by tasks (columns).

    categories: a table of the columns `task` and `category`; default: a column named as a task of the mteb library
        (`TASK`, or `TASK/METRIC` as `ledger export` writes) has that task's type.  Other columns are passed over.

    Raises InputError where no column is a task, or too few models have scores.
    """
    columns = Table(table)
    names = columns.names
    chosen = _library_types(names) if categories is None else _named(categories, table, names)
    if not chosen:
        raise InputError(
            f"A score table must have columns named as tasks of the mteb library; {table.name} has "
            f"{', '.join(names)}. Rename them, or say which is what with `categories`."
        )
    return choose({name: column.tolist() for name, column in columns.read(list(chosen)).numbers.items()}, chosen)


def _named(file: Path, table: Path, names: list[str]) -> dict[str, str]:
    columns = Table(file)
    if missing := [name for name in ("task", "category") if name not in columns.names]:
        raise InputError(f"{file.name} must have the columns task and category; {missing[0]} is missing. Add it.")
    read = columns.read([], ["task", "category"]).texts
    named = {str(task): str(category) for task, category in zip(read["task"], read["category"], strict=True)}
    if unknown := [task for task in named if task not in names]:
        raise InputError(
            f"Every task of {file.name} must be a column of {table.name}; {unknown[0]!r} is none. Remove it."
        )
    return named


def _library_types(names: list[str]) -> dict[str, str]:
    from isoembed.evaluation.mteb.library import require

    require()
    from isoembed.evaluation.mteb.presets import task_types

    return task_types(names)
