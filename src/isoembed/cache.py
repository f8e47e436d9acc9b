"""The user's cache: token stores, checkpoints, pilots and search indices.  A model's folder may be published; these
hold training texts and names of machines, and lie apart from it.

    tokens-KEY/         tokenised pairs, found again by what they were made from
    teacher-KEY/        a teacher's vectors of such pairs
    runs/NAME-KEY/      of the output folder of that path: checkpoints/, metrics.jsonl, pilot/, logs of trackers
    index/KEY/          documents and their embeddings by the model of that content

What nobody has used for `OLD_SECONDS` goes when something new is made.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isoembed.core import InputError, expanded, fingerprint, sole_writer, write_atomically
from isoembed.scratch import last_change, own_folder, own_place, remove, scratch

#: names another folder for the cache
VARIABLE = "ISOEMBED_CACHE"
#: unused for so long, an entry of the user's cache goes
OLD_SECONDS = 30 * 24 * 3600.0
CacheKind = Literal["tokens", "teacher", "runs", "index"]
#: kind of entry -> where they lie in the cache
KINDS: dict[CacheKind, str] = {"tokens": "tokens-*", "teacher": "teacher-*", "runs": "runs/*", "index": "index/*"}
#: in a run's working folder: the output folder that it belongs to
_OUT = "out.txt"


def user_cache() -> Path:
    """The folder that `ISOEMBED_CACHE` names, else `isoembed` in `XDG_CACHE_HOME`, else `~/.cache/isoembed`."""
    if named := os.environ.get(VARIABLE):
        return expanded(named)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else expanded("~/.cache")) / "isoembed"


#: where what is added to the user's cache goes meanwhile; empty: there itself
_meanwhile: list[Path] = []


@contextmanager
def unwritten(asked: bool = True) -> Iterator[None]:
    """Within it, where that is `asked`, nothing is added to the user's cache: what would be is gone at the end."""
    if not asked:
        yield
        return
    with scratch(own_folder(), "dry-run-") as place:
        _meanwhile.append(place)
        try:
            yield
        finally:
            _meanwhile.remove(place)


def cached_place(name: str) -> Path:
    """Where `name` lies in the user's cache, or is to be put."""
    place = user_cache() / name
    return _meanwhile[-1] / name if _meanwhile and not place.exists() else place


def cache_folder(cache: str | Path | None = None) -> Path:
    """The cache to use: the one named, or the user's, rid of what is old."""
    if cache is not None:
        return expanded(cache)
    prune(folder := user_cache())
    return folder


def tokens_folder(out: Path, cache: str | Path | None = None) -> Path:
    """Where a run to `out` finds its tokens: in the cache, or in an older `out` that still has them inside."""
    return out / "tokens" if cache is None and (out / "tokens").is_dir() else cache_folder(cache)


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves what does not belong into its output folder."""

    out: Path
    tokens: Path
    work: Path

    @property
    def pilot(self) -> Path:
        """The folder of its pilot, which an older output folder has inside."""
        return self.out / "pilot" if (self.out / "pilot").is_dir() else self.work / "pilot"

    @classmethod
    @contextmanager
    def of(cls, out: Path, cache: str | Path | None, *, dry: bool = False) -> Iterator[Places]:
        """Those of a run to `out`; `dry`: tokens made meanwhile are gone at the end."""
        tokens = tokens_folder(out, cache)
        with borrowed(tokens) if dry else nullcontext(tokens) as folder:
            yield cls(out, folder, working_folder(out, cache_folder(cache)))


@contextmanager
def borrowed(tokens: Path) -> Iterator[Path]:
    """A folder for a while that has the token stores of `tokens`; what is made there is made nowhere else."""
    with scratch(own_folder(), "dry-run-") as place:
        for store in tokens.glob("tokens-*"):
            (place / store.name).symlink_to(store.absolute())
        yield place


def working_folder(out: Path, cache: Path) -> Path:
    """Where the run that leaves its model in `out` keeps checkpoints and metrics; nothing is made.

    An older output folder has it inside, as `training`.
    """
    if (out / "training").exists() or (out / "training").is_symlink():
        return own_place(out / "training")
    place = os.path.realpath(out)
    return own_place(cache / "runs" / f"{os.path.basename(place) or 'out'}-{fingerprint(place)}")


def begin_work(out: Path, folder: Path, *, resume: bool) -> None:
    """Make `out` and its working folder; unless it is to be gone on with, what is left there of an output folder that
    was removed since goes."""
    if not (resume or out.is_dir()):
        for name in ("checkpoints", "pilot", "metrics.jsonl"):
            remove(folder / name)
    out.mkdir(parents=True, exist_ok=True)
    if folder.parent != out:
        write_atomically(folder / _OUT, f"{os.path.realpath(out)}\n")


@dataclass(frozen=True)
class CacheEntry:
    """One thing in a cache."""

    kind: CacheKind
    folder: Path
    bytes: int
    idle_seconds: float
    out: str = ""
    """of a run: its output folder"""


def entries(cache: Path) -> Iterator[CacheEntry]:
    """What lies in `cache`, by kind and name."""
    for kind in KINDS:
        for folder in _folders(cache, kind):
            with suppress(FileNotFoundError):  # another process clears it
                size = sum(file.lstat().st_size for file in folder.rglob("*"))
                out = folder / _OUT
                belongs = out.read_text(encoding="utf-8").strip() if out.is_file() else ""
                yield CacheEntry(kind, folder, size, _idle_seconds(folder), belongs)


def _folders(cache: Path, kind: CacheKind) -> list[Path]:
    return sorted(each for each in cache.glob(KINDS[kind]) if each.is_dir() and not each.is_symlink())


def _idle_seconds(folder: Path) -> float:
    return max(0.0, time.time() - last_change(folder))


def prune(cache: Path) -> list[Path]:
    """Remove the entries of `cache` that nobody has used for `OLD_SECONDS`; returns them."""
    old = []
    for folder in (each for kind in KINDS for each in _folders(cache, kind)):
        with suppress(FileNotFoundError):  # another process clears it
            if _idle_seconds(folder) >= OLD_SECONDS:
                old.append(folder)
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    return old


def clear(cache: Path, kinds: list[CacheKind]) -> list[CacheEntry]:
    """Remove all entries of these kinds; returns them.  Raises InputError while a run is at work in the cache."""
    for each in entries(cache):
        if each.kind == "runs":
            try:
                with sole_writer(each.folder):
                    pass
            except InputError:
                raise InputError(f"A cache may be cleared when no run uses it; the run to {each.out} does.") from None
    found = [each for each in entries(cache) if each.kind in kinds]
    for each in found:
        shutil.rmtree(each.folder)
    return found


def used(folder: Path) -> None:
    """Note that an entry was used now, where this user may."""
    with suppress(OSError):
        os.utime(folder)
