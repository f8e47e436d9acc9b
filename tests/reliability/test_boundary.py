"""Every option of every command, and every file that a command takes: an answer or one line, never a traceback.

With ISOEMBED_FUZZ=long each option meets each value; in the suite a fixed choice of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from isoembed.cli import app
from tests.data.helpers import write_jsonl
from tests.reliability.fuzz import Outcome, command

#: bytes that are no UTF-8 arrive as a half of a surrogate pair
VALUES = (
    "nan",
    "inf",
    "-1",
    "0",
    "1e300",
    str(2**53 + 1),
    "1e400",
    "",
    "x" * 5000,
    "\udcff",
    "../..",
    "\x1b[2J",
    "[/]",
)
TRAIN = ["--budget=1e9", "--model=nano-28k", "--method=full", "--data=pairs.jsonl", "--batch-pairs=16",
         "--context-tokens=32", "--out=out", "--dry-run"]  # fmt: skip
#: what a command is given beside the option that is tried; a command that is not here gets nothing
GIVEN: dict[str, list[str]] = {
    "recipe": ["--budget=1e13"],
    "run": TRAIN,
    "train": TRAIN,
    "fit": ["runs.csv", "--law=power", "--bootstrap=0", "--holdout=none", "--out=law.json"],
    "validate": ["law.json", "ledger"],
    "eval": ["nano-28k", "--data=task"],
    "search": ["model", "words", "--documents=documents.jsonl"],
    "data inspect": ["pairs.jsonl"],
    "data mine": ["model", "pairs.jsonl", "--out=mined.jsonl"],
    "models": [],
    "sweep plan": ["--out=sweep", "--budgets=1e9,4e9", "--models=nano-28k", "--methods=full", "--rate-steps=none",
                   "--data=pairs.jsonl", "--batch-pairs=16", "--context-tokens=32", "--min-steps=4", "--dry-run"],
    "sweep run": ["sweep"],
    "sweep status": ["sweep"],
    "sweep show": ["sweep", "0"],
    "ledger export": ["ledger", "table.csv"],
    "ledger correlate": ["ledger"],
    "ledger subset": ["scores.csv"],
    "report": ["ledger", "--out=report.html"],
    "figure": ["ledger", "list"],
}  # fmt: skip


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
        return
    for name, each in below.items():
        yield from commands(each, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
OPTIONS = [
    (name, max(parameter.opts, key=len))
    for name, each in ALL.items()
    for parameter in each.params
    if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
]


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(40)]
    write_jsonl(folder / "pairs.jsonl", rows)
    runs = "".join(f"{n * 10},{n * n * 99},{9 / n},1e{n}\n" for n in range(1, 9))
    (folder / "runs.csv").write_text("N,D,loss,C\n" + runs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr("isoembed.workflows.sweep.measure_speeds", lambda *_, **__: ())
    return folder


def fine(outcome: Outcome) -> Outcome:
    """An answer, or one line that names the fault; nothing in either commands a terminal."""
    assert outcome.status in (0, 1, 2)
    if outcome.status:
        assert [line[:10] for line in outcome.err.splitlines()[-1:]] == ["isoembed: "]
        assert len(outcome.err.splitlines()) == 1
    assert not {chr(n) for n in (*range(9), *range(11, 32), *range(127, 160))} & set(outcome.out + outcome.err)
    return outcome


def chosen(name: str, option: str) -> list[str]:
    if os.environ.get("ISOEMBED_FUZZ") == "long":
        return list(VALUES)
    start = zlib.crc32(f"{name} {option}".encode())
    return [VALUES[(start + step) % len(VALUES)] for step in (0, 5)]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda each: each.strip("-").replace(" ", "-"))
def test_options(name: str, option: str, inside: Path) -> None:
    for value in chosen(name, option):
        given = [each for each in GIVEN.get(name, []) if not each.startswith(f"{option}=")]
        fine(command(*name.split(), *given, f"{option}={value}", inside=inside))
