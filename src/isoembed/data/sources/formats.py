"""Files of rows by the ending of their names."""

from __future__ import annotations

from pathlib import Path

from isoembed.data.sources.base import FileSource, RowOptions
from isoembed.data.sources.csv import Csv
from isoembed.data.sources.files import PACKINGS
from isoembed.data.sources.jsonl import JsonLines
from isoembed.data.sources.parquet import Parquet

#: what reads files; the first of one ending reads it
READERS: list[type[FileSource]] = [JsonLines, Csv, Parquet]


def reader_of(file: Path, options: RowOptions) -> FileSource | None:
    """What reads `file`, by its name, whose case does not matter; None where nothing does."""
    first, last = ["", "", *(suffix.lower() for suffix in file.suffixes)][-2:]
    ending, packed = (first, True) if last in PACKINGS else (last, False)
    found = (each for each in READERS if ending in each.endings and (each.packed or not packed))
    reader = next(found, None)
    return None if reader is None else reader(file, options)


def endings(*, packed: bool) -> str:
    """Those of the files that may be packed, or may not, in words."""
    return ", ".join(ending for each in READERS if each.packed == packed for ending in each.endings)
