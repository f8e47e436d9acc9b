"""`isoembed.fit`: a law of anybody's runs, wherever these are: a file, a ledger, records or a data frame at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from isoembed.core import InputError, checked, expanded
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import Target
from isoembed.fitting.io.runs import RunsSchema
from isoembed.fitting.study import HOLDOUTS, study_source
from isoembed.laws import laws_named
from isoembed.records import RunRecord
from isoembed.scratch import own_folder, scratch


@runtime_checkable
class DataFrame(Protocol):
    """A table of pandas, polars, pyarrow or duckdb: whatever hands out its columns as Arrow's."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


@checked
def fit(
    source: str | Path | Sequence[RunRecord] | DataFrame,
    law: str = "hoffmann",
    *,
    columns: Mapping[str, str] | None = None,
    method_column: str | None = None,
    candidates: int | None = None,
    family: str | None = None,
    target: Target = "heldout",
    draws: int = 1000,
    delta: float | None = None,
    holdout: Literal["largest", "largest-size", "largest-budget", "none"] = "largest",
) -> LawSet:
    """A law for every method in `source`: a CSV or Parquet file, a ledger, its records, or a data frame.

    law: a name, several (`a,b`), or `best`: compared on what is held out.
    columns: of the table, by what they hold: params (N), tokens (D), loss, flop (C), fraction, weight, run.
    candidates: texts among which a table's loss finds the right one, for the laws of the odds.
    family: of the models in a table whose losses are contrastive; a law without one serves fits and figures alone.
    draws: number of bootstrap samples; 0 for none.  delta: Huber width in ln loss; default: tied to the noise.
    N are non-embedding parameters, D real tokens, C model FLOP, losses nats.
    Raises InputError where no law can be fitted.
    """
    if draws < 0:
        raise InputError(f"`draws` must be at least 0, for no bootstrap; got {draws}. 1000 are usual.")
    schema = RunsSchema(
        columns=columns, method_column=method_column, candidates=candidates, family=family, target=target
    )
    with scratch(own_folder(), "fit-") if isinstance(source, DataFrame) else nullcontext(Path()) as folder:
        runs: Path | Sequence[RunRecord]
        if isinstance(source, DataFrame):
            runs = _written(source, folder)
        else:
            runs = expanded(source) if isinstance(source, str | Path) else source
        return study_source(runs, laws_named(law), schema, draws=draws, delta=delta, by=HOLDOUTS[holdout])


def _written(frame: DataFrame, folder: Path) -> Path:
    """The frame as a file in `folder`."""
    import pyarrow as pa
    import pyarrow.parquet

    file = folder / "data frame"
    try:
        pyarrow.parquet.write_table(pa.table(frame), file.with_suffix(".parquet"))
    except pa.ArrowException as error:
        raise InputError(f"A data frame must be a table of numbers and texts; this is none ({error}).") from None
    return file.with_suffix(".parquet")
