"""A ledger as one flat table: one run per row, for other people's tools."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from isoembed.core import InputError, write_atomically
from isoembed.records import FailedRun, RunRecord

#: what a spreadsheet takes for the beginning of a formula, or passes over before one; those of full width in Asia
_FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


def write_table(outcomes: Iterable[RunRecord | FailedRun], file: Path) -> None:
    """Write the runs as `file`, .parquet or .csv.

    Columns `params` (N, non-embedding), `total_params`, `tokens` (D), `flop` (C), `fraction` (S, trained share of the
    forward pass's parameters), `loss` (held-out) and `method` are the ones that `isoembed fit` looks for.  A score of
    the name of another column is `score NAME`.
    """
    rows = [row_of(outcome) for outcome in outcomes]
    if not rows:
        raise InputError("A table needs runs; the ledger holds none. Run the sweep first.")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    if file.suffix == ".csv":
        columns = {_no_formula(name): list(map(_no_formula, values)) for name, values in columns.items()}
    table = pa.table(columns)
    content = io.BytesIO()
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(table, content)
    elif file.suffix == ".csv":
        pyarrow.csv.write_csv(table, content)
    else:
        raise InputError(f"A table must end in .parquet, .csv or .jsonl.gz; got {file.name}. Rename it.")
    write_atomically(file, content.getvalue())


def _no_formula(cell: Any) -> Any:
    """`cell` with a quote before a text that a spreadsheet would run as a formula, as spreadsheets themselves write
    it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(tuple(_FORMULA)) else cell


def row_of(outcome: RunRecord | FailedRun) -> dict[str, Any]:
    """One run, flat; None where a failed one has no value."""
    recipe, cost = outcome.recipe, outcome.recipe.cost
    row: dict[str, Any] = {
        "key": outcome.key,
        "status": outcome.status,
        "model": recipe.model.name,
        "method": recipe.method.name,
        "label": recipe.method.label,
        "params": recipe.model.params,
        "total_params": recipe.model.total_params,
        "fraction": cost.trained_share,
        "seed": recipe.seed,
        "batch_pairs": recipe.batch_pairs,
        "context_tokens": recipe.context_tokens,
        "temperature": recipe.temperature,
        "pooling": recipe.pooling,
        "negatives": recipe.data.negatives,
        "options": str(recipe.options),
        "learning_rate": recipe.learning_rate,
        "unique_pairs": recipe.unique,
        "epochs": recipe.epochs,
        "tokens": None,
        "flop": None,
        "loss": None,
        "failure": None,
    }
    if isinstance(outcome, FailedRun):
        return row | {"failure": outcome.failures[-1]}
    heldout = outcome.heldout
    row |= {
        "tokens": outcome.tokens,
        "flop": outcome.model_flop,
        "loss": None if heldout is None else heldout.loss,
        "heldout_fingerprint": None if heldout is None else heldout.fingerprint,
        "training_loss": outcome.final_loss,
        "steps": outcome.steps,
        "executed_flop": outcome.executed_flop,
        "all_in_flop": outcome.all_in_flop,
        "wall_seconds": outcome.wall_seconds,
        "peak_memory_bytes": outcome.peak_memory_bytes,
    }
    return row | {f"score {name}" if name in row else name: score for name, score in outcome.scores.items()}
