"""What the command line writes where: a terminal of any width, a pipe, standard error; and how it ends."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from isoembed.cli import entry as cli
from isoembed.cli import terminal
from isoembed.cli.terminal import console
from isoembed.core import InputError, from_os_error
from isoembed.report.terminal.layout import columns_table

RECIPE = ("recipe", "--budget", "1e13")


def piped(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isoembed", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | environment,
    )
    return done.stdout


def on_a_terminal(columns: int, *arguments: str) -> str:
    """Output to a pseudo-terminal of that width."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "isoembed", *arguments], stdout=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not read:
            break
        text += read
    assert process.wait() == 0
    os.close(ours)
    return text.decode()


def test_a_pipe_gets_plain_whole_lines() -> None:
    text = piped(*RECIPE, FORCE_COLOR="1")
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert max(map(len, lines)) > 120, "a long text was wrapped"
    assert sum(line.startswith("known ") for line in lines) == 3  # a row is a line
    assert sum(line.startswith("serving ") for line in lines) == 1


def test_columns_wrap_what_is_long_in_a_pipe_but_cut_no_table() -> None:
    lines = piped(*RECIPE, COLUMNS="70").splitlines()
    header = next(line for line in lines if line.startswith("best of a method"))
    assert max(len(line) for line in lines[: lines.index(header)]) <= 70
    assert header.endswith("best with")
    assert not any("…" in line for line in lines)


def test_a_narrow_terminal_shows_every_digit_in_colour() -> None:
    text = on_a_terminal(60, *RECIPE)
    assert "\x1b[1m" in text
    assert "…" not in text
    assert "best with" in text


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "8")
    console().print(columns_table(("name", "FLOP"), [("a model", "1,234,567,890"), ("b", "5")]))
    assert capsys.readouterr().out == "name              FLOP\na model  1,234,567,890\nb                    5\n"


class FailedError(InputError):
    exit_code = 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("a rule"), 2), (FailedError("it diverged"), 1), (PermissionError(13, "Permission denied", "out"), 1)],
)
def test_what_went_wrong_is_a_line_and_a_status(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(sys, "argv", ["isoembed"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    said = from_os_error(error) if isinstance(error, OSError) else error
    assert capsys.readouterr().err == f"isoembed: {said}\n"
    monkeypatch.setattr(sys, "argv", ["isoembed", "--debug"])
    with pytest.raises(type(error)):
        cli.main()


def test_a_stopped_run_ends_as_interrupted() -> None:
    from isoembed.core import StoppedError
    from isoembed.training.step import DivergedError

    assert (StoppedError.exit_code, DivergedError.exit_code) == (130, 1)


def test_a_file_in_the_way_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Path(__file__).parents[2] / "benchmarks" / "results" / "nano_study.jsonl.gz"
    done = subprocess.run(
        [sys.executable, "-m", "isoembed", "ledger", "export", str(ledger), str(tmp_path / "file" / "runs.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("isoembed: ")
    assert len(done.stderr.splitlines()) == 1


def test_our_warnings_are_said_and_what_libraries_log_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bm25s sets its own level; and a warning of ours, as of special tokens that a table lacks, is for the user."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("bm25s"), "level", logging.DEBUG)
    terminal.set_logging(verbose=False)
    logging.getLogger("bm25s").debug("building an index")
    logging.getLogger("isoembed.encoder.tokenizer").warning("tokens are taken out")
    assert capsys.readouterr().err == "isoembed.encoder.tokenizer: tokens are taken out\n"
