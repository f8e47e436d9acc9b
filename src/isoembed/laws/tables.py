"""Tables of anybody's runs, CSV or Parquet, as points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.core import InputError
from isoembed.laws.base import Law
from isoembed.laws.points import Points
from isoembed.laws.settings import Group, Tried, method_labelled

#: names under which a column is found when the user names none
COLUMNS: dict[str, tuple[str, ...]] = {
    "params": ("N", "params"),
    "tokens": ("D", "tokens"),
    "loss": ("loss", "L"),
    "flop": ("C", "flop"),
    "fraction": ("S", "fraction"),
    "weight": ("weight",),
    "run": ("run",),
}


def read_table(file: Path, law: Law, names: Mapping[str, str] | None = None) -> Points:
    """The runs in a CSV or Parquet file that `law` can be fitted to.

    names: column of the file for `params`, `tokens`, `loss`, `flop`, `fraction`, `weight` or `run`.  What is not named
    is looked up in COLUMNS, but only where the law reads it; C is 6 N D where neither named nor read.
    """
    return _points(file, read_columns(file), (law,), names)


def read_groups(
    file: Path,
    laws: Sequence[Law],
    names: Mapping[str, str] | None = None,
    method_column: str | None = None,
    candidates: int | None = None,
) -> list[Group]:
    """The runs of a table, one group a method where `method_column` names the method of each.

    Where one of `laws` reads the trained share, all hyperparameters of a method are one group; else those that the
    labels tell apart (`lora r=8`, `lora r=32`) are methods of their own.  `candidates` as in `Points.of`.
    """
    table = read_columns(file)
    points = replace(_points(file, table, laws, names), candidates=candidates)
    if method_column is None:
        return [Group(None, points, tuple(range(1, len(points) + 1)))]
    if method_column not in table:
        raise InputError(
            f"{file.name} needs a method column named {method_column}; it has {', '.join(table)}. Name one of them."
        )
    together = any("fraction" in law.also_reads for law in laws)
    members: dict[str, list[int]] = {}
    tried: dict[str, dict[str, Tried]] = {}
    for row, value in enumerate(table[method_column]):
        method = method_labelled(str(value))
        key = method.name if method is not None and together else str(value)
        members.setdefault(key, []).append(row)
        if method is not None:
            tried.setdefault(key, {})[method.label] = Tried(method=method)
    return [
        Group(key, points[np.array(rows)], tuple(row + 1 for row in rows), tuple(tried.get(key, {}).values()))
        for key, rows in members.items()
    ]


def _points(file: Path, table: dict[str, list[Any]], laws: Sequence[Law], names: Mapping[str, str] | None) -> Points:
    names = dict(names or {})
    if foreign := sorted(set(names) - set(COLUMNS)):
        raise InputError(f"Columns can be named for {', '.join(COLUMNS)}; got {', '.join(foreign)}.")

    def find(column: str, *, needed: bool) -> str | None:
        candidates = (names[column],) if column in names else COLUMNS[column]
        for name in candidates:
            if name in table:
                return name
        if needed or column in names:
            raise InputError(
                f"{file.name} needs a `{column}` column named {' or '.join(candidates)}; it has "
                f"{', '.join(table)}. Say which one it is with --{column}-col."
            )
        return None

    needed = {"loss", *(column for law in laws for column in law.varies)}
    also_read = {column for law in laws for column in law.also_reads}
    if "flop" in needed and find("flop", needed=False) is None:
        needed = needed - {"flop"} | {"params", "tokens"}
    values: dict[str, Any] = {}
    for column in COLUMNS:
        if column in needed or column in names or column in also_read:
            name = find(column, needed=column in needed)
            if name is not None:
                values[column] = table[name] if column == "run" else numbers_of(file, name, table[name])
    rows = len(values["loss"])
    # a law without N (or D) reads none: ones stand in
    return Points.of(**{"params": np.ones(rows), "tokens": np.ones(rows), **values})


def read_columns(file: Path) -> dict[str, list[Any]]:
    """The columns of a CSV or Parquet file as they stand; raises InputError where it is neither."""
    # imported here so that commands that read no table start fast
    import pyarrow.csv
    import pyarrow.parquet

    if not file.is_file():
        raise InputError(f"A table must be a file: {file} is not there. Check the path.")
    try:
        table = pyarrow.parquet.read_table(file) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file)
        return {name: table[name].to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is not a readable CSV or Parquet table ({str(error)[:200]}); check the file."
        ) from None


def numbers_of(file: Path, name: str, values: list[Any]) -> list[float]:
    """The values as numbers, not-a-number where one is missing; raises InputError naming the row that holds none."""
    numbers = []
    for row, value in enumerate(values, 1):
        try:
            numbers.append(float("nan") if value is None else float(value))
        except (TypeError, ValueError):
            raise InputError(
                f"Column {name} of {file.name} must hold numbers: row {row} is {value!r}; mend or remove the row."
            ) from None
    return numbers
