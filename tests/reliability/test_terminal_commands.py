"""Texts, keys, names and paths that command a terminal are shown by every command, and command nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from isoembed.cli import terminal
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.records import FailedRun, Ledger, RunRecord, ended
from isoembed.sweep.advance import plan_sweep
from isoembed.workflows.table import write_table
from tests.commands import command
from tests.data.helpers import write_jsonl
from tests.evaluation.tiny import write_model
from tests.sweep.fake import recipe, record, request

#: writes to the clipboard, sets the title, clears the screen, by ESC and by C1; turns the line around; a bell, a
#: backspace; rich's own markup
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[2J\x9b2J\u202eabc\x08\x7f[red]x[/]"
#: the same without what no file name on Linux or no key takes
NAME = "\x1b[2J\x9b2J\u202e[red]x[\\]"
#: the carriage return of a library's progress bar may pass
COMMANDS = [chr(n) for n in (*range(9), 11, 12, *range(14, 32), *range(127, 160), 0x202E)]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hostile files of each kind."""
    folder = tmp_path_factory.mktemp("inside")
    base = write_model(folder / NAME)
    Embedder(Encoder(load_model(str(base)), "mean"), load_tokenizer(str(base)), 16).save(folder / "model", card="")
    shutil.copytree(folder / "model", folder / f"model{NAME}")
    rows = [{"query": f"{EVIL} {n} what is it?", "pos": f"{EVIL} {n} an answer"} for n in range(40)]
    write_jsonl(folder / "pairs.jsonl", rows)
    write_jsonl(folder / f"{NAME}.jsonl", rows)
    write_jsonl(folder / "keys.jsonl", [{EVIL: "a", f"{EVIL}2": 1}])
    write_jsonl(folder / "bad.jsonl", [{"query": EVIL}])
    write_jsonl(
        folder / "documents.jsonl", [{"title": EVIL, "text": f"{EVIL} one text"}, {"title": "b", "text": "two"}]
    )
    (folder / "task" / "retrieval" / NAME).mkdir(parents=True)
    for name in ("queries", "corpus"):
        write_jsonl(
            folder / "task" / "retrieval" / NAME / f"{name}.jsonl", [{"_id": EVIL, "text": "one text", "title": ""}]
        )
    (folder / "task" / "retrieval" / NAME / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{EVIL}\t{EVIL}\t1\n")
    (folder / "runs.csv").write_text(f"N,D,{EVIL},loss\n" + "".join(f"{n},{n * n},{n},{9 / n}\n" for n in range(1, 9)))
    (folder / "law.json").write_text(json.dumps({"format": EVIL, EVIL: EVIL}))
    (folder / "scores.csv").write_text(f"model,{EVIL},b,c\nx,1,2,3\ny,2,3,4\nz,3,1,2\n")
    (folder / "kinds.csv").write_text(f"task,category\n{EVIL},{EVIL}\nb,{EVIL}\nc,{EVIL}\n")
    ledger = Ledger(folder / "ledger")
    for flop in (1e11, 2e11, 4e11):
        ledger.add(record(recipe(flop=flop)).model_copy(update={"scores": {f"{EVIL}/ndcg": 0.1}}))
    (folder / "ledger" / "records" / f"{NAME}.json").write_text(EVIL)
    plan_sweep(folder / "sweep", request(models=("nano-28k",), budgets=(1e11,)))
    (folder / "sweep" / "cells" / f"{NAME}.json").write_text(EVIL)
    return folder


TRIED = [
    ["recipe", f"--budget={EVIL}"],
    ["recipe", "--budget=1e13", f"--method={EVIL}"],
    ["recipe", "--budget=1e13", f"--law={NAME}"],
    ["recipe", "--budget=1e13", "--law=law.json"],
    ["recipe", "--budget=1e13", f"--model={NAME}", "--batch-pairs=8", "--context-tokens=16"],
    [f"{EVIL}"],
    ["recipe", f"--{EVIL}"],
    ["models", f"--family={EVIL}"],
    ["models", f"--model={NAME}"],
    ["train", "--budget=1e8", f"--model={NAME}", "--method=full", f"--data={NAME}.jsonl", "--batch-pairs=8",
     "--context-tokens=16", f"--out=out{NAME}"],
    ["data", "inspect", "pairs.jsonl"],
    ["data", "inspect", f"{NAME}.jsonl"],
    ["data", "inspect", "keys.jsonl"],
    ["data", "inspect", "bad.jsonl"],
    ["data", "inspect", "bad.jsonl", "--on-bad-rows=skip"],
    ["data", "inspect", f"{EVIL}.nothing"],
    ["data", "mine", "model", "pairs.jsonl", f"--out={NAME}mined.jsonl"],
    ["search", "model", EVIL, "--documents=documents.jsonl"],
    ["search", "model", EVIL, "--documents=documents.jsonl", "--json"],
    ["search", f"model{NAME}", "one", "--documents=documents.jsonl"],
    ["search", f"nothing{NAME}", "one"],
    ["certify", f"model{NAME}"],
    ["certify", "model", f"--base={EVIL}"],
    ["eval", f"model{NAME}", "--data=task"],
    ["eval", f"model{NAME}", "--data=task", "--json"],
    ["eval", "model", f"--data={NAME}nothing"],
    ["fit", "runs.csv", "--law=power", "--bootstrap=0", "--holdout=none", f"--out={NAME}.json", f"--weight-col={EVIL}"],
    ["fit", "runs.csv", f"--law={EVIL}"],
    ["fit", "runs.csv", f"--loss-col=a{EVIL}"],
    ["validate", "law.json", "ledger"],
    ["sweep", "status", "sweep"],
    ["sweep", "show", "sweep", EVIL],
    ["sweep", "run", f"nothing{NAME}"],
    ["sweep", "plan", f"--out=sweep{NAME}", f"--models={EVIL}", "--budgets=1e9"],
    ["ledger", "export", "ledger", f"runs{NAME}.csv"],
    ["ledger", "correlate", "ledger"],
    ["ledger", "subset", "scores.csv", "--categories=kinds.csv"],
    ["report", "ledger", f"--out={NAME}.html", f"--law={NAME}"],
    ["figure", "ledger", EVIL, f"--out={NAME}.png"],
]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("arguments", TRIED, ids=lambda each: terminal.visible(" ".join(each))[:40].replace("\\", ""))
def test_no_command_sends_what_a_user_gave_to_the_terminal(
    arguments: list[str], inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(inside))
    done = command(*arguments, inside=inside)
    assert done.status in (0, 1, 2)
    assert not [char for char in COMMANDS if char in done.out + done.err]
    if "--json" in arguments:
        assert EVIL in done.out.encode().decode("unicode_escape") or json.loads(done.out)


@pytest.mark.parametrize("arguments", [TRIED[17], TRIED[10], TRIED[30]], ids=["search", "inspect", "status"])
def test_on_a_terminal_only_our_own_styles_command_it(
    arguments: list[str], inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = Terminal()
    monkeypatch.setattr("tests.commands.io.StringIO", lambda: shown)
    command(*arguments, inside=inside)
    text = shown.getvalue()
    assert "\x1b[" in text or arguments[0] != "search"  # styles
    assert not [word for word in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\x08", "\u202e", "\x7f") if word in text]


@pytest.fixture
def guarded() -> Iterator[None]:
    factory, form = logging.getLogRecordFactory(), warnings.formatwarning
    terminal.guard()
    yield
    logging.setLogRecordFactory(factory)
    warnings.formatwarning = form


def test_log_lines_warnings_and_tracebacks_show_it_too(guarded: None, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("somebodys")
    log.addHandler(handler)
    log.warning("said %s", EVIL)
    log.removeHandler(handler)
    sys.stderr.write(warnings.formatwarning(UserWarning(EVIL), UserWarning, f"{NAME}.py", 1))
    try:
        raise KeyError(1) from ValueError(EVIL)
    except KeyError as error:
        terminal.print_traceback(KeyError, error, error.__traceback__)
    said = capsys.readouterr().err
    assert said.count(r"\x1b]52;c;ZXZpbA==") == 3
    assert not [char for char in COMMANDS if char in said]


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, "\ud800", "é\u2028"]}
    terminal.print_json(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert not [char for char in COMMANDS if char in said]


def test_a_complaint_is_one_line_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain("a rule\nbroken\r\n by " + "x" * 10_000)
    said = capsys.readouterr().err
    assert said.startswith("isoembed: a rule broken by xxx")
    assert said.count("\n") == 1
    assert len(said) < 2100


def test_a_spreadsheet_runs_nothing_of_an_exported_table(tmp_path: Path) -> None:
    """Texts get a quote; numbers, also negative ones, stay numbers; Parquet, which nothing runs, stays as it is."""
    outcome = record(recipe()).model_copy(update={"scores": {"=cmd()/ndcg": -0.5, "plain/ndcg": 0.25}})
    write_table([outcome], tmp_path / "runs.csv")
    (row,) = csv.DictReader((tmp_path / "runs.csv").open(newline=""))
    assert (row["'=cmd()/ndcg"], row["plain/ndcg"]) == ("-0.5", "0.25")

    def named(name: str) -> RunRecord:
        model = outcome.recipe.model.model_copy(update={"name": name})
        return outcome.model_copy(update={"recipe": outcome.recipe.model_copy(update={"model": model})})

    for cell in ("=1+1", "+1", "-x", "@SUM(A1)", "\tx", "\rx", "\n=1", "\uff1d1+1"):
        write_table([named(cell)], tmp_path / "runs.csv")
        (row,) = csv.DictReader((tmp_path / "runs.csv").open(newline=""))
        assert row["model"] == f"'{cell}"
    write_table([named("@SUM(A1)")], tmp_path / "runs.parquet")
    assert pq.read_table(tmp_path / "runs.parquet")["model"].to_pylist() == ["@SUM(A1)"]
    failed = FailedRun(
        recipe=outcome.recipe, key=outcome.key, notes=(ended("diverged", "text", text="=1+1"),), created="now"
    )
    write_table([failed], tmp_path / "runs.csv")
    (row,) = csv.DictReader((tmp_path / "runs.csv").open(newline=""))
    assert row["failure"] == "diverged: =1+1"
