"""CSV with a header line, plain or packed."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from isoembed.core import InputError, number_of
from isoembed.data.sources.base import FileSource, too_long
from isoembed.data.sources.files import LongLine, damage, lines_of, open_text
from isoembed.data.sources.names import BadRow, repeated, required, twice

#: what may stand between two cells; a file whose header no other one makes sense of is read with its own kind's
DELIMITERS = (",", ";", "\t", "|")
#: why lines behind a bad row were left out
SWALLOWED = "lines taken in by the bad row before them"


class Csv(FileSource):
    """A .csv file, also .csv.gz and .csv.zst: comma-separated (or by semicolons, tabs or bars, where its header says
    so), double-quoted, the first line naming the columns.  A .tsv file is the same with tabs."""

    endings = (".csv", ".tsv")

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        line, names = 0, None
        try:
            with open_text(self.file) as text:
                lines = lines_of(text, self.options.max_row_bytes)
                for line, cells in records(lines, self._delimiter, self.options.max_row_bytes):
                    if isinstance(cells, BadRow):
                        if names is None:
                            raise InputError(f"{self.label}, line {line}: {cells.detail}.")
                        yield f"line {line}", cells
                    elif names is None:
                        names = self._names(cells)
                    else:
                        yield f"line {line}", {name: cell for name, cell in zip(names, cells, strict=True) if name}
        except (OSError, UnicodeDecodeError) as error:
            yield f"line {line + 1}", BadRow("truncated file", damage(error))

    def _delimiter(self, header: str) -> str:
        """What separates the cells: what the header has known names by, else what cuts it into most."""
        own = "\t" if ".tsv" in map(str.lower, self.file.suffixes[-2:]) else ","
        cut = {each: next(csv.reader([header], delimiter=each), []) for each in (own, *DELIMITERS)}
        for delimiter, cells in cut.items():
            trial = self.options.names()
            found = trial.layout(dict.fromkeys(map(str.strip, cells), ""))
            if not isinstance(found, BadRow) and not trial.in_order:
                return delimiter
        return max(cut, key=lambda delimiter: len(cut[delimiter]))

    def _names(self, cells: list[str]) -> list[str]:
        """The columns' names, those without one empty; raises InputError where they do not say which to read."""
        names = [cell.strip() for cell in cells]
        if (name := repeated(name for name in names if name)) is not None:
            raise InputError(f"{self.label}: {twice(name).detail}.")
        required(self.names.layout({name: "" for name in names if name}), self.label)
        return names


class _TooLongError(Exception):
    """A record is longer than allowed."""


class _Lines:
    """The lines that a `csv.reader` asks for, those of the record at hand remembered; lines may be put back."""

    def __init__(self, lines: Iterator[str | LongLine], limit: int) -> None:
        self._lines, self._limit = lines, limit
        self._again: deque[str] = deque()
        self._bytes = 0
        self.number = 0  #: of the line that was handed out last
        self.held: list[str] = []  #: lines of the record
        self._last: str | LongLine = ""  #: the line that was too much
        self.ended = False  #: whether the reader asked for more than there is

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.take()
        if line is None:
            self.ended = True
            raise StopIteration
        if isinstance(line, LongLine) or self._bytes + len(line) > self._limit:
            self._last = line
            raise _TooLongError
        self.held.append(line)
        self._bytes += len(line)
        return line

    def new_record(self) -> int:
        """Forget the record; the number of the line at which the next one begins."""
        self.held, self._bytes, self.ended = [], 0, False
        return self.number + 1

    def take(self) -> str | LongLine | None:
        """The next line, or None at the end."""
        line = self._again.popleft() if self._again else next(self._lines, None)
        self.number += line is not None
        return line

    def put_back(self, lines: list[str]) -> None:
        self._again.extendleft(reversed(lines))
        self.number -= len(lines)

    def pass_over(self) -> int:
        """Leave out the rest of a record that is too long, up to the line where its last quote closes; how many lines
        that is."""
        count, quotes = 0, sum(map(_quotes, (*self.held, self._last)))
        while quotes % 2 and (line := self.take()) is not None:
            count, quotes = count + 1, quotes + _quotes(line)
        return count


def _quotes(line: str | LongLine) -> int:
    return line.pass_over() if isinstance(line, LongLine) else line.count('"')


class _Shape:
    """What the records of a file have in common, as seen so far."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter, self._spaced = delimiter, False
        self.width: int | None = None

    def fits(self, cells: list[str], *, strictly: bool) -> bool:
        """Whether `cells` are a record.  `strictly`: behind a fault, where the text of a broken field might pass for
        one; there no cell begins with white space (as prose does behind a comma) unless cells before did."""
        spaced = any(cell[:1].isspace() for cell in cells)
        if len(cells) != (self.width or len(cells)) or (strictly and spaced and not self._spaced):
            return False
        self.width, self._spaced = len(cells), self._spaced or spaced
        return True

    def are_rows(self, lines: list[str]) -> bool:
        """Whether the lines of one record are rows of tabs themselves, so that its quote is no more than a character:
        texts hold line ends and commas, but a tab for every line end hardly."""
        return self._delimiter == "\t" and len(lines) > 1 and {line.count("\t") + 1 for line in lines} == {self.width}

    def fit(self, lines: list[str]) -> bool:
        """Whether each of `lines` is a record by itself, the last one whole."""
        if lines and not lines[-1].endswith(("\n", "\r")):
            return False
        return all(line.isspace() or self._fits_alone(line) for line in lines)

    def _fits_alone(self, line: str) -> bool:
        try:
            cells = next(csv.reader([line], delimiter=self._delimiter, strict=True))
        except csv.Error:
            return False
        return self.fits(cells, strictly=True)


def records(
    lines: Iterator[str | LongLine], delimiter_of: Callable[[str], str], limit: int
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """(number of its first line, its cells or why there are none) of each record; blank lines are passed over.

    The first record says how many cells each has.  `delimiter_of` its line separates them.  Where a quote stays open,
    the lines behind it are read again as records of their own if all of them can be that, else they are left out and
    counted: no record is made of pieces of a text.
    """
    csv.field_size_limit(max(limit, csv.field_size_limit()))
    source = _Lines(lines, limit)
    while isinstance(first := source.take(), str) and first.isspace():
        pass
    if first is None:
        return
    if isinstance(first, LongLine):
        yield source.number, too_long(limit)
        return
    source.put_back([first])
    delimiter = delimiter_of(first)
    shape, reader, behind_fault = _Shape(delimiter), csv.reader(source, delimiter=delimiter, strict=True), False
    while True:
        start, fault, cells = source.new_record(), "", list[str]()
        try:
            if (read := next(reader, None)) is None:
                return
            cells = read
        except csv.Error as error:
            fault = str(error)
        except _TooLongError:
            yield start, too_long(limit)
            if lost := source.pass_over():
                yield start, BadRow(SWALLOWED, "", lost)
            behind_fault = True
            continue
        if not fault and shape.are_rows(source.held):
            fault = "a quote that one row opens and another one closes"
        if not fault and (not cells or shape.fits(cells, strictly=behind_fault)):
            if cells:
                behind_fault = False
                yield start, cells
            continue
        yield from _faulty(source, shape, start, fault, cells, behind_fault=behind_fault)
        behind_fault = behind_fault or bool(fault) or len(source.held) > 1


def _faulty(
    source: _Lines, shape: _Shape, start: int, fault: str, cells: list[str], *, behind_fault: bool
) -> Iterator[tuple[int, BadRow]]:
    """Why the record that begins at line `start` is none; the lines behind its first one are put back as far as they
    are records."""
    held = source.held
    # a line in which the reader stumbled is looked at afresh in any case
    stumbled = held[-1:] if fault and not source.ended and len(held) > 1 else []
    inner = held[1 : len(held) - len(stumbled)]
    kept = inner if shape.fit(inner) else []
    source.put_back(kept + stumbled)
    if not fault:
        fault = f"a line must have {shape.width} columns, as the header has; got {len(cells)}"
    more = f"; its quote stays open over {number_of(len(held) - 1, 'further line')}" if len(held) > 1 else ""
    detail = f"{fault}{more}. Correct its quotes, and its commas"
    lost = len(inner) - len(kept)
    if behind_fault:
        yield start, BadRow(SWALLOWED, detail, 1 + lost)
        return
    yield start, BadRow("malformed line", detail)
    if lost:
        yield start, BadRow(SWALLOWED, detail, lost)
