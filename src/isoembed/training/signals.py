"""Signals that ask a run to save and end, noted instead of obeyed at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: of a terminal that closes: the shell and the system may both send it; None outside Unix
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a run to save and end.  A terminal that closes is one, but not where it is ignored, as under
    nohup."""
    if HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, HANGUP


@contextmanager
def stop_requested() -> Iterator[list[int]]:
    """The signals fill the list instead of breaking into a step; a second one ends the process at once, but not of a
    terminal that closes."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number != HANGUP:
            signal.signal(number, previous[signal.Signals(number)])

    try:
        previous = {number: signal.signal(number, note) for number in stop_signals()}
    except ValueError:  # not the main thread: signals stay as they are
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
