"""Work a sweep off: claim a run, train it, write its record; safe against kills and rivals at any moment.

Training is handed in, so that this file needs no torch and is tested with a trainer that draws losses from a law.
"""

from __future__ import annotations

import errno
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from isoembed.core import StoppedError, no_room
from isoembed.records import EndNote, RunRecord, ended
from isoembed.sweep.folder import Attempt, End, PlannedRun, SweepFolder

#: seconds between two heartbeats
HEARTBEAT_SECONDS = 10.0
#: seconds to wait where every open run is being worked on by others
_POLL_SECONDS = 2.0
#: heartbeats that fail for so long are spoken of
_TROUBLE_SECONDS = 30.0
#: what a file system says that may be itself again in a moment: a server that restarts, a handle that became stale
_PASSING = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOLCK)
#: seconds between tries at what such an error may be passing for
_PAUSES = (0.5, 2.0, 5.0, 10.0)

Result = TypeVar("Result")


def raised(error: Exception) -> EndNote:
    """How an attempt ended of which the trainer raised `error`."""
    return ended("error", "raised", error=type(error).__name__, text=str(error))


#: how an attempt ends that was asked to stop
STOPPED = End(note=ended("stopped", "signal"))

#: trains a run in a folder that may hold checkpoints of an earlier attempt; returns how it failed in place of a record
#: where it cannot end well
TrainRun = Callable[[PlannedRun, Path], RunRecord | EndNote]


def work(
    folder: SweepFolder,
    train: TrainRun,
    *,
    tries: int = 3,
    only: Sequence[str] | None = None,
    more: Callable[[], int] = lambda: 0,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Work off open runs until none is left; returns how many records this worker wrote.

    tries: failed attempts after which a run is given up with a failed record.
    only: keys of the runs to work off, the first one first; None: every planned run, in the plan's order.
    more: called when all planned runs have ended; plans the next stage and returns how many runs it added.
    stopping: looked at between runs.

    A StoppedError ends the work and leaves the run open.  Any other exception of `train` is a failed attempt.
    """
    written = 0
    while not stopping():
        claimed, others = patiently(lambda: claim_next(folder, tries, only))
        if claimed is not None:
            run, attempt = claimed
            try:
                written += _attempt(folder, run, attempt, train)
            except StoppedError:
                break
        elif others:
            time.sleep(_POLL_SECONDS)
        elif patiently(lambda: is_over(folder, more, only)):
            if not open_runs(folder):  # a longer run that is still to come goes on from its trunk
                folder.remove_trunks()
            break
    return written


def is_over(folder: SweepFolder, more: Callable[[], int], only: Sequence[str] | None = None) -> bool:
    """Whether all has ended and nothing more is planned, by anybody: while this worker plans, a rival may have planned
    the same stage, and worked it off too."""
    planned = {run.key for run in folder.runs()}
    if open_runs(folder, only) or more():
        return False
    return planned == {run.key for run in folder.runs()}


def claim_next(
    folder: SweepFolder, tries: int, only: Sequence[str] | None = None
) -> tuple[tuple[PlannedRun, Attempt] | None, bool]:
    """A claimed run, or None and whether others still work on open ones.

    A run that extends an open one waits for its trunk.  A run whose workers went away again and again may be what takes
    them, or their machine, away: it waits behind the others.
    """
    waiting = sorted(open_runs(folder, only), key=lambda run: folder.vain(run.key) >= tries)
    to_come = {run.key for run in waiting}
    for run in waiting:
        attempt = None if run.extends in to_come else folder.claim(run.key, tries=tries)
        if attempt is not None:
            return (run, attempt), True
    return None, any(run.key not in folder.ledger for run in waiting)


def open_runs(folder: SweepFolder, only: Sequence[str] | None = None) -> list[PlannedRun]:
    """Planned runs without a record, in the plan's order; or of the keys `only`, in theirs."""
    ended = folder.ledger.keys()
    found = [run for run in folder.runs() if run.key not in ended]
    if only is None:
        return found
    place = {key: number for number, key in enumerate(only)}
    return sorted((run for run in found if run.key in place), key=lambda run: place[run.key])


def patiently(action: Callable[[], Result]) -> Result:
    """What `action` returns, tried again after errors of the file system that may pass."""
    for pause in _PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            time.sleep(pause)
    return action()


def _attempt(folder: SweepFolder, run: PlannedRun, attempt: Attempt, train: TrainRun) -> bool:
    """Make one attempt; True where it wrote the run's record."""
    over = threading.Event()
    heartbeat = threading.Thread(target=Heartbeat(folder).send_until, args=(over, attempt), daemon=True)
    heartbeat.start()
    try:
        inherit(folder, attempt)  # may fail too: its source is removed when a worker thought lost ends well after all
        outcome = train(run, folder.work(attempt))
    except (StoppedError, KeyboardInterrupt):  # asked once, or pressed by somebody who would not wait
        patiently(lambda: folder.end(attempt, STOPPED))
        raise
    except Exception as error:  # whatever it is, it must not take the other runs with it
        if no_room(error):  # it would be the same for every run, and is no fault of this one
            with suppress(OSError):
                folder.end(attempt, End(note=ended("stopped", "text", text=str(error))))
            raise
        outcome = raised(error)
    finally:
        over.set()
        heartbeat.join()
    return patiently(lambda: settle(folder, attempt, outcome))


def settle(folder: SweepFolder, attempt: Attempt, outcome: RunRecord | EndNote) -> bool:
    """Write down how an attempt ended; True where that is the run's record."""
    if isinstance(outcome, EndNote):
        folder.end(attempt, End(note=outcome))
        return False
    folder.keep_trunk(attempt)  # before the runs that extend this one can be planned
    written = folder.ledger.add(outcome)
    for number in folder.attempts(attempt.key):
        folder.remove_work(Attempt(key=attempt.key, number=number))
    return written


def end_for(folder: SweepFolder, processes: Collection[int], end: End = STOPPED) -> list[Attempt]:
    """End, in their name, the attempts that these dead processes of this machine were at; returns those."""
    ended = []
    for run in open_runs(folder) if processes else ():
        last = max(folder.attempts(run.key), default=0)
        if not last or folder.end_of(run.key, last) is not None:
            continue
        worker = folder.worker(run.key, last)
        if worker is not None and worker.is_here() and worker.process in processes:
            ended.append(Attempt(key=run.key, number=last))
            folder.end(ended[-1], end)
    return ended


def inherit(folder: SweepFolder, attempt: Attempt) -> None:
    """Take over the newest checkpoint of the attempt before: a copy, where that may still be written to by a worker
    thought lost; what nobody can need any more is removed."""
    place = folder.work(attempt)
    for number in range(attempt.number - 1, 0, -1):
        before = Attempt(key=attempt.key, number=number)
        steps = folder.checkpoints(before)
        if steps and not folder.checkpoints(attempt):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copytree(steps[-1], place / ".inherited")
            (place / ".inherited").rename(place / steps[-1].name)
        worker, end = folder.worker(attempt.key, number), folder.end_of(attempt.key, number)
        if (worker is not None and worker.is_gone()) or (end is not None and end.reason != "lost-worker"):
            folder.remove_work(before)


class Heartbeat:
    """Sends heartbeats for attempts, and speaks up where the file system keeps refusing them or a rival came."""

    def __init__(self, folder: SweepFolder, say: Callable[[str], None] | None = None) -> None:
        self.folder, self.say = folder, say or _say
        self.failing_since: float | None = None
        self.said: set[str] = set()

    def send_until(self, over: threading.Event, attempt: Attempt) -> None:
        """Send one every `HEARTBEAT_SECONDS` until `over`."""
        while not over.wait(HEARTBEAT_SECONDS):
            self.send([attempt])

    def send(self, attempts: Collection[Attempt]) -> None:
        """One heartbeat for each of them."""
        try:
            for attempt in attempts:
                self.folder.heartbeat(attempt)
                if (end := self.folder.end_of(attempt.key, attempt.number)) and end.reason == "lost-worker":
                    self._say(
                        f"{attempt.key} was given to another worker while nothing was heard of this one, which goes "
                        "on: whoever ends first writes the record"
                    )
        except OSError as error:
            now = time.monotonic()
            self.failing_since = self.failing_since or now
            if now - self.failing_since >= _TROUBLE_SECONDS:
                self._say(f"no heartbeat can be written for {_TROUBLE_SECONDS:.0f} s ({error}); it is tried on")
        else:
            self.failing_since = None

    def _say(self, words: str) -> None:
        if words not in self.said:
            self.said.add(words)
            self.say(f"isoembed: {words}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
