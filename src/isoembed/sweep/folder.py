"""A sweep on disk: its ledger, its planned cells, and who works on which.

    LEDGER/sweep.json           what was asked for
    LEDGER/cells/KEY.json       one planned cell
    LEDGER/attempts/KEY.N       attempt N at a cell: who made it; its file's time is the worker's heartbeat
    LEDGER/attempts/KEY.N.end   how attempt N ended, where it did not end in a record
    LEDGER/work/KEY.N/          checkpoints of attempt N, removed with the record
    LEDGER/records, curves      the ledger itself (`isoembed.records`)

An attempt is claimed by creating its file, which succeeds for one worker only, on a shared file system too.  A worker
whose heartbeat stopped is lost, and the next attempt is free to claim; nobody ever takes over a file.
"""

from __future__ import annotations

import datetime
import os
import platform
import socket
import time
from itertools import count, takewhile
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from isoembed.core import Frozen, write_atomically
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, Ledger

Reason = Literal["out-of-memory", "diverged", "lost-worker", "error"]

#: a heartbeat older than this means a lost worker
STALE_SECONDS = 90.0


class Cell(Frozen):
    """One planned run and what it is for."""

    recipe: Recipe
    stage: str = Field(description="part of the plan that asked for it")
    order: int = Field(0, description="place in the plan: lower ones run first")
    scored: bool = Field(False, description="scored on the sweep's tasks too")

    @property
    def key(self) -> str:
        return self.recipe.key


class Worker(Frozen):
    """Who made an attempt: enough to see on its own machine that it is gone."""

    host: str
    process: int
    started: float = Field(description="when the process started, seconds since the epoch")

    @classmethod
    def this(cls) -> Worker:
        process = psutil.Process()
        return cls(host=socket.gethostname(), process=process.pid, started=process.create_time())

    def is_gone(self) -> bool:
        """True where this machine knows that the worker is dead; False where it lives or is elsewhere."""
        if self.host != socket.gethostname():
            return False
        try:
            return abs(psutil.Process(self.process).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


class End(Frozen):
    """How an attempt ended without a record.  `stopped` is nobody's fault and does not count as a try."""

    reason: Reason | Literal["stopped"]
    words: str


class Attempt(Frozen):
    """One claimed attempt."""

    key: str
    number: int


class SweepFolder:
    """The folder of a sweep; see the module's head for what lies where."""

    def __init__(self, path: Path, *, stale_seconds: float = STALE_SECONDS) -> None:
        self.path, self.stale_seconds = path, stale_seconds
        self.ledger = Ledger(path)
        self._known: dict[str, Cell] = {}

    # ---- cells ----

    def add_cells(self, cells: list[Cell]) -> int:
        """Write the cells that are not there yet; returns how many those were."""
        new = [cell for cell in cells if not self._cell(cell.key).exists()]
        for cell in new:
            write_atomically(self._cell(cell.key), cell.model_dump_json() + "\n")
        return len(new)

    def cells(self) -> list[Cell]:
        """Every planned cell that can be read, in the plan's order."""
        for file in (self.path / "cells").glob("*.json"):
            if file.stem in self._known:  # a cell never changes
                continue
            try:
                self._known[file.stem] = Cell.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                self.ledger.damaged[str(file)] = str(error).splitlines()[0]
        return sorted(self._known.values(), key=lambda cell: (cell.order, cell.key))

    # ---- attempts ----

    def claim(self, key: str, *, tries: int) -> Attempt | None:
        """The next attempt at a cell, this worker's from now on; None where the cell is done, given up or taken.

        A lost attempt is ended here in its worker's name.  Where `tries` attempts have failed, the cell's failed record
        is the ledger's last word on it.
        """
        if key in self.ledger:
            return None
        numbers = self.attempts(key)
        last = max(numbers, default=0)
        if last and self.end_of(key, last) is None:
            if self.is_alive(key, last):
                return None
            self.end(Attempt(key=key, number=last), End(reason="lost-worker", words="the worker's heartbeat stopped"))
        if len(failures := self.failures(key)) >= max(1, tries):
            self._give_up(key, failures)
            return None
        attempt = Attempt(key=key, number=last + 1)
        file = self._attempt(attempt)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file.open("x", encoding="utf-8") as mine:
                mine.write(Worker.this().model_dump_json() + "\n")
        except FileExistsError:
            return None
        if key in self.ledger:  # a rival finished between the first look and the claim
            self.end(attempt, End(reason="stopped", words="the record was there already"))
            return None
        return attempt

    def attempts(self, key: str) -> list[int]:
        """Numbers of the attempts at a cell, from 1."""
        made = takewhile(lambda number: self._attempt(Attempt(key=key, number=number)).exists(), count(1))
        return list(made)  # without a gap: number n + 1 is claimed only after n

    def is_alive(self, key: str, number: int) -> bool:
        """Whether the attempt's worker still beats."""
        file = self._attempt(Attempt(key=key, number=number))
        try:
            beat = file.stat().st_mtime
        except FileNotFoundError:
            return False
        worker = self.worker(key, number)
        if worker is not None and worker.is_gone():
            return False
        return time.time() - beat < self.stale_seconds

    def worker(self, key: str, number: int) -> Worker | None:
        """Who made the attempt; None where it was claimed, and killed before it wrote its name."""
        try:
            return Worker.model_validate_json(self._attempt(Attempt(key=key, number=number)).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def beat(self, attempt: Attempt) -> None:
        """Tell that this attempt is being worked on."""
        os.utime(self._attempt(attempt))

    def end(self, attempt: Attempt, end: End) -> None:
        """Say how an attempt ended that left no record."""
        write_atomically(self._end(attempt), end.model_dump_json() + "\n")

    def end_of(self, key: str, number: int) -> End | None:
        """How an attempt ended; None where it goes on, or ended in a record."""
        try:
            return End.model_validate_json(self._end(Attempt(key=key, number=number)).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def failures(self, key: str) -> list[End]:
        """How the attempts at a cell failed, first to last; those that were merely stopped are left out."""
        ends = [self.end_of(key, number) for number in self.attempts(key)]
        return [end for end in ends if end is not None and end.reason != "stopped"]

    def work(self, attempt: Attempt) -> Path:
        """The folder for an attempt's checkpoints."""
        return self.path / "work" / f"{attempt.key}.{attempt.number}"

    def _give_up(self, key: str, failures: list[End]) -> None:
        cell = Cell.model_validate_json(self._cell(key).read_bytes())
        self.ledger.add(failed_run(cell.recipe, failures))

    def _cell(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.json"

    def _attempt(self, attempt: Attempt) -> Path:
        return self.path / "attempts" / f"{attempt.key}.{attempt.number}"

    def _end(self, attempt: Attempt) -> Path:
        return self.path / "attempts" / f"{attempt.key}.{attempt.number}.end"


def failed_run(recipe: Recipe, failures: list[End]) -> FailedRun:
    """The record of a cell that is given up after these failures."""
    reason = failures[-1].reason
    assert reason != "stopped"
    return FailedRun(
        recipe=recipe,
        key=recipe.key,
        reason=reason,
        failures=tuple(f"{end.reason}: {end.words}" for end in failures),
        machine={"host": platform.node(), "python": platform.python_version(), "system": platform.system()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
