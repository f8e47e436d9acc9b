"""Every option of every command, and every file that a command takes: an answer or one line, never a traceback.

With ISOEMBED_FUZZ=long each option meets each value; in the suite a fixed choice of them.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from isoembed.cli import app
from tests.commands import Outcome, command
from tests.data.helpers import write_jsonl

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
    "/proc/x",
    "\x1b[2J",
    "[/]",
)
TRAIN = ["--budget=1e9", "--model=nano-28k", "--method=full", "--data=pairs.jsonl", "--batch-pairs=16",
         "--context-tokens=32", "--out=out", "--gpu=h100", "--dry-run"]  # fmt: skip
#: what a command is given beside the option that is tried; a command that is not here gets nothing
GIVEN: dict[str, list[str]] = {
    "recipe": ["--budget=1e13", "--gpu=h100"],
    "train": TRAIN,
    "fit": ["runs.csv", "--law=power", "--bootstrap=0", "--holdout=none", "--out=law.json"],
    "validate": ["law.json", "ledger"],
    "eval": ["nano-28k", "--data=task"],
    "certify": ["model"],
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
#: `run` is `train` and an evaluation
OPTIONS = [
    (name, max(parameter.opts, key=len))
    for name, each in ALL.items()
    for parameter in each.params
    if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False) and name != "run"
]


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(40)]
    write_jsonl(folder / "pairs.jsonl", rows)
    runs = "".join(f"{n * 10},{n * n * 99},{9 / n},{5940 * n**3}\n" for n in range(1, 9))
    (folder / "runs.csv").write_text("N,D,loss,C\n" + runs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr("isoembed.workflows.sweep.measure_pace", lambda *_, **__: {})
    return folder


def fine(outcome: Outcome) -> Outcome:
    """An answer, or one line that names the fault; nothing in either commands a terminal."""
    assert outcome.status in (0, 1, 2)
    if outcome.status:
        assert [line[:10] for line in outcome.err.splitlines()[-1:]] == ["isoembed: "]
        assert len(outcome.err.splitlines()) == 1
    if not outcome.status:
        assert not re.search(r"(?<![\w.'-])[-+]?(inf|nan)\b(?!\w)", outcome.out, re.IGNORECASE)
    assert not {chr(n) for n in (*range(9), 11, 12, *range(14, 32), *range(127, 160))} & set(outcome.out + outcome.err)
    return outcome


#: what met a traceback once, in runs that are paid for; beside TRAIN, without its --dry-run
PAID = [
    ("--learning-rate=1e300", 2),
    ("--memory=inf", 2),
    ("--memory=1e400", 2),
    ("--memory=1", 2),
    ("--method=lora --rank=4 --alpha=1e300", 2),
    ("--method=lora --rank=10000", 2),
    ("--context-tokens=9007199254740992", 2),
    ("--checkpoint-seconds=nan", 2),
    ("--pilot=nan", 2),
    ("--matryoshka=1,,", 2),
]


@pytest.mark.parametrize(("given", "status"), PAID)
def test_options_of_runs(given: str, status: int, inside: Path) -> None:
    names = [each.partition("=")[0] for each in given.split()]
    rest = [each for each in TRAIN[:-1] if each.partition("=")[0] not in (*names, "--budget")]
    assert fine(command("train", *rest, "--budget=1e8", *given.split(), inside=inside)).status == status


#: numbers that no run, machine or law has; each was taken, or met a message about something else
ABSURD = [
    *(f"recipe {option}" for option in (
        "--learning-rate=1e9", "--learning-rate=11", "--learning-rate=0", "--learning-rate=-1e-3", "--mask-margin=0",
        "--serving-tokens=1e308", "--serving-tokens=1e19", "--serving-tokens=-1",
        "--max-params=1e300", "--max-params=0", "--pairs=0", "--budget=1e31", "--budget=1e308", "--budget=0",
        "--batch-pairs=16777217", "--batch-pairs=1", "--context-tokens=3", "--context-tokens=100000", "--seed=-1",
        "--matryoshka=9999999", "--device-memory=1e300", "--device-memory=0.5", "--device-memory=1e20GB",
        "--method=lora --alpha=1e7", "--method=lora --alpha=0", "--method=lora --rank=0",
        "--method=freeze --fraction=1.1",
        "--method=freeze --fraction=0", "--utilisation=1.1", "--utilisation=0", "--count=0",
    )),
    "fit --bootstrap=100001", "fit --bootstrap=-1", "fit --delta=11", "fit --delta=0", "fit --candidates=1",
    *(f"sweep plan {option}" for option in (
        "--seeds=1001", "--budgets=1e9:1e12:x1.000001", "--budgets=1e31", "--allowance=1e300h", "--min-steps=0",
        "--prune=0.5", "--prune=-1", "--max-pair-epochs=1", "--memory=1e300", "--rate-steps=0", "--pairs=1",
        "--mask-margin=0.1",
    )),
    "sweep run --workers=4097", "sweep run --tries=1001", "sweep run --cpus=65537", "sweep run --gpus=65537",
    "data mine --margin=2.1", "data mine --negatives=0", "data inspect --max-row-bytes=0",
    "data inspect --negatives=-1",
    "search --k=0", "figure --width=8001", "figure --height=100",
]  # fmt: skip


@pytest.mark.parametrize("asked", ABSURD)
def test_numbers_that_make_no_sense_are_refused(asked: str, inside: Path) -> None:
    """Some were planned for, or printed as `inf FLOP`."""
    name = asked.partition(" --")[0]
    options = asked.removeprefix(f"{name} ").split()
    names = [each.partition("=")[0] for each in options]
    given = [each for each in GIVEN[name] if each.partition("=")[0] not in names]
    done = fine(command(*name.split(), *given, *options, inside=inside))
    field = names[-1].removeprefix("--")
    assert done.status == 2
    assert field in done.err or field.replace("-", "_") in done.err


def chosen(name: str, option: str) -> list[str]:
    if os.environ.get("ISOEMBED_FUZZ") == "long":
        return list(VALUES)
    return [VALUES[zlib.crc32(f"{name} {option}".encode()) % len(VALUES)]]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda each: each.strip("-").replace(" ", "-"))
def test_options(name: str, option: str, inside: Path) -> None:
    for value in chosen(name, option):
        given = [each for each in GIVEN.get(name, []) if not each.startswith(f"{option}=")]
        fine(command(*name.split(), *given, f"{option}={value}", inside=inside))


#: a command, FILE.ENDING where a file of it stands
TAKE_FILES = [
    "recipe --budget=1e13 --law=FILE.json",
    "recipe --budget=1e13 --model=FILE.d",
    *(f"data inspect FILE.{ending}" for ending in ("jsonl", "csv", "parquet", "jsonl.gz", "csv.zst")),
    "data inspect hub:FILE.d",
    "data inspect pairs.jsonl --cache=FILE.d",
    "data mine FILE.d pairs.jsonl --out=mined.jsonl",
    "search FILE.d words --documents=pairs.jsonl",
    "eval FILE.d --data=task",
    "eval nano-28k --data=FILE.d",
    "eval nano-28k --data=FILE.d --task=sts",
    "fit FILE.csv --bootstrap=0 --holdout=none",
    "fit FILE.parquet --bootstrap=0 --holdout=none",
    "fit FILE.jsonl.gz --bootstrap=0 --holdout=none",
    "validate FILE.json ledger",
    "train --budget=1e8 --model=nano-28k --data=pairs.jsonl --batch-pairs=16 --out=FILE.d --resume --dry-run",
    "sweep status FILE.d",
    "sweep show FILE.d 0",
    "sweep run FILE.d",
    "ledger export FILE.jsonl.gz runs.csv",
    "ledger export FILE.d runs.csv",
    "ledger subset FILE.csv --categories=runs.csv",
    "ledger subset runs.csv --categories=FILE.csv",
    "report FILE.jsonl.gz --out=page.html",
]
#: names of files that a folder of some kind has, so that what is in them is read
MEMBERS = ("config.json", "modules.json", "record.json", "sweep.json", "adapter_config.json", "tokenizer.json",
           "config_sentence_transformers.json", "isoembed.json", "README.md", "queries.jsonl", "corpus.jsonl",
           "pairs.jsonl", "qrels.tsv", "records/x.json", "cells/x.json", "index/index.json",
           "model.safetensors")  # fmt: skip
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "noise": bytes((37 * n * n + n) % 256 for n in range(4000)),
    "deep": b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "huge": b'{"query": 1e999, "pos": ' + b"9" * 5000 + b"}",
    "null": b"null",
    "text": b"\0\xff\xfe, \n,,\n",
    "surrogate": b'{"query": "\\ud800", "pos": "\\udfff x", "text": "\\ud800", "_id": "\\ud800"}',
}


def place(file: Path, kind: str) -> None:
    """A file of that kind at `file`, or a folder in which each member is one, where its name ends in `.d`."""
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind != "missing":
        members = [file / member for member in MEMBERS] if file.suffix == ".d" else [file]
        content = CONTENTS[kind]
        for member in members:
            member.parent.mkdir(parents=True, exist_ok=True)
            member.write_bytes(gzip.compress(content) if file.suffix == ".gz" and kind != "noise" else content)


@pytest.mark.parametrize("asked", TAKE_FILES, ids=lambda asked: asked.replace(" ", "-"))
def test_files(asked: str, inside: Path) -> None:
    """A pipe must not hang it."""
    (name,) = re.findall(r"FILE[.\w]*", asked)
    kinds = ["missing", "folder", "pipe", *CONTENTS]
    if os.environ.get("ISOEMBED_FUZZ") != "long":
        start = zlib.crc32(asked.encode())
        kinds = ["pipe", *(kinds[(start + step) % len(kinds)] for step in (0, 3))]
    for kind in dict.fromkeys(kinds):
        file = inside / f"{kind}{name.removeprefix('FILE')}"
        place(file, kind)
        fine(command(*asked.replace(name, str(file)).split(), inside=inside))
