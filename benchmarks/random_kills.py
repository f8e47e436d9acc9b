"""Does a run that is killed again and again end as one that never was?

    python benchmarks/random_kills.py --kills 100 --out result.json

Trains nano-28k with a checkpoint after every step, kills it by SIGKILL, goes on with `resume`, until it ends; then once
more from the start, until there were as many kills as asked for.  Every other kill falls at a random time, the others
just before a random file operation of a checkpoint, of the metrics or of the export (opening, making, renaming,
removing).  Each run that ends is compared with an uninterrupted one: the record's facts, the loss of every step, the
lines of metrics.jsonl, the bytes of the exported weights.

Processes are forked from one that has imported everything, so that a kill costs no start-up.

    python benchmarks/random_kills.py --sweep --kills 50 --out result.json

The same of `sweep run` with two workers on four runs: at random moments the command alone is killed (its workers are
to save and end), or one of its workers (it is replaced), or all at once; then the command is given again.  Compared are
the records of all runs; none may have failed, and nothing may be left: no checkpoint, no file or folder half written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from isoembed.cache import working_folder
from isoembed.cli.terminal import no_library_bars
from isoembed.core import write_atomically
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import DataStats, Recipe
from isoembed.recommendation.request import Request
from isoembed.records import Ledger, RunRecord
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.request import SweepRequest
from isoembed.training.callbacks import StepFacts
from isoembed.training.checkpoint import checkpoints
from isoembed.training.execution import Execution
from isoembed.workflows.job import DataOptions, Job, plan_job, train_job
from isoembed.workflows.sweep import prepare_request
from speed_case import surroundings

#: what `resume` must not change; times, memory and dates differ
FACTS = ("key", "steps", "pairs", "tokens", "model_flop", "executed_flop", "final_loss", "heldout", "loss_curve")
_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})
EXECUTION = Execution(mini_batch_tokens=256, checkpoint_seconds=0.0, resume=True)


@dataclass
class Start:
    """A callback that writes down the step a run begins at."""

    file: Path

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.file.write_text(str(step))

    def step(self, facts: StepFacts) -> None: ...

    def end(self) -> None: ...


class FileOperations:
    """Counts this process's file operations under `folder`; kills it just before number `fatal`."""

    def __init__(self, folder: Path, fatal: int | None) -> None:
        self.folder, self.fatal, self.count = str(folder), fatal, 0
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and str(arguments[0]).startswith(self.folder):
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1


def small_pairs(folder: Path) -> DataOptions:
    """400 made-up pairs."""
    file = folder / "pairs.jsonl"
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataOptions(str(file))


def small_job(folder: Path, flop: float) -> Job:
    """nano-28k on them."""
    asked = Request.of(flop, NANO, model="nano-28k", method=Full(), batch_pairs=16, context_tokens=32)
    return plan_job(asked, small_pairs(folder), cache=folder / "tokens")


def train(job: Job, out: Path, fatal: int | None, counted: Path) -> None:
    """What a process does: train, or go on; how many file operations that took is left in `counted`."""
    operations = FileOperations(out, fatal)
    train_job(
        job, out, cache=out.with_suffix(".cache"), execution=EXECUTION, callbacks=[Start(out.with_suffix(".start"))]
    )
    counted.write_text(str(operations.count))


def work(out: Path) -> Path:
    """The working folder of a run."""
    return working_folder(out, out.with_suffix(".cache"))


def where(out: Path) -> str:
    """What a kill broke into, from what it left behind."""
    places = work(out) / "checkpoints"
    if (out / ".export.partial").exists():
        return "export"
    if (places / ".partial").exists():
        return "writing a checkpoint"
    if len(checkpoints(places)) > EXECUTION.keep_checkpoints:
        return "removing an old checkpoint"
    return "a step" if checkpoints(places) else "before the first checkpoint"


def differences(whole: Path, part: Path) -> list[str]:
    """How an interrupted run's outcome differs from the uninterrupted one's."""
    records = [RunRecord.load(out / "record.json") for out in (whole, part)]
    found = [name for name in FACTS if getattr(records[0], name) != getattr(records[1], name)]
    if (whole / "model.safetensors").read_bytes() != (part / "model.safetensors").read_bytes():
        found.append("weights")
    lines = (work(part) / "metrics.jsonl").read_text().splitlines()
    if [json.loads(line)["step"] for line in lines] != list(range(1, records[0].steps + 1)):
        found.append("metrics")
    return found


SWEEP = (
    "import sys; from pathlib import Path\n"
    "from isoembed.training.execution import Execution; from isoembed.workflows.sweep import run_sweep\n"
    "how = Execution(mini_batch_tokens=256, checkpoint_seconds=0.0, resume=True)\n"
    "run_sweep(Path(sys.argv[1]), workers=2, every_seconds=0.1, execution=how)\n"
)
VICTIMS = ("the command", "a worker", "all at once")


def small_sweep(folder: Path, flop: float) -> SweepRequest:
    """Full and bias-only on nano-28k at two budgets."""
    options = small_pairs(folder)
    asked = {"family": NANO, "models": ("nano-28k",), "methods": ("full", "bias"), "budgets": (flop, 2 * flop),
             "batch_pairs": 16, "context_tokens": 32, "max_epochs": 1e6, "data": DataStats.assumed(32)}  # fmt: skip
    return prepare_request(SweepRequest.model_validate(asked), options, cache=folder / "tokens")


def sweep_differences(whole: Path, part: Path, temporary: Path) -> list[str]:
    """How a sweep that was killed differs from one that was not, and what it left behind."""
    one, other = Ledger.open(whole), Ledger.open(part)
    records = [{outcome.key: outcome for outcome in ledger.outcomes()} for ledger in (one, other)]
    wrong = [f"{key} failed: {o.failures}" for key, o in records[1].items() if not isinstance(o, RunRecord)]
    if records[0].keys() != records[1].keys():
        wrong.append(f"{len(records[1])} records, not {len(records[0])}")
    for key in records[0].keys() & records[1].keys():
        names = [name for name in FACTS if getattr(records[0][key], name, None) != getattr(records[1][key], name, None)]
        wrong += [f"{name} of {key}" for name in names]
        wrong += [f"the losses of {key}"] if one.curve(key) != other.curve(key) else []
    left = [*part.rglob(".*partial*"), *part.glob("work/*"), *temporary.glob("isoembed-*/*")]
    return wrong + [f"left behind: {path.name}" for path in left]


def started_sweep(ledger: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(ledger)], start_new_session=True, env=environment)


def kill_in(running: subprocess.Popen[bytes], victim: str) -> bool:
    """Kill that part of the sweep; False where there was none."""
    target = running.pid
    if victim == "a worker":
        workers = [each for each in alive_in(running.pid) if "spawn_main" in " ".join(each.cmdline())]
        if not workers:
            return False
        target = random.choice(workers).pid
    (os.killpg if victim == "all at once" else os.kill)(target, signal.SIGKILL)
    return True


def alive_in(group: int) -> list[psutil.Process]:
    """Processes of the group, but for unburied ones."""
    found = []
    for each in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(each.pid) == group and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def group_ended(group: int, seconds: float = 180.0) -> bool:
    """Whether the last process of the group is gone within so long."""
    end = time.monotonic() + seconds
    while alive_in(group):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def kill_sweeps(kills: int, flop: float, folder: Path) -> dict[str, Any]:
    """Sweeps killed so often, compared as each ends."""
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    request, whole, part = small_sweep(folder, flop), folder / "whole", folder / "part"
    at, sweeps, wrong, begun = Counter[str](), 0, list[str](), time.monotonic()
    plan_sweep(whole, request)
    assert started_sweep(whole, environment).wait() == 0
    seconds = time.monotonic() - begun
    while at.total() < kills or part.exists():
        plan_sweep(part, request)
        running = started_sweep(part, environment)
        while at.total() < kills and running.poll() is None:
            try:
                running.wait(random.uniform(0.0, seconds))
            except subprocess.TimeoutExpired:
                victim = random.choice(VICTIMS)
                at[victim] += kill_in(running, victim)
        status = running.wait()
        if not group_ended(running.pid):
            wrong.append("workers outlived their parent")
            os.killpg(running.pid, signal.SIGKILL)
        if status == 0:
            sweeps += 1
            wrong += sweep_differences(whole, part, temporary)
            shutil.rmtree(part)
        elif status != -signal.SIGKILL:
            wrong.append(f"a sweep ended with exit status {status}")
            break
    records = len(Ledger.open(whole).records())
    return {"kills": at.total(), "at": dict(at), "sweeps_compared": sweeps, "cells": records, "wrong": wrong}


def kill_runs(kills: int, flop: float, folder: Path) -> dict[str, Any]:
    """Runs killed so often, compared as each ends."""
    fork, at, runs, wrong = multiprocessing.get_context("fork"), Counter[str](), 0, list[str]()
    job = small_job(folder, flop)
    whole, part, counted = folder / "whole", folder / "part", folder / "counted"

    def process(out: Path, fatal: int | None) -> multiprocessing.process.BaseProcess:
        started = fork.Process(target=train, args=(job, out, fatal, counted))
        started.start()
        return started

    begun = time.monotonic()
    (first := process(whole, None)).join()
    seconds, operations = time.monotonic() - begun, int(counted.read_text())
    assert first.exitcode == 0
    while at.total() < kills or part.exists():
        before = checkpoints(work(part) / "checkpoints")
        part.with_suffix(".start").unlink(missing_ok=True)
        last = at.total() >= kills
        by_time = random.random() < 0.5
        running = process(part, None if last or by_time else random.randrange(operations))
        running.join(None if last or not by_time else random.uniform(0.0, seconds))
        if running.is_alive():
            running.kill()
            running.join()
        begins = part.with_suffix(".start")
        newest = int(before[-1].name.removeprefix("step-")) if before else 0
        if begins.exists() and begins.read_text() and int(begins.read_text()) != newest:
            wrong.append(f"went on from step {begins.read_text()}, the newest checkpoint was {newest}")
        if running.exitcode == -signal.SIGKILL:
            at[where(part)] += 1
        elif running.exitcode == 0:
            runs += 1
            wrong += differences(whole, part)
            shutil.rmtree(part)
        else:
            wrong.append(f"a run ended with exit status {running.exitcode}")
            break
    steps = RunRecord.load(whole / "record.json").steps
    return {"kills": at.total(), "at": dict(at), "runs_compared": runs, "steps": steps,
            "file_operations": operations, "wrong": wrong}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sweep", action="store_true", help="kill sweeps, not single runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flop", type=float, default=1.5e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    no_library_bars()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        kill = kill_sweeps if asked.sweep else kill_runs
        result = kill(asked.kills, asked.flop, Path(scratch)) | surroundings()
    write_atomically(asked.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
