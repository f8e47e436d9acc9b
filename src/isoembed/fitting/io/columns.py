"""Columns of a table as other people's tools write it: CSV of any separator, or Parquet, read as a stream."""

from __future__ import annotations

import codecs
import csv
import io
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.core import InputError
from isoembed.laws.points import Floats

#: what may stand between two cells, the usual one first
_SEPARATORS = (",", ";", "\t", "|")
#: what stands for no value
_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "null", "none", "-"})
#: characters in which a header must be found
_HEAD = 1 << 20


@dataclass(frozen=True)
class Columns:
    """What was read: numbers, not-a-number where there is none, and texts, None where there is none."""

    numbers: dict[str, Floats]
    texts: dict[str, list[str | None]]


@dataclass(frozen=True)
class Table:
    """A CSV or Parquet file.  CSV: UTF-8, UTF-16 or UTF-32, plain or compressed, cells apart by commas, semicolons,
    tabs or bars, the first line naming the columns; lines that are empty or begin with `#` are passed over, and so are
    empty cells beyond the header's.  Where no comma separates, it may be the decimal point."""

    file: Path

    @cached_property
    def _is_parquet(self) -> bool:
        if not self.file.is_file():
            raise InputError(f"A table must be a file: {self.file} is not there. Check the path.")
        with self.file.open("rb") as stream:
            return stream.read(4) == b"PAR1" or self.file.suffix.lower() in (".parquet", ".pq")

    @cached_property
    def _header(self) -> list[str]:
        import pyarrow.parquet

        with self._readable():
            if self._is_parquet:
                return list(pyarrow.parquet.read_schema(self.file).names)
            with self._text() as text:
                if text.read(_HEAD).lstrip().startswith(("{", "[")):
                    raise InputError(
                        f"A table of runs must be CSV or Parquet with one run per row; {self.file.name} is JSON. Write "
                        "its runs as N,D,loss."
                    )
            names = [cell.strip() for cell in next(self._csv_rows(), [])]
        if names and all(map(_is_number, filter(None, names))):
            raise InputError(
                f"{self.file.name} must name its columns in its first line; it holds numbers there ({names[0]}, ...). "
                "Add a header, as N,D,loss."
            )
        return names

    @property
    def names(self) -> list[str]:
        """The columns that have a name, each once."""
        return list(dict.fromkeys(filter(None, self._header)))

    def read(self, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()) -> Columns:
        """The columns of these names, which must be there; no other is held.  Raises InputError naming the row that
        holds no number, where the column is not `optional`, or the column that is there twice."""
        for name in (*numbers, *optional, *texts):
            if self._header.count(name) > 1:
                raise InputError(
                    f"{self.file.name} has {self._header.count(name)} columns named {name}: remove or rename all but "
                    "the one that is meant."
                )
        number_columns = {name: array("d") for name in (*numbers, *optional)}
        text_columns: dict[str, list[str | None]] = {name: [] for name in texts}
        comma = not self._is_parquet and self._separator != ","
        number = _Numbers(self.file.name, comma=comma, optional=frozenset(optional) - set(numbers))
        wanted = [*number_columns, *text_columns]
        appends: list[Callable[[Any], None]] = [column.append for column in number_columns.values()]
        with self._readable():
            for row, cells in enumerate(self._rows(wanted), 1):
                for at, append in enumerate(appends):
                    append(number(cells[at], wanted[at], row))
                for at, column in enumerate(text_columns.values(), len(appends)):
                    column.append(_text(cells[at]))
        return Columns({name: np.array(column) for name, column in number_columns.items()}, text_columns)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        import pyarrow as pa

        kind = "Parquet" if self._is_parquet else "CSV"
        try:
            yield
        except UnicodeDecodeError:
            raise InputError(f"{self.file} must be UTF-8 or UTF-16 text, or Parquet; save it as UTF-8.") from None
        except (pa.ArrowException, csv.Error, OSError, EOFError) as error:
            why = str(error).partition("\n")[0][:200]
            raise InputError(f"{self.file} is not a readable {kind} table ({why}); check the file.") from None

    def _rows(self, wanted: Sequence[str]) -> Iterator[Sequence[Any]]:
        """The cells of each row, in the order of `wanted`."""
        import pyarrow.parquet

        if self._is_parquet:
            table = pyarrow.parquet.ParquetFile(self.file)
            for batch in table.iter_batches(batch_size=1 << 16, columns=list(wanted)):
                yield from zip(*(batch.column(name).to_pylist() for name in wanted), strict=True)
            return
        rows, places = self._csv_rows(), [self._header.index(name) for name in wanted]
        width = 1 + max(place for place, name in enumerate(self._header) if name)
        next(rows)
        for number, cells in enumerate(rows, 1):
            if len(cells) < width or any(cell.strip() for cell in cells[len(self._header) :]):
                raise InputError(
                    f"{self.file.name} must have {width} cells in a row, as its header has: row {number} has "
                    f"{len(cells)}. Mend its separators and quotes."
                )
            yield [cells[place] for place in places]

    def _csv_rows(self) -> Iterator[list[str]]:
        """The header and every row that holds something and is no comment."""
        with self._text() as text:
            lines = dropwhile(lambda line: line.startswith("#"), text)  # quotes there are nobody's
            for cells in csv.reader(lines, delimiter=self._separator, strict=True, skipinitialspace=True):
                if any(map(str.strip, cells)) and not cells[0].startswith("#") and not _is_hint(cells[0]):
                    yield cells

    @cached_property
    def _separator(self) -> str:
        """The one that cuts the header into most columns."""
        with self._text() as text:
            for line in io.StringIO(text.read(_HEAD), newline=None):
                if _is_hint(line) and line.strip()[-1] in _SEPARATORS:
                    return line.strip()[-1]
                if line.strip(" \r\n\t,;|") and not line.startswith("#"):
                    return max(_SEPARATORS, key=lambda each: len(next(csv.reader([line], delimiter=each), [])))
        return ","

    @contextmanager
    def _text(self) -> Iterator[io.TextIOWrapper]:
        import pyarrow as pa

        with pa.input_stream(str(self.file), compression="detect") as stream:
            start = stream.read(64)
        marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before UTF-16's, which begins one
        marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
        encoding = next((name for mark, name in marks.items() if start.startswith(mark)), "utf-8-sig")
        if encoding == "utf-8-sig" and b"\0" in start:
            raise InputError(f"{self.file} must be UTF-8 text, or Parquet, and is neither; check the file.")
        with (
            pa.input_stream(str(self.file), compression="detect") as stream,
            io.BufferedReader(stream, 1 << 20) as buffered,
            io.TextIOWrapper(buffered, encoding=encoding, newline="") as text,
        ):
            yield text


class _Numbers:
    """Cells as numbers, not-a-number where there is none.  Raises InputError where a cell is no number, or where some
    have decimal commas and others points."""

    def __init__(self, source: str, *, comma: bool, optional: frozenset[str]) -> None:
        self.source, self.comma, self.optional = source, comma, optional
        self.marks: set[str] = set()

    def __call__(self, value: Any, column: str, row: int) -> float:
        text = value
        if self.comma and isinstance(value, str):
            self.marks |= {mark for mark in ",." if mark in value}
            text = value.replace(",", ".")
        try:
            if len(self.marks) < 2:
                return float(text)
        except (TypeError, ValueError, OverflowError):
            pass
        shown = "" if value is None else str(value).strip()
        if shown.lower() in _MISSING or column in self.optional:
            return math.nan
        two = ", and both commas and points stand in numbers" if len(self.marks) == 2 else ""
        raise InputError(
            f"Column {column} of {self.source} must hold numbers: row {row} is {shown[:60]!r}{two}; mend or remove the "
            "row."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str | None:
    """A cell as text; the same object for the same text, for a method is named in every row."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _MISSING else sys.intern(text)


def _is_hint(cell: str) -> bool:
    """Whether a line is Excel's own word for the separator, `sep=;`."""
    return cell[:4].lower() == "sep="
