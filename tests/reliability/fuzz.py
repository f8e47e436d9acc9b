"""What the fuzz tests share: how many examples, how a file is spoilt, and a command run under watch.

`python -m pytest tests/reliability/test_fuzz.py` draws 40 fixed examples a property, in seconds; with
ISOEMBED_FUZZ=long in the environment the same tests draw 1,000 new ones each.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import isoembed.workflows.sweep  # noqa: F401 - before the watch: libraries write caches of their own when imported
from isoembed.cli import main

#: longer than any input here may take, on a busy machine; a hang fails
DEADLINE = timedelta(seconds=60)
_COMMON: dict[str, Any] = {
    "deadline": DEADLINE,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
}
settings.register_profile("suite", max_examples=40, derandomize=True, **_COMMON)
settings.register_profile(
    "long", max_examples=1000, print_blob=True, phases=[Phase.explicit, Phase.generate], **_COMMON
)
FUZZ = settings.get_profile(os.environ.get("ISOEMBED_FUZZ", "suite"))

#: what stands where a number, a text or a list should
HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e18, 1e308, math.nan, math.inf, -math.inf, 10**400, 2**63),
    *("", " ", "\0", "\ud800", "../../x", "/", "~nobody/x", "x" * 5000, "1e3", "<script>", "[red]", "[/]", "é"),
    *([], {}, [[]], [None], {"": None}, [1e308] * 3),
)


@st.composite
def spoilt(draw: st.DrawFn, base: Any) -> bytes:
    """The JSON of `base` with one to three of its parts replaced, removed or repeated; at times bytes are changed too,
    or the file is cut."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    text = json.dumps(value).encode()
    if draw(st.integers(0, 5)) == 0:
        text = draw(mangled(text))
    return text


@st.composite
def mangled(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes inserted, removed or repeated, or the end cut off."""
    text = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = draw(st.integers(at, min(len(text), at + 40)))
        how = draw(st.sampled_from(["replace", "insert", "repeat", "cut"]))
        if how == "cut":
            del text[at:]
        elif how == "repeat":
            text[at:at] = text[at:end]
        else:
            text[at : end if how == "replace" else at] = draw(st.binary(max_size=20))
    return bytes(text)


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one part of it changed, at whatever depth."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20)))
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    how = draw(st.integers(0, 9))
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]))
    elif how == 1 and isinstance(value, dict):
        value[draw(st.sampled_from(["", "x", "../x", "format", "name"]))] = copy.deepcopy(value[key])
    else:
        value[key] = _changed(draw, value[key])
    return value


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status and what it printed."""

    status: int
    out: str
    err: str


def command(*arguments: str, inside: Path) -> Outcome:
    """Run an `isoembed` command in this process, in the folder `inside`.

    What it raises comes through, as a traceback would; writing outside of `inside` (and of the machine's temporary
    folders) raises too.  Only what Python itself opens, makes, renames or removes is watched.
    """
    out, err = io.StringIO(), io.StringIO()
    before, arguments_before = Path.cwd(), sys.argv
    status = 0
    os.chdir(inside)
    sys.argv = ["isoembed", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watched(inside):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os.chdir(before)
        sys.argv = arguments_before
    return Outcome(status, out.getvalue(), err.getvalue())


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
