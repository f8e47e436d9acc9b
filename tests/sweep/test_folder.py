"""Claims: a cell is one worker's at a time, whatever dies, and has one last word."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoembed.records import FailedRun
from isoembed.sweep.folder import Attempt, Cell, End, SweepFolder, Worker
from tests.sweep.fake import cell, record


def folder_with(tmp_path: Path, *cells: Cell) -> SweepFolder:
    folder = SweepFolder(tmp_path)
    folder.add_cells(list(cells))
    return folder


def abandon(folder: SweepFolder, attempt: Attempt, worker: Worker, *, age: float) -> None:
    """Make it look as if `worker` had claimed the attempt and beaten last `age` seconds ago."""
    file = folder.path / "attempts" / f"{attempt.key}.{attempt.number}"
    file.write_text(worker.model_dump_json())
    os.utime(file, (time.time() - age,) * 2)


def test_a_claimed_cell_is_nobody_elses(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := cell())
    assert folder.claim(planned.key, tries=3) == Attempt(key=planned.key, number=1)
    assert folder.claim(planned.key, tries=3) is None


def test_many_processes_share_the_cells_without_overlap(tmp_path: Path) -> None:
    """Twelve cells, four processes claiming as fast as they can: each cell is claimed exactly once."""
    folder = folder_with(tmp_path, *(cell(seed=seed) for seed in range(12)))
    code = (
        "import sys; from pathlib import Path; from isoembed.sweep.folder import SweepFolder\n"
        "folder = SweepFolder(Path(sys.argv[1]))\n"
        "[print(c.key) for c in folder.cells() if folder.claim(c.key, tries=1)]\n"
        "sys.stdout.flush(); sys.stdin.read()\n"  # stay alive: a dead worker's claims are free again
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "attempts").glob("*.1"))) < 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    claimed = [key for worker in workers for key in worker.communicate()[0].split()]
    assert sorted(claimed) == sorted(planned.key for planned in folder.cells())


def test_a_worker_dead_on_this_machine_is_lost_at_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := cell())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    abandon(folder, attempt, Worker.this().model_copy(update={"started": 1.0}), age=0)  # its process number was reused
    assert folder.claim(planned.key, tries=3) == Attempt(key=planned.key, number=2)
    lost = folder.end_of(planned.key, 1)
    assert lost is not None
    assert lost.reason == "lost-worker"


@pytest.mark.parametrize(("age", "free"), [(5.0, False), (500.0, True)])
def test_a_worker_elsewhere_is_lost_when_its_heartbeat_stops(tmp_path: Path, age: float, free: bool) -> None:
    folder = folder_with(tmp_path, planned := cell())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    abandon(folder, attempt, Worker.this().model_copy(update={"host": "elsewhere"}), age=age)
    assert (folder.claim(planned.key, tries=3) is not None) is free


def test_a_claim_without_a_name_counts_by_its_age(tmp_path: Path) -> None:
    """Killed between creating the file and writing to it."""
    folder = folder_with(tmp_path, planned := cell())
    (tmp_path / "attempts").mkdir()
    file = tmp_path / "attempts" / f"{planned.key}.1"
    file.touch()
    assert folder.claim(planned.key, tries=3) is None
    os.utime(file, (time.time() - 500,) * 2)
    assert folder.claim(planned.key, tries=3) == Attempt(key=planned.key, number=2)


def test_failures_end_in_a_failed_record_and_stops_do_not_count(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := cell())
    for reason in ("diverged", "stopped", "out-of-memory"):
        attempt = folder.claim(planned.key, tries=2)
        assert attempt is not None
        folder.end(attempt, End.model_validate({"reason": reason, "words": f"it {reason}"}))
    assert folder.claim(planned.key, tries=2) is None
    (outcome,) = folder.ledger.outcomes()
    assert isinstance(outcome, FailedRun)
    assert outcome.reason == "out-of-memory"
    assert outcome.failures == ("diverged: it diverged", "out-of-memory: it out-of-memory")


def test_a_finished_cell_is_not_claimed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := cell())
    folder.ledger.add(record(planned.recipe))
    assert folder.claim(planned.key, tries=3) is None


def test_damaged_cells_are_named_and_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := cell())
    (tmp_path / "cells" / "0123456789abcdef.json").write_text('{"recipe": 1')
    assert [found.key for found in folder.cells()] == [planned.key]
    assert "0123456789abcdef" in next(iter(folder.ledger.damaged))
