"""Sweeps on this machine: prepare what the runs share, plan, and work the runs off in one or several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import PreTrainedTokenizerFast

from isoembed.core import InputError, StoppedError, portable
from isoembed.encoder.load import attend_both_ways, load_model, weights_hash
from isoembed.encoder.precision import AskedPrecision, fastest
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.evaluation.tasks import ALL_READERS, Task, open_task, open_tasks
from isoembed.families.base import ModelSpec
from isoembed.methods import Full
from isoembed.recipe import Precision, Recipe, check_trained, price_of, solve
from isoembed.records import EndNote, RunRecord, ended
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import End, PlannedRun, SweepFolder
from isoembed.sweep.request import SweepRequest, load_request
from isoembed.sweep.work import end_for, work
from isoembed.training.checkpoint import branch, checkpoints
from isoembed.training.execution import Execution
from isoembed.training.signals import HANGUP, stop_signals
from isoembed.training.speed import measure_speed
from isoembed.workflows.execute import RunContext, execute
from isoembed.workflows.job import DataOptions

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.queues import SimpleQueue

_LOG = logging.getLogger(__name__)
#: how runs run unless told otherwise
SWEEP_EXECUTION = Execution(checkpoint_seconds=60.0, resume=True)
#: a worker process that dies without having claimed a run is replaced this often
_RESPAWNS = 20
#: how long a worker may take to save its checkpoint once its parent is dead
_ORPHAN_SECONDS = 120.0


def prepare_request(
    request: SweepRequest, data: DataOptions, *, cache: Path, precision: AskedPrecision | None = None
) -> SweepRequest:
    """The request with what needs data and weights: the data's statistics, the models' hashes, what they allow; and the
    `precision` of its runs where that is given, one for all, so that they compare: `auto` is bf16 where that is faster
    here for each model.
    """
    settings = [request.setup, *(each.of(request.setup) for each in request.variations)]
    for setup in settings:
        check_trained(setup)  # before the data are read
    data = data.absolute()  # the sweep may be run from another folder
    tokenizer = tokenizer_of(request)
    pairs = data.prepare(tokenizer, request, cache=cache)
    request = request.model_copy(update={"data": pairs.stats})
    hashes = {}
    for size in request.sizes:  # weights that a limit leaves out are not asked for
        base = load_model(size.source, depth=size.depth)
        hashes[size.name] = weights_hash(base)
        if any(setup.options.bidirectional for setup in settings):
            attend_both_ways(base)  # refused before anything is planned, where it is
    fields = {name: getattr(data, name) for name in DataOptions.__dataclass_fields__}
    for name in ("max_row_bytes", "heldout_pairs"):
        if fields[name] == getattr(DataOptions, name):
            del fields[name]  # as in requests of before there was such a field, which are to stay the same
    return request.model_copy(
        update={
            "base_hashes": hashes,
            "precision": _for_all(request) if precision == "auto" else precision or request.precision,
            "data_options": {**fields, "cache": str(cache.resolve())},
        }
    )


def _for_all(request: SweepRequest) -> Precision:
    device = SWEEP_EXECUTION.torch_device()
    found = {fastest(device, size.hidden) for size in request.sizes}
    return "bf16" if found == {"bf16"} else "fp32"


def measure_pace(request: SweepRequest, *, steps: int = 3) -> dict[str, object]:
    """The fields of a request that say how fast its runs would be on this machine with all its cores: a few steps of
    full fine-tuning on each model, and what a run, and a worker, take beside steps."""
    began = time.perf_counter()
    execution = replace(SWEEP_EXECUTION, resume=False, precision=request.precision)
    context = open_context(request, execution)
    subprocess.run([sys.executable, "-c", f"import {__name__}"], check=False)
    startup = time.perf_counter() - began
    speeds, beside = {}, {}
    for size in request.sizes:
        try:
            recipe = _timed_recipe(request, size, steps)
        except InputError:  # no run of this model will be planned, and the plan says why
            continue
        speed = measure_speed(recipe, context.data, execution, steps=steps)
        speeds[size.name] = speed.flop_per_second
        beside[size.name] = speed.setup_seconds + speed.heldout_seconds
        startup += speed.heldout_seconds  # of the untrained model, once a worker
    return {"speeds": speeds, "run_seconds": beside, "startup_seconds": startup}


def _timed_recipe(request: SweepRequest, size: ModelSpec, steps: int) -> Recipe:
    """Full fine-tuning of `size` for `steps` steps and the one before them."""
    method, data = Full(), request.data
    tokens = (steps + 1) * request.batch_pairs * data.tokens_per_pair
    flop = price_of(method.cost(size), request.options, data).flop(tokens)
    rate = request.family.peak_rate(size, method, steps=steps + 1)[0]
    recipe = solve(flop, size, method, rate, request.setup, data, family=request.family.name)
    return recipe.model_copy(update={"base_hash": request.base_hashes.get(size.name)})


def tokenizer_of(request: SweepRequest) -> PreTrainedTokenizerFast:
    """The one that all models of a sweep share."""
    return load_tokenizer(request.family.model(request.models[0]).source, pooling=request.pooling)


def open_context(request: SweepRequest, execution: Execution) -> RunContext:
    """Data, tokenizer and tasks, as every worker of the sweep sees them."""
    options = dict(request.data_options)
    cache = Path(str(options.pop("cache")))
    tokenizer = tokenizer_of(request)
    data = DataOptions(**options).prepare(tokenizer, request, cache=cache)  # type: ignore[arg-type]
    return RunContext(data, tokenizer, open_all(request.tasks), execution)


def open_all(places: Sequence[str]) -> list[Task]:
    """The tasks in these folders: each KIND/NAME itself, or a folder of such."""
    tasks: list[Task] = []
    for place in map(Path, places):
        kind = place.parent.name
        tasks += [open_task(kind, place)] if kind in ALL_READERS else open_tasks(place)
    return tasks


def work_here(ledger: Path, *, threads: int, tries: int = 3, execution: Execution = SWEEP_EXECUTION) -> int:
    """One worker in this process: work runs off until the sweep is complete; returns how many records it wrote.

    SIGINT, SIGTERM or SIGHUP ends it, within a run with a checkpoint after the current step.
    """
    torch.set_num_threads(threads)
    folder, request = SweepFolder(ledger), load_request(ledger)
    with Stopping() as stopping:
        folder.clear()
        try:
            with stopping.at_once():
                context = open_context(request, execution)
        except KeyboardInterrupt:
            return 0

        def train(run: PlannedRun, place: Path) -> RunRecord | EndNote:
            try:
                with stopping.at_once():
                    extend(folder, run, place)
                    return execute(run.recipe, place, context, scored=run.scored)
            except KeyboardInterrupt as stopped:
                raise StoppedError("Stopped by a signal.") from stopped

        more, asked = lambda: plan_sweep(ledger)[1], lambda: stopping.requests > 0
        return work(folder, train, tries=tries, more=more, stopping=asked)


def extend(folder: SweepFolder, run: PlannedRun, place: Path) -> None:
    """Begin a run that extends another with that one's trunk, in `place`; where the run was begun, nothing is done, and
    where the trunk is not there it is said why: the run is the same, at its full price."""
    record = None if run.extends is None or checkpoints(place) else folder.ledger.outcome(run.extends)
    if isinstance(record, RunRecord):
        origin = record.model_copy(update={"loss_curve": folder.ledger.curve(record.key)})
        try:
            branch(folder.trunk(record.key), place, run.recipe, origin)
        except InputError as error:
            _LOG.warning("The run %s is made whole, at its full price: %s", run.key, error)


class Stopping:
    """Counts SIGINT, SIGTERM and SIGHUP in `requests` instead of dying of them.

    Within `at_once` the first one also raises KeyboardInterrupt, which no library takes for an error of its own.  The
    training loop, which has a checkpoint to save first, puts its own handlers before these.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._at_once = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a request does not wait, and one from before it neither."""
        self._at_once = True
        try:
            if self.requests:
                self._stop()
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: object) -> None:
        self.requests += number != HANGUP or not self.requests  # nobody presses that twice
        if self._at_once:
            self._stop()

    def _stop(self) -> None:
        self._at_once = False  # a second request must not break into the first one's clean-up
        raise KeyboardInterrupt


def run_sweep(
    ledger: Path,
    *,
    workers: int = 1,
    tries: int = 3,
    watch: Callable[[SweepFolder], None] = lambda folder: None,
    every_seconds: float = 1.0,
    execution: Execution = SWEEP_EXECUTION,
) -> None:
    """Work the sweep off in `workers` processes, replacing those that die; `watch` is called between looks.

    Ctrl-C, SIGTERM or SIGHUP is passed on to the workers, which save a checkpoint and end; a second one kills them,
    which costs the work since their last checkpoints and none of the runs' tries.

    Raises, after the other workers have stopped, what one of them met that no worker can get past: InputError for data
    that cannot be opened, OSError for a full disk.
    """
    load_request(ledger)
    context = multiprocessing.get_context("spawn")
    how = {"threads": max(1, (os.cpu_count() or 1) // workers), "tries": tries, "execution": execution}
    fatal_errors: SimpleQueue[Exception] = context.SimpleQueue()

    def start() -> BaseProcess:
        process = context.Process(target=_work_or_say, args=(fatal_errors, ledger), kwargs=how)
        process.start()
        return process

    folder = SweepFolder(ledger)
    respawns = _RESPAWNS
    asked, killed = 0, set[int]()
    fatal_error: Exception | None = None
    with Stopping() as stopping:
        running = [start() for _ in range(workers)]
        while running:
            watch(folder)
            time.sleep(every_seconds)
            if fatal_error is None and not fatal_errors.empty():
                fatal_error = fatal_errors.get()
                stopping.requests += 1  # nobody else can get past it either
            if stopping.requests > asked:
                asked = stopping.requests
                for process in running:
                    process.terminate() if asked == 1 else process.kill()
                    killed |= {process.pid} if asked > 1 and process.pid else set()
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                if process.exitcode and not asked and fatal_errors.empty() and respawns:
                    respawns -= not _end_of_crashed(folder, process)
                    running.append(start())
        end_for(folder, killed)
    watch(folder)
    if fatal_error is None and not fatal_errors.empty():
        fatal_error = fatal_errors.get()
    if fatal_error is not None:
        raise fatal_error


def _end_of_crashed(folder: SweepFolder, process: BaseProcess) -> bool:
    """End in its name what a worker was at that died under our eyes; False where that was nothing."""
    code = process.exitcode or 0
    if code < 0:
        how = ended("lost-worker", "process-killed", signal=signal.Signals(-code).name)
    else:
        how = ended("lost-worker", "process-ended", status=code)
    return bool(process.pid and end_for(folder, [process.pid], End(note=how)))


def stop_with_parent() -> None:
    """Have this process stop, as by SIGTERM, when the one that started it is dead, however that died."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()  # a pipe that closes with the parent
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _work_or_say(fatal_errors: SimpleQueue[Exception], ledger: Path, **how: Any) -> None:
    """A worker process; what no other one could get past either is said to the parent, not printed by each."""
    stop_with_parent()
    try:
        work_here(ledger, **how)
    except Exception as error:
        if (said := portable(error)) is None:
            raise
        fatal_errors.put(said)
        sys.exit(1)
