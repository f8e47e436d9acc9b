"""Folders for a while: theirs is the process that made them, and whoever comes next removes those whose process died.

Who still lives is asked of the kernel, by a lock on the folder (flock) that ends with the process, however it ends.
Locks hold within one running system, which is part of the folder's name.  A folder of another system, or on a file
system without locks, goes when nothing in it has changed for a day by the file system's own clock.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from isoembed.core import InputError, fingerprint

#: where there is no Unix, nothing is known of other processes, and leftovers go by their age
_LOCKS = importlib.util.find_spec("fcntl") is not None
#: handles on the shared folders of this process
_SHARED: dict[Path, int | None] = {}
#: the names of checkpoints, in a folder that is theirs
STEPS = "step-" + 8 * "[0-9]"
#: in each of them: what it says of its run, `step` among that
STATE = "state.json"
#: beside them: where a run stood before its rate fell, so that a longer one can go on from there
TRUNK = "trunk"

#: a leftover whose owner cannot be asked after goes when it is this old
OLD_SECONDS = 24 * 3600.0
#: a file that is written in one go and still has no name after so long never gets one
OLD_FILE_SECONDS = 600.0


def step_folder(step: int) -> str:
    """The name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The steps of the run whose checkpoint this is, as it says itself; 0 of one that cannot be read."""
    try:
        return int(json.loads((checkpoint / STATE).read_bytes())["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def boot_id() -> str:
    """Names this run of this system's kernel, across all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


@contextlib.contextmanager
def scratch(parent: Path, prefix: str = ".partial-") -> Iterator[Path]:
    """A new folder in `parent`, with the rights that folders have there; gone at the end, unless it was renamed.

    Those of the same prefix whose processes are dead are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    handle, taken = None, False
    while not taken:
        folder = parent / f"{prefix}{_system()}-{uuid.uuid4().hex}"
        folder.mkdir()
        handle, taken = _kept(folder)
    try:
        clear(parent, prefix, now=folder.stat().st_mtime)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def shared(parent: Path, prefix: str, name: str) -> Path:
    """The folder of that name in `parent`, which processes share: it stays while one of those that asked for it lives.

    Those of the same prefix whose processes are all dead are removed first.
    """
    folder = parent / f"{prefix}{_system()}-{name}"
    while folder not in _SHARED:
        folder.mkdir(parents=True, exist_ok=True)
        handle, taken = _kept(folder, shared=True)
        if taken:
            _SHARED[folder] = handle
            clear(parent, prefix, now=folder.stat().st_mtime)
    return folder


def clear_files(folder: Path, *, old_seconds: float = OLD_FILE_SECONDS) -> None:
    """Remove the files that `write_atomically` was at in `folder` when its process was killed: those of some time ago,
    by the clock that stamps new files there; of any age where the caller is the only one that writes there."""
    left = list(folder.glob(".*.partial"))
    now = clock(folder) if left else None
    if now is None:
        return
    for file in left:
        with contextlib.suppress(OSError):
            if now - file.lstat().st_mtime >= old_seconds:
                file.unlink()


def clock(folder: Path) -> float | None:
    """Now, by the clock that stamps new files in `folder`, which may be another machine's; None where none can be
    made."""
    try:
        with tempfile.TemporaryFile(dir=folder) as new:
            return os.fstat(new.fileno()).st_mtime
    except OSError:
        return None


def clear(parent: Path, prefix: str, *, now: float) -> None:
    """Remove the scratch folders of `prefix` in `parent` that nobody works in; now: of the file system's clock."""
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if left.is_symlink() or not left.is_dir():
                continue
            here = left.name.startswith(f"{prefix}{_system()}-")
            handle = _locked(left) if here else None  # raises where its owner lives
            try:
                if handle is not None or now - last_change(left) > OLD_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                if handle is not None:
                    os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, never what a link leads to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def own_place(folder: Path) -> Path:
    """The folder, in which things will be removed; raises InputError where it is a link to somewhere else."""
    if folder.is_symlink():
        raise InputError(
            f"A working folder must be a folder, in which old checkpoints are removed; {folder} is a link. Remove the "
            "link, or name an output folder on the other disk."
        )
    return folder


def own_folder() -> Path:
    """This user's folder among the machine's temporary ones; nobody else can have put anything there."""
    folder = Path(tempfile.gettempdir()) / f"isoembed-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()  # of a link another user may have made: what it leads to may be this user's
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(
            f"{folder} must belong to the user who runs this, be no link, and be closed to others; it is not. Remove "
            "it, or set TMPDIR to another folder."
        )
    return folder


def _system() -> str:
    return fingerprint(boot_id())[:8]


def _kept(folder: Path, *, shared: bool = False) -> tuple[int | None, bool]:
    """A handle that keeps the folder until it is closed, where there are locks; and whether it is this process's now:
    another one may have taken it, just made and not yet locked, for a leftover."""
    try:
        handle = _locked(folder, shared=shared)
    except (BlockingIOError, FileNotFoundError):
        return None, False
    if handle is None:
        return None, True
    with contextlib.suppress(FileNotFoundError):
        if os.fstat(handle).st_ino == folder.stat().st_ino:
            return handle, True
    os.close(handle)
    return None, False


def _locked(folder: Path, *, shared: bool = False) -> int | None:
    """A handle on the folder with a lock on it; None where there are no locks.  Raises BlockingIOError where another
    one has it."""
    if not _LOCKS:
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def last_change(folder: Path) -> float:
    """When something in the folder changed last, by the file system's clock."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
