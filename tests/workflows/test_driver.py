"""The Ray driver's bookkeeping, on a Ray that is made up: what comes back becomes attempts and records."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError

from isoembed.cli.boundary import line_of, status_of
from isoembed.core import InputError, portable
from isoembed.data.store import DamagedStoreError
from isoembed.records import FailedRun, ended
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import Attempt, PlannedRun, SweepFolder
from isoembed.workflows import cluster
from isoembed.workflows.cluster import LostClusterError, _connected, _Driver, _fitting, run_on_ray
from tests.sweep.fake import record, request
from tests.workflows.small import reasons


class RayError(Exception):
    pass


class TaskCancelledError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class NodeDiedError(RayError):
    pass


class LocalRayletDiedError(RayError):
    pass


class MadeUpRay:
    """Tasks end when they are asked after, in the order of submission, with what `result` says of them."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        TaskCancelledError=TaskCancelledError,
        OutOfMemoryError=OutOfMemoryError,
        RayTaskError=RayTaskError,
        NodeDiedError=NodeDiedError,
        LocalRayletDiedError=LocalRayletDiedError,
    )

    def __init__(self, result: Callable[[PlannedRun, Attempt], Any]) -> None:
        self.result = result
        self.tasks: list[tuple[PlannedRun, Attempt]] = []
        self.cancelled: set[int] = set()

    def submit(self, planned: PlannedRun, attempt: Attempt) -> int:
        self.tasks.append((planned, attempt))
        return len(self.tasks) - 1

    def wait(self, flights: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return flights[:num_returns], flights[num_returns:]

    def get(self, flight: int) -> Any:
        outcome = TaskCancelledError() if flight in self.cancelled else self.result(*self.tasks[flight])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, flight: int, *, force: bool = False) -> None:
        self.cancelled.add(flight)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    plan_sweep(tmp_path, request(budgets=(1e11,), methods=("full", "bias")))
    return SweepFolder(tmp_path)


def driver(folder: SweepFolder, ray: MadeUpRay, *, slots: int = 3) -> _Driver:
    return _Driver(ray, folder, tries=2, submit=ray.submit, slots=lambda: slots)  # type: ignore[arg-type]


def drive(folder: SweepFolder, ray: MadeUpRay) -> _Driver:
    made = driver(folder, ray)
    while made.step(False, 0.0):
        assert len(made.in_flight) <= 4  # one more than there is room for
    return made


def test_every_run_ends_in_one_record(folder: SweepFolder) -> None:
    ray = MadeUpRay(lambda planned, attempt: record(planned.recipe))
    made = drive(folder, ray)
    assert made.written == len(folder.runs()) == len(folder.ledger.records()) > 4
    assert len(ray.tasks) == made.written


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (OutOfMemoryError("node low on memory"), "out-of-memory"),
        (RayError("the worker crashed"), "lost-worker"),
        (ended("diverged", "text", text="not finite"), "diverged"),
    ],
)
def test_failures_are_attempts_until_the_tries_are_spent(folder: SweepFolder, result: Any, reason: str) -> None:
    bad = folder.runs()[1].key
    ray = MadeUpRay(lambda planned, attempt: result if planned.key == bad else record(planned.recipe))
    drive(folder, ray)
    (failed,) = [outcome for outcome in folder.ledger.outcomes() if isinstance(outcome, FailedRun)]
    assert (failed.key, failed.reason, len(failed.failures)) == (bad, reason, 2)
    assert [attempt.number for planned, attempt in ray.tasks if planned.key == bad] == [1, 2]
    assert len(folder.ledger.records()) == len(folder.runs()) - 1


def test_nodes_that_die_fail_no_run(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOST_PAUSE_SECONDS", 0.0)
    unlucky = folder.runs()[1].key
    dies = [NodeDiedError("gone"), LocalRayletDiedError("gone"), NodeDiedError("gone"), NodeDiedError("gone")]
    ray = MadeUpRay(lambda planned, attempt: dies.pop() if planned.key == unlucky and dies else record(planned.recipe))
    drive(folder, ray)
    assert not dies
    assert len(folder.ledger.records()) == len(folder.runs())


def test_the_next_attempt_inherits_the_checkpoint(folder: SweepFolder) -> None:
    lost = folder.runs()[0].key
    found: list[bool] = []

    def result(planned: PlannedRun, attempt: Attempt) -> Any:
        if planned.key == lost and attempt.number == 1:
            (folder.work(attempt) / "step-00000005").mkdir(parents=True)
            return RayError("node died")
        found.append((folder.work(attempt) / "step-00000005").is_dir())
        return record(planned.recipe)

    drive(folder, MadeUpRay(result))
    assert found.count(True) == 1


def test_a_node_that_cannot_open_the_sweep_ends_the_run_and_frees_its_runs(folder: SweepFolder) -> None:
    made = driver(folder, MadeUpRay(lambda planned, attempt: RayTaskError(InputError("no such folder"))))
    with pytest.raises(InputError, match="no such folder"):
        made.step(False, 0.0)
    made.abandon()
    ends = [folder.end_of(planned.key, 1) for planned in folder.runs()]
    assert {end.reason for end in ends if end is not None} == {"stopped"}
    assert sum(end is not None for end in ends) == 4


def test_a_stop_interrupts_what_is_in_flight_and_starts_nothing(folder: SweepFolder) -> None:
    ray = MadeUpRay(lambda planned, attempt: record(planned.recipe))
    made = driver(folder, ray)
    made.step(False, 0.0)
    assert len(made.in_flight) == 3
    while made.step(True, 0.0):
        pass
    assert not made.in_flight
    assert len(ray.tasks) == 4
    assert len(folder.ledger.records()) == 1
    assert all(folder.claim(planned.key, tries=1) for planned in folder.runs() if planned.key not in folder.ledger)


def test_runs_in_flight_have_a_heartbeat(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(folder, MadeUpRay(lambda planned, attempt: record(planned.recipe)))
    made.step(False, 0.0)
    monkeypatch.setattr(cluster, "HEARTBEAT_SECONDS", 0.0)
    files = {
        attempt: folder.path / "attempts" / f"{attempt.key}.{attempt.number}.beat"
        for attempt in made.in_flight.values()
    }
    for attempt in files:
        folder.heartbeat(attempt)
    before = {attempt: file.read_bytes() for attempt, file in files.items()}
    made.step(False, 0.0)
    still = [attempt for attempt in made.in_flight.values() if attempt in files]
    assert still
    assert all(files[attempt].read_bytes() != before[attempt] for attempt in still)


def test_a_node_that_is_lost_under_the_driver_ends_it(folder: SweepFolder) -> None:
    """Ray would wait for it for ever."""
    ray = MadeUpRay(lambda planned, attempt: record(planned.recipe))
    made = _Driver(ray, folder, tries=2, submit=ray.submit, slots=lambda: 1, lost=lambda: True)  # type: ignore[arg-type]
    with pytest.raises(LostClusterError):
        made.step(False, 0.0)


def test_runs_of_local_workers_are_left_to_them(folder: SweepFolder) -> None:
    theirs = folder.runs()[0]
    assert folder.claim(theirs.key, tries=2) is not None
    ray = MadeUpRay(lambda planned, attempt: record(planned.recipe))
    made = driver(folder, ray)
    while len(folder.ledger.keys()) < len(folder.runs()) - 1:
        assert made.step(False, 0.0)
    assert made.step(False, 0.0)  # theirs is still open
    folder.ledger.add(record(theirs.recipe))
    assert not made.step(False, 0.0)
    assert theirs.key not in {planned.key for planned, _ in ray.tasks}


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "room"),
    [
        ({"CPU": 8.0}, 3, 0.0, 2),
        ({"CPU": 8.0}, 1, 1.0, 0),
        ({"CPU": 8.0, "GPU": 1.0}, 1, 0.1, 8),
        ({"CPU": 64.0, "GPU": 1.0}, 1, 0.1, 10),
        ({"GPU": 1.0}, 1, 1.0, 0),
    ],
)
def test_room_on_a_node(resources: dict[str, float], cpus: int, gpus: float, room: int) -> None:
    assert _fitting(resources, cpus, gpus) == room


def test_a_cluster_that_is_started_here_is_closed_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listened on all interfaces, and whoever reaches its ports can run code."""
    asked: list[tuple[dict[str, Any], str | None]] = []
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.delenv(switch, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = SimpleNamespace(
        init=lambda **options: asked.append((options, os.environ.get(switch))), shutdown=lambda: asked.clear()
    )
    monkeypatch.setitem(sys.modules, "ray", made)
    with _connected(None):
        ((options, closed),) = asked
        assert (options["address"], options["include_dashboard"], closed) == ("local", False, "0")
    assert not asked
    monkeypatch.delenv(switch)
    with _connected("10.0.0.1:6379"):
        ((options, closed),) = asked
        assert (options["address"], closed) == ("10.0.0.1:6379", None)


def test_a_driver_that_its_cluster_takes_along_is_one_line(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A killed GCS or raylet ends the process of Ray's client from C++; its runs were left to be found lost."""
    pytest.importorskip("ray", reason="ray is not installed; it comes with isoembed[ray]")
    monkeypatch.setattr(cluster, "_drive_or_say", dies_at_a_cell)
    monkeypatch.setattr(cluster, "load_request", lambda ledger: None)
    with pytest.raises(LostClusterError, match="same command goes on") as caught:
        run_on_ray(folder.path, every_seconds=0.1)
    assert status_of(caught.value) == 1
    assert capfd.readouterr() == ("", "")
    assert reasons(folder.path) == ["stopped"]


def dies_at_a_cell(news: Any, ledger: Path, how: Any) -> None:
    """A driver's process."""
    folder = SweepFolder(ledger)
    assert folder.claim(folder.runs()[0].key, tries=1) is not None
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DamagedStoreError(Path("tokens"), "ids.npy"), 2),
        (LostClusterError("gone"), 1),
        (OSError(errno.ENOSPC, "full", "record"), 1),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1),
        (KeyError("a defect"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_driver_or_worker_ends_by_reaches_the_user(error: Exception, status: int | None) -> None:
    """An error whose class takes other arguments than its words could not be unpickled: a traceback in its place."""
    said = portable(error)
    if status is None:
        assert said is None
    else:
        arrived = pickle.loads(pickle.dumps(said))
        assert (line_of(arrived), status_of(arrived)) == (line_of(error), status_of(error))
        assert status_of(arrived) == status


@pytest.mark.parametrize(("cause", "status"), [(OSError(errno.ENOSPC, "full"), 1), (InputError("moved"), 2)])
def test_a_full_disk_of_a_node_is_the_machines_fault(folder: SweepFolder, cause: Exception, status: int) -> None:
    made = driver(folder, MadeUpRay(lambda planned, attempt: RayTaskError(cause)))
    with pytest.raises(InputError, match="cannot work on the sweep") as caught:
        made.step(False, 0.0)
    assert status_of(caught.value) == status


def test_without_ray_the_remedy_is_named(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"isoembed\[ray\]"):
        run_on_ray(folder.path)
