"""Tables in, `law.json` out."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from isoembed.core import Frozen, InputError, write_atomically
from isoembed.laws import law_named
from isoembed.laws.base import Law
from isoembed.laws.bootstrap import LEVEL, Bootstrap, Interval
from isoembed.laws.fit import Fit
from isoembed.laws.points import Points
from isoembed.laws.validate import Holdout

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
    table = _columns(file)
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

    needed = {"loss", *law.varies}
    if "flop" in needed and find("flop", needed=False) is None:
        needed = needed - {"flop"} | {"params", "tokens"}
    values: dict[str, Any] = {}
    for column in COLUMNS:
        if column in needed or column in names or column in law.also_reads:
            name = find(column, needed=column in needed)
            if name is not None:
                values[column] = table[name] if column == "run" else _numbers(file, name, table[name])
    rows = len(values["loss"])
    # a law without N (or D) reads none: ones stand in
    return Points.of(**{"params": np.ones(rows), "tokens": np.ones(rows), **values})


def _columns(file: Path) -> dict[str, list[Any]]:
    # imported here so that commands that read no table start fast
    import pyarrow.csv
    import pyarrow.parquet

    if not file.is_file():
        raise InputError(f"A table must be a file: {file} is not there. Check the path.")
    try:
        table = pyarrow.parquet.read_table(file) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is not a readable CSV or Parquet table ({str(error)[:200]}); check the file."
        ) from None
    return {name: table[name].to_pylist() for name in table.column_names}


def _numbers(file: Path, name: str, values: list[Any]) -> list[float]:
    numbers = []
    for row, value in enumerate(values, 1):
        try:
            numbers.append(float("nan") if value is None else float(value))
        except (TypeError, ValueError):
            raise InputError(
                f"Column {name} of {file.name} must hold numbers: row {row} is {value!r}; mend or remove the row."
            ) from None
    return numbers


class Draws(Frozen):
    """The bootstrap's refits, from which every later interval and recommendation is read."""

    seed: int
    runs: int = Field(description="independent runs drawn from")
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


class LawFile(Frozen):
    """`law.json`: one fitted law with its doubt, its validation and where it came from."""

    format: int = 1
    law: str
    method: str | None = Field(None, description="the fine-tuning method that the runs share")
    params: dict[str, Interval]
    objective: float
    n_points: int
    starts_agreeing: float
    status: str
    range: dict[str, tuple[float, float]]
    holdout: dict[str, Holdout]
    level: float = LEVEL
    fit: Fit
    without_outliers: Fit | None = Field(None, description="second fit where runs lie beyond five times the noise")
    draws: Draws | None
    data_fingerprint: str
    source: str
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        fit: Fit | Bootstrap,
        points: Points,
        *,
        source: str,
        method: str | None = None,
        holdouts: tuple[Holdout, ...] = (),
        without_outliers: Fit | None = None,
    ) -> LawFile:
        """Collect what a fit, or a bootstrap of it, found out."""
        boot = fit if isinstance(fit, Bootstrap) else None
        found = fit.fit if isinstance(fit, Bootstrap) else fit
        plain = {name: Interval(value=value, low=None, high=None) for name, value in found.params.items()}
        return cls(
            law=found.law,
            method=method,
            params=boot.intervals() if boot else plain,
            objective=found.objective,
            n_points=found.n_points,
            starts_agreeing=found.starts_agreeing,
            status=found.status,
            range=found.range,
            holdout={result.by: result for result in holdouts},
            fit=found,
            without_outliers=without_outliers,
            draws=None
            if boot is None
            else Draws(
                seed=boot.seed,
                runs=boot.runs,
                names=boot.law.names,
                values=tuple(tuple(row) for row in boot.theta_BP.tolist()),
            ),
            data_fingerprint=points.fingerprint,
            source=source,
            versions={name: version(name) for name in ("isoembed", "numpy", "scipy")},
        )

    def bootstrap(self) -> Bootstrap:
        """The bootstrap that the file holds; raises InputError where it was written without one."""
        if self.draws is None:
            raise InputError("A recommendation needs a law with its bootstrap; fit again with --bootstrap 1000.")
        return Bootstrap(law_named(self.law), self.fit, np.array(self.draws.values), self.draws.seed, self.draws.runs)

    def save(self, file: Path) -> None:
        """Write the law as JSON in full precision, atomically."""
        write_atomically(file, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> LawFile:
        """Read a law; raises InputError naming the file where it is damaged."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError:
            raise InputError(f"A law must be a file: {file} cannot be read. Write one with `isoembed fit`.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{file} is not a law ({where or 'JSON'}: {first['msg']}); fit it again.") from None
