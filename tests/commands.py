"""`isoembed` commands run within the tests' own process, for an interpreter takes seconds to start; and under watch."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import isoembed.workflows.sweep  # noqa: F401 - before the watch: libraries write caches of their own when imported
from isoembed.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status and what it printed."""

    status: int
    out: str
    err: str


def command(*arguments: str, inside: Path | None = None) -> Outcome:
    """Run an `isoembed` command in this process, in the folder `inside`, or unwatched where it is.

    What it raises comes through, as a traceback would; writing outside of `inside` (and of the machine's temporary
    folders) raises too.  Only what Python itself opens, makes, renames or removes is watched.
    """
    out, err = io.StringIO(), io.StringIO()
    before, arguments_before = Path.cwd(), sys.argv
    status, watch = 0, contextlib.nullcontext() if inside is None else watched(inside)
    os.chdir(inside or before)
    sys.argv = ["isoembed", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watch:
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os.chdir(before)
        sys.argv = arguments_before
    return Outcome(status, out.getvalue(), err.getvalue())


def ok(*arguments: str) -> str:
    """What a command that ends well prints."""
    done = command(*arguments)
    assert done.status == 0, done.err
    return done.out


def mistake(*arguments: str) -> str:
    """What a command says of wrong use."""
    done = command(*arguments)
    assert done.status == 2, done.out + done.err
    return done.err


class WroteOutsideError(Exception):
    """A path outside the folder was opened for writing, made, renamed, linked or removed."""


_WATCHED: list[Path] = []
#: audit event -> how many of its first arguments are paths that change
_CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1}


@contextlib.contextmanager
def watched(inside: Path) -> Iterator[None]:
    """Within it, changing anything outside `inside` raises WroteOutsideError."""
    _WATCHED.append(inside.resolve())
    try:
        yield
    finally:
        _WATCHED.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHED or (event != "open" and event not in _CHANGES):
        return
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
        paths = [path] if writes else []
    else:
        paths = list(arguments[: _CHANGES[event]])
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)) and not _allowed(Path(os.fsdecode(path)).resolve()):
            raise WroteOutsideError(f"{event} {os.fsdecode(path)}")


def _allowed(path: Path) -> bool:
    scratch = Path(tempfile.gettempdir()).resolve()
    # tempfile's own names, and the user's folder of isoembed.scratch
    own = path.is_relative_to(scratch) and path.relative_to(scratch).parts[0].startswith(("tmp", "isoembed-"))
    system = str(path).startswith(("/dev/", "/proc"))  # no folders of anybody's
    return own or system or path.is_relative_to(_WATCHED[-1]) or "__pycache__" in path.parts  # made on a first import


sys.addaudithook(_audit)
