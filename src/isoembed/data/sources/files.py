"""Opening data files: by bytes, decompressed on the way (.gz, .zst), faults named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from isoembed.core import InputError, expanded


def file_hash(file: Path) -> str:
    """SHA-256 of the file's bytes, read as a stream."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def open_text(file: Path) -> Iterator[io.TextIOWrapper]:
    """The file's lines, line ends kept.  Bytes that are no UTF-8 become lone surrogates, so that one bad row does not
    hide the good ones after it; whoever reads a text checks for them.  A truncated or corrupt archive raises OSError
    while reading (gzip's own reader in Python would do, but zstandard's ends silently)."""
    packing = {".gz": "gzip", ".zst": "zstd"}.get(file.suffix.lower())
    with (
        pa.input_stream(str(file), compression=packing) as stream,
        io.BufferedReader(stream, 1 << 20) as buffered,
        io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        yield text


def existing(path: str) -> Path:
    """The file at `path`; raises InputError where there is none."""
    file = expanded(path)
    if not file.is_file():
        raise InputError(f"`data` must name a file that exists; there is none at {path}. Check the path.")
    return file
