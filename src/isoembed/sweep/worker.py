"""Who works on a run, and whether that can be seen to be dead."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import Field

from isoembed.core import Frozen
from isoembed.scratch import boot_id


class Worker(Frozen):
    """Who made an attempt: enough to see, where its process can be seen, that it is gone."""

    host: str
    process: int
    started: float = Field(description="when the process started: on Linux clock ticks since the system did")
    boot: str = Field("", description="which run of which system's kernel; empty in older attempts")
    namespace: str = Field("", description="in which its process numbers count; empty where that is not known")

    @classmethod
    def this(cls) -> Worker:
        process = os.getpid()
        started = _process_start(process) or 0.0
        return cls(host=socket.gethostname(), process=process, started=started, boot=boot_id(), namespace=_namespace())

    def is_gone(self) -> bool:
        """True where this process can see that the worker is dead; False where it lives or cannot be seen from here."""
        if not self.is_here():
            return False
        try:
            return _process_start(self.process) not in (self.started, None)
        except ProcessLookupError:
            return True

    def is_here(self) -> bool:
        """Whether the worker's process number is one of those that this process can ask after."""
        return bool(self.namespace) and (self.boot, self.namespace) == (boot_id(), _namespace())


def _namespace() -> str:
    """Names the set of process numbers that this process sees itself in; empty where /proc shows another one's."""
    if not Path("/proc/self").exists():
        return socket.gethostname()  # no Linux, which alone has several on one system
    return os.readlink("/proc/self/ns/pid") if os.readlink("/proc/self") == str(os.getpid()) else ""


def _process_start(process: int) -> float | None:
    """When a process of this machine started, by a clock that is never set; None where this user may not know.

    Raises ProcessLookupError where there is none, or no more than its unburied remains.
    """
    with suppress(PermissionError):  # somebody else's, and there
        os.kill(process, 0)
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return None
        try:
            return psutil.Process(process).create_time()
        except psutil.Error:
            return None
    state, *rest = stat.rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError
    return float(rest[18])
