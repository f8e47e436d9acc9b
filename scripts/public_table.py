"""All measured runs as one public table: size, tokens, share, FLOP, candidates, held-out loss and scores.

    python scripts/public_table.py            benchmarks/results/contrastive_losses.csv

The columns are described in docs/losses.md.  Sources: the nano study and the runs of its claim (a mixture of 17 public
pair sources), the docstrings of Python packages, and the runs that were forecast beforehand, as far as they were run.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from isoembed.core import write_atomically
from isoembed.records import Ledger, RunRecord
from isoembed.workflows.table import row_of

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
OUT = RESULTS / "contrastive_losses.csv"
#: name of the pairs -> ledgers and tables that hold runs on them
SOURCES = {
    "mixture": ("nano_study.jsonl.gz", "nano_claim.csv"),
    "docstrings": ("nano_docstrings.csv",),
    "forecast beforehand": ("preregistered.jsonl.gz",),
}
#: name here -> name in a sweep's table
COLUMNS = {
    "model": "model",
    "method": "method",
    "setting": "label",
    "N": "params",
    "N_with_table": "total_params",
    "S": "fraction",
    "D": "tokens",
    "C": "flop",
    "loss": "loss",
    "training_loss": "training_loss",
    "heldout_fingerprint": "heldout_fingerprint",
    "learning_rate": "learning_rate",
    "steps": "steps",
    "seed": "seed",
    "batch_pairs": "batch_pairs",
    "context_tokens": "context_tokens",
    "temperature": "temperature",
}
#: tasks on which some runs were scored
TASKS = ("stsbenchmark/spearman", "stackfaq/ndcg@10", "cranfield/ndcg@10")
#: held-out losses are taken in blocks of so many candidates; records say it, exported tables do not
CANDIDATES = 1024


def rows() -> list[dict[str, Any]]:
    """Every run that ended well with a held-out loss, once each."""
    found: dict[str, dict[str, Any]] = {}
    for pairs, names in SOURCES.items():
        for file in (RESULTS / name for name in names):
            for row in rows_of(file) if file.exists() else ():
                if row.get("loss") is not None:
                    ours = {name: row.get(column) for name, column in COLUMNS.items()}
                    scores = {task: row.get(task) for task in TASKS}
                    found.setdefault(row["key"], {"pairs": pairs, **ours, "K": row.get("K", CANDIDATES), **scores})
    return list(found.values())


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The runs of a ledger, or of a table that was exported from one."""
    if file.suffix == ".csv":
        return [row for row in pyarrow.csv.read_csv(file).to_pylist() if row["status"] == "done"]
    outcomes = [outcome for outcome in Ledger.open(file).outcomes() if isinstance(outcome, RunRecord)]
    candidates = [outcome.heldout.candidates if outcome.heldout else None for outcome in outcomes]
    return [{**row_of(outcome), "K": K} for outcome, K in zip(outcomes, candidates, strict=True)]


def main() -> None:
    table = pa.Table.from_pylist(rows())
    content = io.BytesIO()
    pyarrow.csv.write_csv(table, content)
    write_atomically(OUT, content.getvalue())
    print(f"{len(table)} runs in {OUT.name}")


if __name__ == "__main__":
    main()
