"""Disks that are full, folders that are protected, and two processes on one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isoembed.core import InputError, no_room, sole_writer, write_atomically, write_once
from isoembed.records import Ledger
from tests.commands import command
from tests.data.helpers import write_jsonl
from tests.sweep.fake import recipe, record

resource = pytest.importorskip("resource", reason="limits on file sizes are Unix's")


@contextmanager
def full_beyond(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: a write fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(400)]
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    for write in (write_atomically, write_once):
        with full_beyond(1000), pytest.raises(OSError) as error:  # noqa: PT011 - which one is asked below
            write(tmp_path / "file", "x" * 5000)
        assert no_room(error.value)
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "old"


def test_a_record_that_finds_no_room_is_no_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(record(recipe()))
    with full_beyond(1000), pytest.raises(OSError):  # noqa: PT011
        ledger.add(record(recipe(seed=1)))
    assert len(ledger.records()) == 1
    assert not ledger.damaged
    assert ledger.add(record(recipe(seed=1)))


#: method, room and the phase that it lets a run reach; bias alone makes checkpoints smaller than the exported model
ROOM = [("full", 20_000, ""), ("full", 250_000, "tokens-*"), ("bias", 250_000, "runs/*/checkpoints/step-*")]


@pytest.mark.parametrize(("method", "size", "reached"), ROOM, ids=["store", "checkpoint", "export"])
def test_a_full_disk_ends_a_run_in_one_line_and_it_can_be_resumed(
    pairs: Path, tmp_path: Path, method: str, size: int, reached: str
) -> None:
    asked = ["train", "--budget", "1.5e9", "--model", "nano-28k", "--method", method, "--data", str(pairs)]
    asked += ["--batch-pairs", "16", "--context-tokens", "32", "--out", "out", "--cache", "kept"]
    with full_beyond(size):
        done = command(*asked, inside=tmp_path)
    assert done.status == 1
    assert "isoembed: The system refused to read or write: File too large" in done.err
    assert not [name for name in names(tmp_path) if "artial" in name]
    phases = [phase for _, _, phase in ROOM if phase and list((tmp_path / "kept").glob(phase))]
    assert phases[-1:] == ([reached] if reached else [])
    assert not (tmp_path / "out" / "modules.json").exists()
    assert not command(*asked, "--resume", inside=tmp_path).status
    assert json.loads((tmp_path / "out" / "record.json").read_text())["steps"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "inspect", "PAIRS", "--cache", "/proc/cache"],
        ["ledger", "export", "LEDGER", "/proc/runs.csv"],
        ["fit", "LEDGER", "--law", "power", "--bootstrap", "0", "--holdout", "none", "--out", "/proc/law.json"],
        ["sweep", "plan", "--budgets", "1e10", "--models", "nano-28k", "--data", "PAIRS", "--out", "/proc/sweep"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that even root cannot write to: Linux's /proc")
def test_a_protected_folder_is_named_in_one_line(arguments: list[str], pairs: Path, tmp_path: Path) -> None:
    for flop in (1e11, 2e11, 4e11):
        Ledger(tmp_path / "ledger").add(record(recipe(flop=flop)))
    places = {"PAIRS": str(pairs), "LEDGER": str(tmp_path / "ledger")}
    arguments = [places.get(argument, argument) for argument in arguments]
    done = command(*arguments, inside=tmp_path)
    assert done.status == 1
    assert done.err.startswith("isoembed: The system refused to read or write")
    assert "/proc/" in done.err.splitlines()[-1]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that even root cannot write to: Linux's /proc")
def test_a_folder_where_no_model_can_be_made_is_refused_before_the_pairs_are_read(pairs: Path, tmp_path: Path) -> None:
    asked = ["train", "--budget", "1.5e9", "--model", "nano-28k", "--data", str(pairs), "--out", "/proc/out"]
    done = command(*asked, "--cache", "tokens", inside=tmp_path)
    assert done.status == 2
    assert done.err == (
        "isoembed: The model must be written to a folder; none can be made in /proc. Name another place.\n"
    )
    assert not list(tmp_path.glob("tokens/tokens-*"))


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    """Another process is refused while this one holds the folder, and a killed one sets it free."""
    code = (
        "import sys; from pathlib import Path; from isoembed.core import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()\n"
    )
    holds = [sys.executable, "-c", code, str(tmp_path / "out")]
    other = subprocess.Popen(holds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match="another one writes"), sole_writer(tmp_path / "out"):
        pass
    other.kill()
    other.communicate()
    with sole_writer(tmp_path / "out"):
        assert subprocess.run(holds, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode
    assert list((tmp_path / "out").iterdir()) == []


def test_of_rivals_that_write_once_one_wins(tmp_path: Path) -> None:
    barrier, won = threading.Barrier(8), list[int]()

    def write(number: int) -> None:
        barrier.wait()
        if write_once(tmp_path / "file", str(number)):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "file").read_text()] == [str(number) for number in won]
    assert os.listdir(tmp_path) == ["file"]
