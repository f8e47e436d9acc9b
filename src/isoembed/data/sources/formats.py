"""Files of rows by the ending of their names."""

from __future__ import annotations

from pathlib import Path

from isoembed.data.sources.base import RowOptions, RowSource
from isoembed.data.sources.csv import Csv
from isoembed.data.sources.files import PACKINGS
from isoembed.data.sources.jsonl import JsonLines
from isoembed.data.sources.parquet import Parquet

#: file endings and what reads them; the text ones also packed
TEXT: dict[str, type[JsonLines | Csv]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".json": JsonLines,
    ".csv": Csv,
    ".tsv": Csv,
}
TABLES: dict[str, type[Parquet]] = {".parquet": Parquet, ".pq": Parquet}


def reader_of(file: Path, options: RowOptions) -> RowSource | None:
    """What reads `file`, by its name, whose case does not matter; None where nothing does."""
    first, last = ["", "", *(suffix.lower() for suffix in file.suffixes)][-2:]
    reader = TEXT.get(first) if last in PACKINGS else TEXT.get(last) or TABLES.get(last)
    return None if reader is None else reader(file, options)
