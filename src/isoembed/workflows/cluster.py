"""Sweeps on a Ray cluster: the driver claims runs of the ledger and hands each to Ray as a task.

    driver (this file)                          node (`isoembed.workflows.node`)
    claim_next   one attempt a task      --->   open the sweep (pairs, tokenizer, tasks), once a process
    heartbeat    for all in flight              execute (the same as a local worker's)
    settle       record or failure       <---   RunRecord or EndNote

Only the driver touches the ledger's attempts and records, through the calls that local workers use; both may work on
one ledger at the same time.  What nodes need travels through Ray's object store, or lies on a shared file system.

A run whose worker or node is lost is handed to Ray again as the ledger's next attempt, from the newest checkpoint
where the ledger's folder is shared, from step 0 otherwise.  Ray's own retries are off: they do not count in the ledger,
and those after a kill for memory never end.

Arguments and results are pickled by Ray in transit; nothing of ours is pickled to disk.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from isoembed.core import InputError, first_line, portable, system_error
from isoembed.data.packed import PackedData
from isoembed.records import EndNote, RunRecord, ended
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import LOST, Attempt, PlannedRun, SweepFolder
from isoembed.sweep.request import load_request
from isoembed.sweep.work import (
    HEARTBEAT_SECONDS,
    STOPPED,
    Heartbeat,
    claim_next,
    end_for,
    inherit,
    is_over,
    patiently,
    settle,
)
from isoembed.training.execution import Execution
from isoembed.workflows.node import NodePayload, attempt_run, forget
from isoembed.workflows.sweep import SWEEP_EXECUTION, Stopping, open_context, stop_with_parent

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.queues import SimpleQueue

    from ray import ObjectRef

#: how long runs in flight may take to save their checkpoints after a signal
STOP_SECONDS = 60.0
#: between the loss of a node and the next task, which Ray would hand to it too until it has noticed
LOST_PAUSE_SECONDS = 1.0
#: how long nodes may take at the end to remove what was unpacked there
FORGET_SECONDS = 20.0


def run_on_ray(
    ledger: Path,
    *,
    address: str | None = None,
    cpus_per_run: int = 1,
    gpus_per_run: float = 0.0,
    shared: bool = False,
    tries: int = 3,
    watch: Callable[[SweepFolder], None] = lambda folder: None,
    every_seconds: float = 1.0,
    execution: Execution = SWEEP_EXECUTION,
) -> int:
    """Work the sweep off on a Ray cluster, stage by stage, until it is complete; returns how many records were written.

    address: of a running cluster, or `auto` for the one on this machine; None starts one here for the time being.
    cpus_per_run: also the threads a run trains with.
    gpus_per_run: 0 trains on the CPU; a fraction lets several runs share a GPU.
    shared: every node sees the ledger, the token stores and local models under the same paths.  Checkpoints then go to
    the ledger; otherwise to the node's temporary folder, and die with it, so that runs which extend others (of the
    schedule wsd) begin anew, at their full price.
    watch: called about every `every_seconds`.

    Base models are opened on the nodes: they ship with isoembed, come from the hub, or lie under the same path.
    The first ctrl-C or SIGTERM stops the runs with a checkpoint each, the second one ends the driver at once.
    Raises InputError where Ray, the cluster, resources for one run, or a node's means to open the sweep are missing.
    """
    load_request(ledger)
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "A sweep on a cluster needs the library ray, which is not installed; `pip install 'isoembed[ray]'`."
        )
    _reach(address)
    how = _How(address, cpus_per_run, gpus_per_run, shared, tries, every_seconds, execution)
    context = multiprocessing.get_context("spawn")
    news: SimpleQueue[tuple[str, Any]] = context.SimpleQueue()
    driver = context.Process(target=_drive_or_say, args=(news, ledger.resolve(), how))
    folder = SweepFolder(ledger)
    said = _followed(driver, news, lambda: watch(folder), every_seconds)
    if "problem" in said:
        raise said["problem"]
    if "written" not in said:
        end_for(folder, {driver.pid or 0})
        raise LostClusterError(
            "The Ray cluster must last as long as the sweep; its head, or the part of it on this machine, is gone. "
            "Start it again; the same command goes on."
        )
    return int(said["written"])


def _followed(
    driver: BaseProcess, news: SimpleQueue[tuple[str, Any]], watch: Callable[[], None], every_seconds: float
) -> dict[str, Any]:
    """Run the driver to its end, passing on its words, and to it what this process is asked to stop by; what it said
    of that end: `written` or `problem`, or nothing."""
    said, passed_on = dict[str, Any](), 0
    with Stopping() as stopping:
        driver.start()
        while True:
            over = not driver.is_alive()
            while not news.empty():
                kind, value = news.get()
                if kind == "words":
                    print(value, file=sys.stderr, flush=True)
                else:
                    said[kind] = value
            watch()
            if over:
                return said
            if stopping.requests > passed_on:
                passed_on += 1
                driver.terminate()
            driver.join(every_seconds)


class LostClusterError(InputError):
    """Ray ended under the sweep."""

    exit_code = 1


@dataclass(frozen=True)
class _How:
    """What `run_on_ray` was asked for, on its way to the driver's process."""

    address: str | None
    cpus_per_run: int
    gpus_per_run: float
    shared: bool
    tries: int
    every_seconds: float
    execution: Execution


def _drive_or_say(news: SimpleQueue[tuple[str, Any]], ledger: Path, how: _How) -> None:
    """The driver's process.  Where its cluster dies Ray ends it from C++, with pages of its own on standard error and
    output: those are closed to it, and what is to be said goes to the parent."""
    os.setsid()  # ctrl-C comes from the parent alone
    stop_with_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        news.put(("written", _drive(ledger, how, say=lambda words: news.put(("words", words)))))
    except Exception as error:
        news.put(("problem", portable(error) or RuntimeError(traceback.format_exc())))


def _drive(ledger: Path, how: _How, say: Callable[[str], None]) -> int:
    """Hand runs to Ray until none is left; returns how many records were written."""
    folder, request = SweepFolder(ledger), load_request(ledger)
    execution = how.execution
    if execution.device is None:
        execution = replace(execution, device="cuda" if how.gpus_per_run else "cpu")
    cpus, gpus = how.cpus_per_run, how.gpus_per_run
    with _connected(how.address) as ray, Stopping() as stopping:
        folder.clear()
        context = open_context(request, execution)
        packed = PackedData.of(context.data, files=not how.shared)
        payload = ray.put(NodePayload(request, packed, tuple(context.tasks), execution))
        task = ray.remote(attempt_run).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD"
        )
        shared_ledger = folder.path if how.shared else None
        driver = _Driver(
            ray,
            folder,
            tries=how.tries,
            submit=lambda run, attempt: task.remote(run, attempt, shared_ledger, [payload], cpus),
            slots=lambda: sum(_fitting(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"]),
            heartbeat=Heartbeat(folder, say),
            lost=_loss_of_this_node(ray),
        )
        if not driver.slots():
            raise InputError(
                f"A node of the cluster must have room for one run ({cpus} CPUs, {gpus:g} GPUs); "
                "none has. Ask for less per run, or add nodes."
            )
        try:
            while stopping.requests < 2 and driver.step(stopping.requests > 0, how.every_seconds):
                pass
        finally:
            driver.abandon()
        if not how.shared:
            _forget(ray, payload)
    return driver.written


def _loss_of_this_node(ray: ModuleType) -> Callable[[], bool]:
    """Whether the node that the driver goes through is lost: Ray would wait for it for ever."""
    here = ray.get_runtime_context().get_node_id()
    return lambda: not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)


def _forget(ray: ModuleType, payload: ObjectRef[Any]) -> None:
    """Have every node remove the pairs that were unpacked there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(forget)
    tasks = [
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote([payload])
        for node in ray.nodes()
        if node["Alive"]
    ]
    ray.wait(tasks, num_returns=len(tasks), timeout=FORGET_SECONDS)


class _Driver:
    """Runs in flight, and what becomes of them."""

    def __init__(
        self,
        ray: ModuleType,
        folder: SweepFolder,
        *,
        tries: int,
        submit: Callable[[PlannedRun, Attempt], ObjectRef[Any]],
        slots: Callable[[], int],
        heartbeat: Heartbeat | None = None,
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self.heartbeat, self.lost = heartbeat or Heartbeat(folder), lost
        self.ray, self.folder, self.tries, self.submit, self.slots = ray, folder, tries, submit, slots
        self.in_flight: dict[ObjectRef[Any], Attempt] = {}
        self.written = 0
        self.sent = 0.0
        self.stop_by: float | None = None

    def step(self, stopping: bool, seconds: float) -> bool:
        """Send heartbeats, submit, wait for a run at most `seconds`, and collect it; False where none is left."""
        self._send_heartbeats()
        if stopping:
            others = False
            self._cancel()
        else:
            others = patiently(self._fill)
        if self.in_flight:
            ended, _ = self.ray.wait(list(self.in_flight), num_returns=1, timeout=seconds)
            for task in ended:
                self._collect(task)
            return self.stop_by is None or time.monotonic() < self.stop_by
        if others:
            time.sleep(seconds)
            return True
        if stopping:
            return False
        if not patiently(lambda: is_over(self.folder, lambda: plan_sweep(self.folder.path)[1])):
            return True
        self.folder.remove_trunks()
        return False

    def abandon(self) -> None:
        """Give back whatever is still in flight."""
        for task, attempt in self.in_flight.items():
            self.ray.cancel(task, force=True)
            self.folder.end(attempt, STOPPED)
        self.in_flight = {}

    def _send_heartbeats(self) -> None:
        if time.monotonic() - self.sent >= HEARTBEAT_SECONDS:
            if self.lost():
                raise LostClusterError("The node of the Ray cluster that the sweep goes through is lost.")
            self.heartbeat.send(self.in_flight.values())
            self.sent = time.monotonic()

    def _fill(self) -> bool:
        """Submit runs until one waits for a node (an idle node finds it, an autoscaler sees it); True where runs are
        open that nobody can claim now."""
        room = self.slots() + 1
        while len(self.in_flight) < room:
            claimed, others = claim_next(self.folder, self.tries)
            if claimed is None:
                return others
            run, attempt = claimed
            inherit(self.folder, attempt)
            self.in_flight[self.submit(run, attempt)] = attempt
        return True

    def _cancel(self) -> None:
        """Once: interrupt the runs in flight, which the training loop takes for ctrl-C."""
        if self.stop_by is None:
            self.stop_by = time.monotonic() + STOP_SECONDS
            for task in self.in_flight:
                self.ray.cancel(task)

    def _collect(self, task: ObjectRef[Any]) -> None:
        """Write down how a task ended; what would fail every run, a setup or a full disk, ends the sweep."""
        attempt = self.in_flight[task]
        errors = self.ray.exceptions
        outcome: RunRecord | EndNote | None
        try:
            outcome = self.ray.get(task)
        except errors.TaskCancelledError:
            outcome = None
        except errors.OutOfMemoryError as error:  # Ray killed the worker before the node ran out
            outcome = ended("out-of-memory", "text", text=_first_line(error))
        except errors.RayTaskError as error:
            problem = InputError(f"A node cannot work on the sweep: {error.cause or error}")
            if error.cause is not None and system_error(error.cause) is not None:
                problem.exit_code = 1
            raise problem from error
        except (errors.NodeDiedError, errors.LocalRayletDiedError) as error:
            del self.in_flight[task]
            self.folder.end(
                attempt, LOST.model_copy(update={"note": ended("lost-worker", "text", text=_first_line(error))})
            )
            self.sent = 0.0  # look at once whether it was the node that the driver goes through
            time.sleep(LOST_PAUSE_SECONDS)
            return
        except errors.RayError as error:
            outcome = ended("lost-worker", "text", text=_first_line(error))
        del self.in_flight[task]
        if outcome is None:
            self.folder.end(attempt, STOPPED)
        else:
            self.written += patiently(lambda: settle(self.folder, attempt, outcome))


@contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected; a cluster started here has no dashboard, reports no usage, and listens on this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # without it Ray puts the outer address for 127.0.0.1
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Raises InputError where nothing listens at HOST:PORT, which Ray would try for many minutes."""
    if address in (None, "auto"):
        return
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"`address` must be that of a running Ray cluster with this Ray and Python; {address!r} is not ({error}). "
        "Start one with `ray start --head`."
    )


def _fitting(resources: dict[str, float], cpus: int, gpus: float) -> int:
    """Runs that a node has room for."""
    room = resources.get("CPU", 0.0) / cpus
    return int((min(room, resources.get("GPU", 0.0) / gpus) if gpus else room) + 1e-9)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
