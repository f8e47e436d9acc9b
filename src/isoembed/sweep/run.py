"""Work a sweep off: claim a cell, train it, write its record; safe against kills and rivals at any moment.

Training is handed in, so that this file needs no torch and is tested with a trainer that draws losses from a law.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from isoembed.core import Frozen, no_room
from isoembed.records import RunRecord
from isoembed.sweep.folder import Attempt, Cell, End, Reason, SweepFolder

#: seconds between two heartbeats
BEAT_SECONDS = 10.0
#: seconds to wait where every open cell is being worked on by others
_POLL_SECONDS = 2.0


class Failure(Frozen):
    """What a trainer returns in place of a record where a run cannot end well."""

    reason: Reason
    words: str = Field(description="rule, value, remedy")

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure of a trainer that raised `error`."""
        return cls(reason="error", words=f"{type(error).__name__}: {error}")


class StopRequestedError(Exception):
    """Raised by a trainer that was asked to stop and has saved its checkpoint."""


#: how an attempt ends that was asked to stop
STOPPED = End(reason="stopped", words="stopped by a signal")

#: trains a cell in a folder that may hold checkpoints of an earlier attempt
Trainer = Callable[[Cell, Path], RunRecord | Failure]


def work(
    folder: SweepFolder,
    train: Trainer,
    *,
    tries: int = 3,
    more: Callable[[], int] = lambda: 0,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Work off open cells until none is left; returns how many records this worker wrote.

    tries: failed attempts after which a cell is given up with a failed record.
    more: called when all planned cells have ended; plans the next stage and returns how many cells it added.
    stopping: looked at between cells.

    A StopRequestedError ends the work and leaves the cell open.  Any other exception of `train` is a failed attempt.
    """
    written = 0
    while not stopping():
        claimed, others = claim_next(folder, tries)
        if claimed is not None:
            cell, attempt = claimed
            try:
                written += _attempt(folder, cell, attempt, train)
            except StopRequestedError:
                break
        elif others:
            time.sleep(_POLL_SECONDS)
        elif not more() and not open_cells(folder):  # a rival may have planned the same stage a moment before
            break
    return written


def claim_next(folder: SweepFolder, tries: int) -> tuple[tuple[Cell, Attempt] | None, bool]:
    """A claimed cell, or None and whether others still work on open ones."""
    waiting = open_cells(folder)
    for cell in waiting:
        attempt = folder.claim(cell.key, tries=tries)
        if attempt is not None:
            return (cell, attempt), True
    return None, any(cell.key not in folder.ledger for cell in waiting)


def open_cells(folder: SweepFolder) -> list[Cell]:
    """Planned cells without a record, in the plan's order."""
    ended = folder.ledger.keys()
    return [cell for cell in folder.cells() if cell.key not in ended]


def _attempt(folder: SweepFolder, cell: Cell, attempt: Attempt, train: Trainer) -> bool:
    """Make one attempt; True where it wrote the cell's record."""
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(folder, attempt, over), daemon=True)
    heart.start()
    try:
        inherit(folder, attempt)  # may fail too: its source is removed when a worker thought lost ends well after all
        outcome = train(cell, folder.work(attempt))
    except (StopRequestedError, KeyboardInterrupt):  # asked once, or pressed by somebody who would not wait
        folder.end(attempt, STOPPED)
        raise
    except Exception as error:  # whatever it is, it must not take the other cells with it
        if no_room(error):  # it would be the same for every cell, and is no fault of this one
            with suppress(OSError):
                folder.end(attempt, End(reason="stopped", words=str(error)))
            raise
        outcome = Failure.of(error)
    finally:
        over.set()
        heart.join()
    return settle(folder, attempt, outcome)


def settle(folder: SweepFolder, attempt: Attempt, outcome: RunRecord | Failure) -> bool:
    """Write down how an attempt ended; True where that is the cell's record."""
    if isinstance(outcome, Failure):
        folder.end(attempt, End(reason=outcome.reason, words=outcome.words))
        return False
    written = folder.ledger.add(outcome)
    for number in folder.attempts(attempt.key):
        shutil.rmtree(folder.work(Attempt(key=attempt.key, number=number)), ignore_errors=True)
    return written


def end_for(folder: SweepFolder, processes: Collection[int]) -> None:
    """End as stopped, in their name, what these processes of this machine were at when they were killed on request."""
    host = socket.gethostname()
    for cell in folder.cells():
        last = max(folder.attempts(cell.key), default=0)
        if cell.key in folder.ledger or not last or folder.end_of(cell.key, last) is not None:
            continue
        worker = folder.worker(cell.key, last)
        if worker is not None and worker.host == host and worker.process in processes:
            folder.end(Attempt(key=cell.key, number=last), STOPPED)


def inherit(folder: SweepFolder, attempt: Attempt) -> None:
    """Copy the newest checkpoint of the attempt before, which may still be written to by a worker thought lost."""
    place = folder.work(attempt)
    for number in range(attempt.number - 1, 0, -1):
        steps = sorted(folder.work(Attempt(key=attempt.key, number=number)).glob("step-*"))
        if steps:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copytree(steps[-1], place / ".inherited")
            (place / ".inherited").rename(place / steps[-1].name)
            return


def _beat(folder: SweepFolder, attempt: Attempt, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        folder.beat(attempt)
