"""The ladders of branched runs that ship: whole, cheaper than runs that begin anew, and the docs' table is theirs."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_table_in_the_docs_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    branches = importlib.import_module("branches")
    rows = json.loads((ROOT / "benchmarks" / "results" / "branches.json").read_bytes())
    for ladder in branches.ladders():
        own = branches.of(rows, **ladder.place)
        assert [row["budget"] for row in own] == [*branches.BUDGETS]
        for row, longer in pairwise(own):
            trunk = (1 - ladder.decay) * row["flop"] if ladder.way == "branched" else 0
            assert longer["flop"] - longer["spent"] == pytest.approx(trunk, rel=0.05)
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    table, search = branches.table(rows).split("\n\n")
    assert table in page
    for line, flop in zip(search.splitlines(), ("4.5e+11", "1.28e+11"), strict=True):
        assert f"1, 1, 1, 1; {flop} FLOP" in line
        assert flop.replace("+", "") in page
