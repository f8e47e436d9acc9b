"""The memory that this process holds on a CPU, and how to make the C library give back what it keeps of it."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import psutil


def resident_bytes() -> int:
    """The process's resident size."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def give_back() -> None:
    """Return freed memory to the system: glibc keeps it until asked."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def stay_below(limit_bytes: float | None) -> None:
    """Return freed memory where the process holds more than `limit_bytes` (None: it may).

    Between the tensors of kept graphs lie holes that temporary values left, half as large again as the graphs after a
    dozen mini-batches; only where they do not fit is it worth the time to take them back.
    """
    if limit_bytes is not None and resident_bytes() > limit_bytes:
        give_back()
