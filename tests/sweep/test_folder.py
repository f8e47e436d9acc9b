"""Claims: a run is one worker's at a time, whatever dies, and has one last word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from isoembed.core import InputError
from isoembed.notes import refusal
from isoembed.records import FailedRun, ended
from isoembed.report.terminal.sweep import status_text
from isoembed.scratch import STATE, TRUNK
from isoembed.sweep.folder import LOST, Attempt, End, PlannedRun, SweepFolder, failed_run
from isoembed.sweep.status import StatusReader
from isoembed.sweep.worker import Worker
from tests.sweep.fake import planned_run, record


def folder_with(tmp_path: Path, *runs: PlannedRun) -> SweepFolder:
    folder = SweepFolder(tmp_path)
    folder.add_runs(list(runs))
    return folder


def elsewhere(folder: SweepFolder, attempt: Attempt, **changes: object) -> None:
    """Make it look as if another worker had claimed the attempt: in another container, where nothing else is said."""
    worker = Worker.this().model_copy(update={"namespace": "pid:[1]"} | changes)
    (folder.path / "attempts" / f"{attempt.key}.{attempt.number}").write_text(worker.model_dump_json())


class Watch:
    """A clock that no one sets, and the waiting for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("isoembed.sweep.folder.time.monotonic", lambda: self.now)

    def over(self, folder: SweepFolder, key: str, seconds: float, *, every: float = 2.0) -> Attempt | None:
        """Try to claim the run for so long."""
        end = self.now + seconds
        while self.now < end:
            if (claimed := folder.claim(key, tries=3)) is not None:
                return claimed
            self.now += every
        return None


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_a_claimed_run_is_nobody_elses(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    assert folder.claim(planned.key, tries=3) == Attempt(key=planned.key, number=1)
    assert folder.claim(planned.key, tries=3) is None


def test_many_processes_share_the_runs_without_overlap(tmp_path: Path) -> None:
    """Twelve runs, four processes claiming as fast as they can: each run is claimed exactly once."""
    folder = folder_with(tmp_path, *(planned_run(seed=seed) for seed in range(12)))
    code = (
        "import sys; from pathlib import Path; from isoembed.sweep.folder import SweepFolder\n"
        "folder = SweepFolder(Path(sys.argv[1]))\n"
        "claims = [folder.claim(c.key, tries=1) for c in folder.runs()]\n"
        "print(*(claim.key for claim in claims if claim and claim.number == 1), flush=True)\n"
        "sys.stdin.read()\n"  # stay alive: a dead worker's claims are free again
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "attempts").glob("*.1"))) < 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    claimed = [key for worker in workers for key in worker.communicate()[0].split()]
    assert sorted(claimed) == sorted(planned.key for planned in folder.runs())


def test_a_worker_dead_on_this_machine_is_lost_at_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    elsewhere(folder, attempt, namespace=Worker.this().namespace, started=1.0)  # its process number was reused
    assert folder.claim(planned.key, tries=3) == Attempt(key=planned.key, number=2)
    lost = folder.end_of(planned.key, 1)
    assert lost is not None
    assert lost.reason == "lost-worker"


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"namespace": ""}])
def test_process_numbers_of_other_systems_and_containers_say_nothing(changes: dict[str, object]) -> None:
    """Process 2 ** 22 + 1 is nowhere here: were its number asked after, it would be gone."""
    dead = Worker.this().model_copy(update={"process": 2**22 + 1})
    assert dead.is_gone()
    assert not dead.model_copy(update=changes).is_gone()


def test_this_worker_is_there_and_another_users_is_not_gone() -> None:
    assert not Worker.this().is_gone()
    assert Worker.this().model_copy(update={"process": 1}).is_gone()  # there, but it started at another time


def test_a_worker_elsewhere_is_lost_when_its_heart_is_seen_to_stand_still(tmp_path: Path, watch: Watch) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    elsewhere(folder, attempt)
    for _ in range(5):
        folder.heartbeat(attempt)
        assert watch.over(folder, planned.key, 80) is None
    assert watch.over(folder, planned.key, 20) == Attempt(key=planned.key, number=2)


@pytest.mark.parametrize("age", [-200.0, 200.0, 1e6])
def test_the_time_of_day_of_a_heartbeat_says_nothing(tmp_path: Path, age: float, watch: Watch) -> None:
    """Clocks of two machines, or of one before and after it was set."""
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    elsewhere(folder, attempt)
    folder.heartbeat(attempt)
    for file in (tmp_path / "attempts").iterdir():
        os.utime(file, (time.time() - age,) * 2)
    assert watch.over(folder, planned.key, 60) is None


def test_who_was_suspended_together_with_the_worker_waits_on(tmp_path: Path, watch: Watch) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    elsewhere(folder, attempt)
    assert folder.claim(planned.key, tries=3) is None
    watch.now += 3600
    assert folder.claim(planned.key, tries=3) is None
    folder.heartbeat(attempt)
    assert watch.over(folder, planned.key, 80) is None


def test_how_long_a_worker_elsewhere_is_silent_is_told_by_the_ledgers_own_clock(tmp_path: Path) -> None:
    """By the time of day here, 200 s ahead of the file system's, a beat of now would be 200 s old."""
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    assert StatusReader(folder).read().silent == {}  # it is here, and there
    elsewhere(folder, attempt)
    folder.heartbeat(attempt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: os.stat(tmp_path).st_mtime + 200)
        assert StatusReader(folder).read().silent == {}
    beat = tmp_path / "attempts" / f"{planned.key}.1.beat"
    os.utime(beat, (beat.stat().st_mtime - 500,) * 2)
    found = StatusReader(folder).read()
    assert found.count("running") == 1
    assert 500 <= found.silent[planned.key] < 600
    printed = Console(width=200)
    with printed.capture() as shown:
        printed.print(status_text(found))
    assert f"running {planned.key}: no sign of life" in shown.get()


def test_a_claim_without_a_name_is_watched_too(tmp_path: Path, watch: Watch) -> None:
    """Killed between creating the file and writing to it."""
    folder = folder_with(tmp_path, planned := planned_run())
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / f"{planned.key}.1").touch()
    assert watch.over(folder, planned.key, 80) is None
    assert watch.over(folder, planned.key, 20) == Attempt(key=planned.key, number=2)


def test_workers_that_went_away_fail_no_run(tmp_path: Path) -> None:
    """Three kills of everything before the first checkpoint."""
    folder = folder_with(tmp_path, planned := planned_run())
    for number in range(1, 6):
        attempt = folder.claim(planned.key, tries=3)
        assert attempt == Attempt(key=planned.key, number=number)
        elsewhere(folder, attempt, namespace=Worker.this().namespace, started=1.0)
    assert not folder.failures(planned.key)
    assert folder.vain(planned.key) == 4


def test_a_crash_seen_counts_unless_the_run_came_further(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    crash = End(note=ended("lost-worker", "text", text="its process ended with signal SIGSEGV"))
    for steps in (5, 9, 9, 9):
        attempt = folder.claim(planned.key, tries=2)
        assert attempt is not None
        (place := folder.work(attempt) / f"step-{steps:08d}").mkdir(parents=True)
        (place / STATE).write_text(json.dumps({"step": steps}))
        folder.end(attempt, crash)
    assert len(folder.failures(planned.key)) == 2
    assert folder.claim(planned.key, tries=2) is None
    assert isinstance(folder.ledger.outcome(planned.key), FailedRun)


def test_a_retry_forgets_the_failures_and_keeps_the_checkpoints(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=1)
    assert attempt is not None
    (folder.work(attempt) / "step-00000005").mkdir(parents=True)
    folder.end(attempt, End(note=ended("error", "text", text="no")))
    assert folder.claim(planned.key, tries=1) is None
    folder.retry([planned.key])
    assert planned.key not in folder.ledger
    assert folder.claim(planned.key, tries=1) == Attempt(key=planned.key, number=2)
    assert (folder.work(attempt) / "step-00000005").is_dir()


def test_a_run_under_another_name_is_set_aside_and_planned_anew(tmp_path: Path) -> None:
    folder_with(tmp_path, planned := planned_run())
    file = tmp_path / "cells" / f"{planned.key}.json"
    file.rename(file.with_name("0123456789abcdef.json"))
    again = SweepFolder(tmp_path)
    assert not again.runs()
    (why,) = again.ledger.damaged.values()
    assert planned.key in why
    assert again.add_runs([planned]) == 1
    assert [found.key for found in again.runs()] == [planned.key]


def test_working_folders_that_are_links_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "ledger", planned := planned_run())
    (tmp_path / "mine").mkdir()
    (tmp_path / "ledger" / "work").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is a link"):
        folder.work(Attempt(key=planned.key, number=1))


def test_what_killed_workers_left_is_cleared(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    (folder.work(attempt) / "step-00000005").mkdir(parents=True)
    old, new = (tmp_path / "attempts" / f".{name}.partial" for name in ("old", "new"))
    for file in (old, new):
        file.touch()
    os.utime(old, (1.0, 1.0))
    folder.clear()
    assert folder.work(attempt).is_dir()  # a run under way
    assert (old.exists(), new.exists()) == (False, True)
    folder.ledger.add(record(planned.recipe))
    folder.clear()
    assert not folder.work(attempt).exists()


def test_a_trunk_outlives_the_work_where_the_plan_asks_for_it(tmp_path: Path) -> None:
    """A worker that was killed after it wrote the record, or whose run another one took over, left it behind."""
    kept, other = planned_run().model_copy(update={"keeps_trunk": True}), planned_run(seed=1)
    folder = folder_with(tmp_path, kept, other)
    for run in (kept, other):
        attempt = folder.claim(run.key, tries=3)
        assert attempt is not None
        (folder.work(attempt) / TRUNK / "step-00000005").mkdir(parents=True)
        folder.ledger.add(record(run.recipe))
    folder.clear()
    assert (folder.trunk(kept.key) / "step-00000005").is_dir()
    assert not folder.trunk(other.key).exists()
    assert not any((tmp_path / "work").iterdir())
    folder.remove_trunks()
    assert not (tmp_path / "trunks").exists()


def test_the_time_left_counts_what_runs_take_beside_their_steps(tmp_path: Path) -> None:
    """Two runs of a second each took 5 s more to load and evaluate: a third one takes 6 s, not one."""
    folder = folder_with(tmp_path, *(planned_run(seed=seed) for seed in range(3)))
    for seed, beside in ((0, 4.0), (1, 6.0)):
        folder.ledger.add(record(planned_run(seed=seed).recipe).model_copy(update={"overhead_seconds": beside}))
    status = StatusReader(folder).read()
    assert status.seconds_left == pytest.approx(6.0)
    assert status.seconds_spent == pytest.approx(12.0)


def test_failures_end_in_a_failed_record_and_stops_do_not_count(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    for reason in ("diverged", "stopped", "out-of-memory"):
        attempt = folder.claim(planned.key, tries=2)
        assert attempt is not None
        folder.end(attempt, End.model_validate({"reason": reason, "words": f"it {reason}"}))
    assert folder.claim(planned.key, tries=2) is None
    (outcome,) = folder.ledger.outcomes()
    assert isinstance(outcome, FailedRun)
    assert outcome.reason == "out-of-memory"
    assert [(each.kind, each.code) for each in outcome.notes] == [("diverged", "text"), ("out-of-memory", "text")]
    assert outcome.failures == ("diverged: it diverged", "out-of-memory: it out-of-memory")


def test_how_an_attempt_ended_is_a_fact_in_a_file_that_keeps_its_words(tmp_path: Path) -> None:
    """Files of before there were notes, as in a sweep that goes on, say the same."""
    lost = End(note=ended("lost-worker", "process-ended", status=3), counts=False)
    written = json.loads(lost.model_dump_json())
    assert (written["reason"], written["words"]) == ("lost-worker", "its process ended with exit status 3")
    assert End.model_validate(written) == lost
    older = {name: value for name, value in written.items() if name != "note"}
    read = End.model_validate(older)
    assert (read.reason, read.words, read.counts) == (lost.reason, lost.words, False)


def test_a_failed_record_of_words_alone_is_read() -> None:
    few = refusal("few-pairs", batch_pairs=64, pairs=9)
    failed = failed_run(planned_run().recipe, [LOST, End(note=ended("error", "refused", why=few))])
    written = json.loads(failed.model_dump_json())
    assert FailedRun.model_validate(written) == failed
    assert FailedRun.model_validate(written).notes[1].fields["why"] == few
    assert written["failures"] == ["lost-worker: the worker is gone", f"error: {few}"]
    older = {name: value for name, value in written.items() if name != "notes"}
    read = FailedRun.model_validate(older)
    assert (read.reason, list(read.failures)) == ("error", written["failures"])
    assert [each.kind for each in read.notes] == ["lost-worker", "error"]
    spoilt = FailedRun.model_validate({**older, "failures": ["who knows: why"]})
    assert spoilt.failures == ("error: who knows: why",)


def test_a_finished_run_is_not_claimed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    folder.ledger.add(record(planned.recipe))
    assert folder.claim(planned.key, tries=3) is None


def test_damaged_runs_are_named_and_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned := planned_run())
    (tmp_path / "cells" / "0123456789abcdef.json").write_text('{"recipe": 1')
    assert [found.key for found in folder.runs()] == [planned.key]
    assert "0123456789abcdef" in next(iter(folder.ledger.damaged))
