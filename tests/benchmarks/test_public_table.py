"""The public table of losses: once each run, and every column described."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.csv

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks" / "results" / "contrastive_losses.csv"


def test_every_column_is_described_and_every_loss_is_one() -> None:
    table = pyarrow.csv.read_csv(TABLE)
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in table.column_names)
    rows = table.to_pylist()
    assert len(
        {(row["pairs"], row["setting"], row["model"], row["D"], row["seed"], row["loss"]) for row in rows}
    ) == len(rows)
    assert all(0 < row["loss"] < math.log(row["K"]) + 0.1 for row in rows)
    assert {row["pairs"] for row in rows} >= {"mixture", "docstrings"}
