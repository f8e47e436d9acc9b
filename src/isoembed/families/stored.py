"""GGUF files as sources of a model: which file a source means, and the hash it goes by."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from isoembed.core import InputError, expanded


def gguf_file(source: str) -> Path | None:
    """The GGUF file that `source` names, or the one in the folder that it names; None for any other source.

    A folder that holds a config.json is a model of its own, whatever else lies in it.  Raises InputError where a folder
    holds several files and does not say which.
    """
    place = expanded(source)
    if place.is_file():
        return place if place.suffix.lower() == ".gguf" else None
    if not place.is_dir() or (place / "config.json").exists():
        return None
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == ".gguf" and file.is_file())
    if len(files) > 1:
        raise InputError(
            f"`model` must be one GGUF file; {source} holds {len(files)}, {files[0].name} and {files[1].name} among "
            "them. Name one."
        )
    return files[0] if files else None


def file_hash(file: Path) -> str:
    """SHA-256 of the file's bytes, 64 hex digits; read once a process for a file that does not change."""
    state = file.stat()
    return _hash(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
