"""What happens to a run from outside: its terminal closes, its folder is removed, its output leads nowhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoembed.cache import user_cache, working_folder
from isoembed.data.store import TokenStore
from isoembed.training.callbacks import MetricsFile, StepFacts
from tests.commands import Outcome, command
from tests.data.helpers import write_jsonl
from tests.evaluation.tiny import write_model

ROWS = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(200)]
TRAIN = ["train", "--budget", "1.5e9", "--model", "nano-28k", "--method", "bias", "--data", "pairs.jsonl",
         "--batch-pairs", "16", "--context-tokens", "32", "--out", "out"]  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    return tmp_path


def at_step(chosen: int, action: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Have the next run do something at a step of its."""
    step = MetricsFile.step

    def and_act(self: MetricsFile, facts: StepFacts) -> None:
        step(self, facts)
        if facts.step == chosen:
            action()

    patch.setattr(MetricsFile, "step", and_act)


def hang_up() -> None:
    """As a terminal that closes: the shell says so, and then the system."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)


def trained(inside: Path, *more: str) -> Outcome:
    return command(*TRAIN, *more, inside=inside)


def work(inside: Path) -> Path:
    """The working folder of the run to `out`."""
    return working_folder(inside / "out", user_cache())


def leftovers(inside: Path) -> list[Path]:
    return [path for path in inside.rglob("*") if "partial" in path.name]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="terminals hang up on Unix alone")
def test_a_terminal_that_closes_leaves_a_checkpoint(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP ended the process at once, and the steps since the last checkpoint were lost."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        at_step(3, hang_up, monkeypatch)
        assert trained(inside).status == 130
    finally:
        signal.signal(signal.SIGHUP, before)
    assert list(work(inside).glob("checkpoints/step-00000003"))
    assert not trained(inside, "--resume").status
    assert not leftovers(inside)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="terminals hang up on Unix alone")
def test_under_nohup_a_run_goes_on(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(3, hang_up, monkeypatch)
        assert not trained(inside).status
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_kill_left_beside_a_whole_model_is_removed(inside: Path) -> None:
    """A kill between the last rename of an export and its end; `--resume` then had nothing to do, and did nothing."""
    assert not trained(inside).status
    (inside / "out" / ".export.partial" / "x").mkdir(parents=True)
    assert not trained(inside, "--resume").status
    assert not leftovers(inside)


def test_what_a_kill_left_half_written_is_removed(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    assert trained(inside).status == 130
    (inside / "out" / ".0123.partial").write_text("{")
    assert not trained(inside, "--resume").status
    assert not leftovers(inside)


@pytest.mark.parametrize("last", [False, True])
def test_a_folder_removed_under_a_run_ends_it(last: bool, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with status 0, and a folder without recipe.json, metrics and tokens."""
    out = inside / "out"
    if last:
        monkeypatch.setattr(MetricsFile, "end", lambda self: shutil.rmtree(out))
    else:
        at_step(2, lambda: shutil.rmtree(out), monkeypatch)
    done = trained(inside)
    assert done.status == 1
    assert "isoembed: The output folder must stay where it is" in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(inside.rglob("modules.json"))


#: commands that write, X where the place for it stands
WRITERS = [
    "train --budget=1e9 --data=pairs.jsonl --out=X",
    "run --budget=1e9 --data=pairs.jsonl --pilot=5% --out=X",
    "run --budget=1e9 --data=pairs.jsonl --out=out --cache=X",
    "sweep plan --budgets=1e10 --data=pairs.jsonl --out=X",
    "sweep run X",
    "data inspect pairs.jsonl --cache=X",
    "data mine model pairs.jsonl --out=X",
    "eval nano-28k --data=task --out=X",
    "eval model --mteb=paper --results=X",
    "fit runs.csv --out=X",
    "validate law.json ledger --out=X",
    "ledger export ledger X",
    "report ledger --out=X",
    "figure frontier ledger --out=X",
]


@pytest.mark.parametrize("asked", WRITERS, ids=lambda asked: asked.split("=")[0].replace(" ", "-"))
def test_a_place_that_leads_nowhere_is_wrong_use(asked: str, inside: Path) -> None:
    (inside / "dangling").symlink_to(inside / "missing")
    (inside / "loop").symlink_to(inside / "loop")
    for place in ("dangling", "dangling/below", "loop", "loop/below"):
        done = command(*asked.replace("X", place).split(), inside=inside)
        assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
        assert "is a link that does not" in done.err
    assert not (inside / "missing").exists()


@pytest.mark.parametrize("place", ["pairs.jsonl", "pairs.jsonl/below", "x" * 300])
def test_a_place_that_can_be_none_is_wrong_use(place: str, inside: Path) -> None:
    """It was status 1, as for a full disk."""
    done = command("train", "--budget=1e9", "--data=pairs.jsonl", f"--out={place}", inside=inside)
    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    """transformers reads docstrings when it is imported: `-OO` ended in its traceback."""
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "isoembed", "train", "--budget=1e9", "--out=out"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "-OO" in done.stderr


#: what is wrong with a job -> what says so
EARLY = {
    "--out=taken": "already holds a trained model",
    "--out=foreign": "which no export of ours wrote",
    "--out=stopped": "already holds checkpoints",
    "--out=pairs.jsonl": "is a file",
    "--out=pairs.jsonl/model": "pairs.jsonl is a file",
    "--out=/proc/model": "none can be made in /proc",
    "--tracker=none-such": "must be tensorboard, trackio or wandb",
    "--device=none-such": "none-such",
    "--hours=1": "Exactly one of --budget",
}


@pytest.mark.parametrize("wrong", EARLY)
def test_what_can_be_refused_is_refused_before_work(wrong: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was taken or an unknown tracker was found out when the data had been tokenised."""
    monkeypatch.setenv("ISOEMBED_CACHE", str(inside / "cache"))
    monkeypatch.setattr(TokenStore, "build", lambda *args, **options: pytest.fail("data were read"))
    for file in ("taken/record.json", "foreign/config.json"):
        (inside / file).parent.mkdir()
        (inside / file).write_text("{}")
    (inside / "stopped").mkdir()
    (working_folder(inside / "stopped", user_cache()) / "checkpoints" / "step-00000001").mkdir(parents=True)
    done = command(*TRAIN, wrong, inside=inside)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert EARLY[wrong] in done.err


def test_a_dry_run_writes_nothing(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It filled a token store."""
    monkeypatch.setenv("ISOEMBED_CACHE", str(inside / "cache"))
    write_model(inside / "base")
    for more in ((), ("--model=base",)):  # the counts of a folder's model were kept
        before = sorted(inside.rglob("*"))
        done = trained(inside, "--dry-run", *more)
        assert not done.status, done.err
        assert sorted(inside.rglob("*")) == before
