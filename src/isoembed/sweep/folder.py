"""A sweep on disk: its ledger, its planned runs, and who works on which.

    LEDGER/sweep.json           what was asked for
    LEDGER/cells/KEY.json       one planned run
    LEDGER/attempts/KEY.N       attempt N at it: who made it
    LEDGER/attempts/KEY.N.beat  its worker's heartbeat: other bytes every few seconds
    LEDGER/attempts/KEY.N.end   how attempt N ended, where it did not end in a record
    LEDGER/work/KEY.N/          checkpoints of attempt N, removed with the record
    LEDGER/trunks/KEY/          where a run stood that others extend, until the sweep is complete
    LEDGER/records, curves      the ledger itself (`isoembed.records`)

An attempt is claimed by creating its file, which succeeds for one worker only, on a shared file system too.  A worker
is lost when whoever waits for it has watched its heartbeat stand still for `STALE_SECONDS`: clocks of two machines are
never compared, nor one clock with itself before it was set.  The next attempt is then free to claim; nobody ever takes
over a file, and a worker thought lost that finishes after all still writes the record.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, computed_field, model_validator

from isoembed.core import Frozen, write_atomically
from isoembed.recipe import Recipe
from isoembed.records import EndNote, FailedRun, Ledger, Reason, ended
from isoembed.scratch import STEPS, TRUNK, clock, own_place, remove, step_of
from isoembed.sweep.stage import Stage
from isoembed.sweep.worker import Worker

#: a heartbeat that was watched for so long without a change means a lost worker
STALE_SECONDS = 90.0
#: the most that the time between two looks at a heartbeat counts: whoever looks may have been suspended meanwhile,
#: together with whom it watches
LOOK_SECONDS = 10.0


class PlannedRun(Frozen):
    """One planned run and what it is for."""

    recipe: Recipe
    part: Stage = Field(description="of the plan that asked for it")
    order: int = Field(0, description="place in the plan: lower ones run first")
    scored: bool = Field(False, description="scored on the sweep's tasks too")
    keeps_trunk: bool = Field(False, description="where it stood before its rate fell is kept: longer runs extend it")
    extends: str | None = Field(None, description="key of the run that it goes on from, where its trunk is there")
    inherited_flop: float = Field(0.0, description="of its C, what that run has spent")
    inherited_teacher_flop: float = Field(0.0, description="of its teacher's FLOP, what that run has paid")

    @model_validator(mode="before")
    @classmethod
    def _part_in_words(cls, value: Any) -> Any:
        """`stage` is the part in words: all that older files have."""
        if not isinstance(value, dict) or "stage" not in value:
            return value
        others = {name: each for name, each in value.items() if name != "stage"}
        return {"part": Stage.of_older_file(value["stage"]), **others}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stage(self) -> str:
        """Its part of the plan, as tables show it."""
        return str(self.part)

    @property
    def key(self) -> str:
        return self.recipe.key

    @property
    def own_flop(self) -> float:
        """C but for what it inherits."""
        return self.recipe.flop - self.inherited_flop

    def with_seed(self, seed: int) -> PlannedRun:
        """The same with another seed."""
        return self.model_copy(update={"recipe": self.recipe.model_copy(update={"seed": seed})})


class End(Frozen):
    """How an attempt ended without a record."""

    note: EndNote
    counts: bool = Field(True, description="as a failure of the run itself; what was merely stopped never does")
    steps: int = Field(0, description="of the newest checkpoint that the attempt had when it ended")

    @model_validator(mode="before")
    @classmethod
    def _of_older_file(cls, given: Any) -> Any:
        """A file of before there were notes has their words alone."""
        if not isinstance(given, dict):
            return given
        others = {name: value for name, value in given.items() if name not in ("reason", "words")}
        if "note" in others or not given.keys() >= {"reason", "words"}:
            return others
        return {"note": {"kind": given["reason"], "code": "text", "fields": {"text": given["words"]}}} | others

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> Reason | Literal["stopped"]:
        return self.note.kind

    @computed_field  # type: ignore[prop-decorator]
    @property
    def words(self) -> str:
        """What was seen of it."""
        return self.note.describe()


#: of an attempt whose worker went away, nobody knows why: killed, with its machine or its sweep as a whole
LOST = End(note=ended("lost-worker", "gone"), counts=False)


@dataclass
class _Watched:
    """A heartbeat, and for how long it was seen to stand still."""

    heartbeat: bytes
    looked: float
    still_seconds: float = 0.0


class Attempt(Frozen):
    """One claimed attempt."""

    key: str
    number: int


class SweepFolder:
    """The folder of a sweep; see the module's head for what lies where."""

    def __init__(self, path: Path, *, stale_seconds: float = STALE_SECONDS) -> None:
        self.path, self.stale_seconds = path, stale_seconds
        self.ledger = Ledger(path)
        self._known: dict[str, PlannedRun] = {}
        self._watched: dict[Attempt, _Watched] = {}

    # ---- runs ----

    def add_runs(self, runs: list[PlannedRun]) -> int:
        """Write the runs that are not there yet, or cannot be read; returns how many those were."""
        there = {run.key for run in self.runs()}
        new = [run for run in runs if run.key not in there]
        for run in new:
            write_atomically(self._file(run.key), run.model_dump_json() + "\n")
        return len(new)

    def runs(self) -> list[PlannedRun]:
        """Every planned run that can be read and is what its file's name says, in the plan's order."""
        for file in (self.path / "cells").glob("*.json"):
            if file.stem in self._known:  # a run never changes
                continue
            try:
                run = PlannedRun.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                self.ledger.damaged[str(file)] = str(error).splitlines()[0]
                continue
            if run.key == file.stem:
                self._known[run.key] = run
            else:
                self.ledger.damaged[str(file)] = f"it holds the run {run.key}: it was changed or renamed"
        return sorted(self._known.values(), key=lambda run: (run.order, run.key))

    # ---- attempts ----

    def claim(self, key: str, *, tries: int) -> Attempt | None:
        """The next attempt at a run, this worker's from now on; None where the run is done, given up or taken.

        A lost attempt is ended here in its worker's name.  Where `tries` attempts have failed, the run's failed record
        is the ledger's last word on it, until somebody finishes it after all or `retry` is asked for.
        """
        if key in self.ledger:
            return None
        numbers = self.attempts(key)
        last = max(numbers, default=0)
        if last and self.end_of(key, last) is None:
            if self.is_alive(key, last):
                return None
            self.end(Attempt(key=key, number=last), LOST)
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
            self.end(attempt, End(note=ended("stopped", "overtaken")))
            return None
        return attempt

    def attempts(self, key: str) -> list[int]:
        """Numbers of the attempts at a run, from 1."""
        made = takewhile(lambda number: self._attempt(Attempt(key=key, number=number)).exists(), count(1))
        return list(made)  # without a gap: number n + 1 is claimed only after n

    def is_alive(self, key: str, number: int) -> bool:
        """Whether the attempt's worker may be at it: it was not seen to be dead, nor its heartbeat to stand still."""
        attempt = Attempt(key=key, number=number)
        if not self._attempt(attempt).exists():
            return False
        worker = self.worker(key, number)
        if worker is not None and worker.is_gone():
            return False
        try:
            heartbeat = self._heartbeat_file(attempt).read_bytes()
        except FileNotFoundError:  # not yet
            heartbeat = b""
        now, watched = time.monotonic(), self._watched.get(attempt)
        if watched is None or watched.heartbeat != heartbeat:
            self._watched[attempt] = _Watched(heartbeat, now)
            return True
        watched.still_seconds += min(now - watched.looked, LOOK_SECONDS)
        watched.looked = now
        return watched.still_seconds < self.stale_seconds

    def silences(self, keys: Collection[str]) -> dict[str, float]:
        """Seconds without a sign of life from the newest worker of each of these runs, of those that cannot be asked
        after from here: its last heartbeat beside a file of now, both by the clock that stamps files there.  Nothing
        where no file can be made."""
        silences, now = {}, None
        for key in keys:
            attempt = Attempt(key=key, number=max(self.attempts(key), default=0))
            worker = self.worker(key, attempt.number)
            last = None if worker is not None and worker.is_here() else self._last_sign(attempt)
            if last is not None and (now := now or clock(self.path / "attempts")) is not None:
                silences[key] = max(0.0, now - last)
        return silences

    def _last_sign(self, attempt: Attempt) -> float | None:
        for file in (self._heartbeat_file(attempt), self._attempt(attempt)):
            with suppress(OSError), file.open("rb") as opened:  # opened, so that a network's file system looks anew
                return os.fstat(opened.fileno()).st_mtime
        return None

    def worker(self, key: str, number: int) -> Worker | None:
        """Who made the attempt; None where it was claimed, and killed before it wrote its name."""
        try:
            return Worker.model_validate_json(self._attempt(Attempt(key=key, number=number)).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def heartbeat(self, attempt: Attempt) -> None:
        """Tell that this attempt is being worked on.  In place, so that a disk that has become full does not matter."""
        handle = os.open(self._heartbeat_file(attempt), os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(handle, uuid.uuid4().hex.encode())
        finally:
            os.close(handle)

    def end(self, attempt: Attempt, end: End) -> None:
        """Say how an attempt ended that left no record.  A lost worker's counts as a failure of the run only where it
        took the run no further than the attempts before it."""
        steps = max((step_of(place) for place in self.checkpoints(attempt)), default=0)
        counts = end.counts and not (end.reason == "lost-worker" and steps > self._steps_before(attempt))
        end = end.model_copy(update={"steps": steps, "counts": counts})
        write_atomically(self._end(attempt), end.model_dump_json() + "\n")

    def end_of(self, key: str, number: int) -> End | None:
        """How an attempt ended; None where it goes on, or ended in a record."""
        try:
            return End.model_validate_json(self._end(Attempt(key=key, number=number)).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def ends(self, key: str) -> list[End]:
        """How the attempts at a run ended that left no record, first to last."""
        ends = [self.end_of(key, number) for number in self.attempts(key)]
        return [end for end in ends if end is not None]

    def failures(self, key: str) -> list[End]:
        """How the attempts at a run failed, first to last; those that nothing was wrong with are left out."""
        return [end for end in self.ends(key) if end.counts and end.reason != "stopped"]

    def vain(self, key: str) -> int:
        """How many workers went away, nobody knows why, before they had taken the run further."""
        ends = self.ends(key)
        before = [max((end.steps for end in ends[:number]), default=0) for number in range(len(ends))]
        return sum(end.reason == "lost-worker" and end.steps <= steps for end, steps in zip(ends, before, strict=True))

    def retry(self, keys: list[str]) -> None:
        """Have given up runs tried again, from their newest checkpoints, as if they had never failed."""
        for key in keys:
            for number in self.attempts(key):
                if (end := self.end_of(key, number)) is not None and end.counts:
                    file = self._end(Attempt(key=key, number=number))
                    write_atomically(file, end.model_copy(update={"counts": False}).model_dump_json() + "\n")
            self.ledger.remove_failed(key)

    # ---- checkpoints ----

    def work(self, attempt: Attempt) -> Path:
        """The folder for an attempt's checkpoints."""
        return own_place(self.path / "work") / f"{attempt.key}.{attempt.number}"

    def checkpoints(self, attempt: Attempt) -> list[Path]:
        """The whole checkpoints of an attempt, oldest first."""
        return sorted(self.work(attempt).glob(STEPS))

    def trunk(self, key: str) -> Path:
        """Where the checkpoint of a run lies from which others go on."""
        return own_place(self.path / "trunks") / key

    def keep_trunk(self, attempt: Attempt) -> None:
        """Put what others go on from, where the attempt made it and the plan asks for it, where they find it."""
        made, kept = self.work(attempt) / TRUNK, self.trunk(attempt.key)
        wanted = {run.key for run in self.runs() if run.keeps_trunk} if made.is_dir() else ()
        if attempt.key in wanted and not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            with suppress(OSError):  # a rival has put its own there, or this one away
                made.rename(kept)

    def remove_trunks(self) -> None:
        """Remove them, where no further run will go on from any."""
        with suppress(OSError):
            remove(own_place(self.path / "trunks"))

    def remove_work(self, attempt: Attempt) -> None:
        """Remove what an attempt left to go on from; its trunk is kept where the plan asks for it."""
        self.keep_trunk(attempt)
        with suppress(OSError):  # a worker thought lost still writes there; the next start clears it
            remove(self.work(attempt))

    def clear(self) -> None:
        """Remove what killed workers left: checkpoints of runs that are done, files that were being written."""
        done = {outcome.key for outcome in self.ledger.records()}
        for run in self.runs():
            for number in self.attempts(run.key) if run.key in done else ():
                self.remove_work(Attempt(key=run.key, number=number))
        self.ledger.clear(("cells", "attempts", "records", "curves"))

    def _steps_before(self, attempt: Attempt) -> int:
        ends = [self.end_of(attempt.key, number) for number in range(1, attempt.number)]
        return max((end.steps for end in ends if end is not None), default=0)

    def _give_up(self, key: str, failures: list[End]) -> None:
        run = PlannedRun.model_validate_json(self._file(key).read_bytes())
        self.ledger.add(failed_run(run.recipe, failures))

    def _file(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.json"

    def _attempt(self, attempt: Attempt) -> Path:
        return self.path / "attempts" / f"{attempt.key}.{attempt.number}"

    def _heartbeat_file(self, attempt: Attempt) -> Path:
        return self.path / "attempts" / f"{attempt.key}.{attempt.number}.beat"

    def _end(self, attempt: Attempt) -> Path:
        return self.path / "attempts" / f"{attempt.key}.{attempt.number}.end"


def failed_run(recipe: Recipe, failures: list[End]) -> FailedRun:
    """The record of a run that is given up after these failures."""
    return FailedRun(
        recipe=recipe,
        key=recipe.key,
        notes=tuple(end.note for end in failures),
        machine={"host": platform.node(), "python": platform.python_version(), "system": platform.system()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
