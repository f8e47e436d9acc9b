"""Does a run that is killed again and again end as one that never was?

    python benchmarks/random_kills.py --kills 100 --out result.json

Trains nano-28k with a checkpoint after every step, kills it by SIGKILL, goes on with `resume`, until it ends; then once
more from the start, until there were as many kills as asked for.  Every other kill falls at a random time, the others
just before a random file operation of a checkpoint, of the metrics or of the export (opening, making, renaming,
removing).  Each run that ends is compared with an uninterrupted one: the record's facts, the loss of every step, the
lines of metrics.jsonl, the bytes of the exported weights.

Processes are forked from one that has imported everything, so that a kill costs no start-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isoembed.budget import Budget
from isoembed.core import write_atomically
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import Recipe
from isoembed.records import RunRecord
from isoembed.terminal import no_library_bars
from isoembed.training.checkpoint import checkpoints
from isoembed.training.loop import Execution
from isoembed.training.watchers import StepFacts
from isoembed.workflows.job import DataOptions, Job, plan_job, train_job
from speed_case import surroundings

#: what `resume` must not change; times, memory and dates differ
FACTS = ("key", "steps", "pairs", "tokens", "model_flop", "executed_flop", "final_loss", "heldout", "loss_curve")
_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})
EXECUTION = Execution(chunk_tokens=256, checkpoint_seconds=0.0, resume=True)


@dataclass
class Start:
    """A watcher that writes down the step a run begins at."""

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


def small_job(folder: Path, flop: float) -> Job:
    """nano-28k on 400 made-up pairs."""
    file = folder / "pairs.jsonl"
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plan_job(
        Budget.parse(f"{flop}"), NANO, DataOptions(str(file)), cache=folder / "tokens", model="nano-28k", method=Full(),
        batch_pairs=16, context_tokens=32,
    )  # fmt: skip


def train(job: Job, out: Path, fatal: int | None, counted: Path) -> None:
    """What a process does: train, or go on; how many file operations that took is left in `counted`."""
    operations = FileOperations(out, fatal)
    train_job(job, out, execution=EXECUTION, watchers=[Start(out.with_suffix(".start"))])
    counted.write_text(str(operations.count))


def where(out: Path) -> str:
    """What a kill broke into, from what it left behind."""
    places = out / "training" / "checkpoints"
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
    lines = (part / "training" / "metrics.jsonl").read_text().splitlines()
    if [json.loads(line)["step"] for line in lines] != list(range(1, records[0].steps + 1)):
        found.append("metrics")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flop", type=float, default=1.5e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    no_library_bars()
    fork, chance = multiprocessing.get_context("fork"), random.Random(asked.seed)
    kills, runs, wrong = Counter[str](), 0, list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = small_job(folder, asked.flop)
        whole, part, counted = folder / "whole", folder / "part", folder / "counted"

        def process(out: Path, fatal: int | None) -> multiprocessing.process.BaseProcess:
            started = fork.Process(target=train, args=(job, out, fatal, counted))
            started.start()
            return started

        begun = time.monotonic()
        (first := process(whole, None)).join()
        seconds, operations = time.monotonic() - begun, int(counted.read_text())
        assert first.exitcode == 0
        while kills.total() < asked.kills or part.exists():
            before = checkpoints(part / "training" / "checkpoints")
            part.with_suffix(".start").unlink(missing_ok=True)
            last = kills.total() >= asked.kills
            by_time = chance.random() < 0.5
            running = process(part, None if last or by_time else chance.randrange(operations))
            running.join(None if last or not by_time else chance.uniform(0.0, seconds))
            if running.is_alive():
                running.kill()
                running.join()
            begins = part.with_suffix(".start")
            newest = int(before[-1].name.removeprefix("step-")) if before else 0
            if begins.exists() and begins.read_text() and int(begins.read_text()) != newest:
                wrong.append(f"went on from step {begins.read_text()}, the newest checkpoint was {newest}")
            if running.exitcode == -signal.SIGKILL:
                kills[where(part)] += 1
            elif running.exitcode == 0:
                runs += 1
                wrong += differences(whole, part)
                shutil.rmtree(part)
            else:
                wrong.append(f"a run ended with exit status {running.exitcode}")
                break
        steps = RunRecord.load(whole / "record.json").steps
    result = {"kills": kills.total(), "at": dict(kills), "runs_compared": runs, "steps": steps,
              "file_operations": operations, "wrong": wrong, **surroundings()}  # fmt: skip
    write_atomically(asked.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
