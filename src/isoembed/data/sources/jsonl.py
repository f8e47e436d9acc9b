"""JSON Lines, plain or packed: one object a line; and a list of objects over all of a file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from isoembed.core import InputError
from isoembed.data.sources.base import FileSource, too_long
from isoembed.data.sources.files import PIECE, LongLine, damage, lines_of, open_text
from isoembed.data.sources.names import BadRow, repeated, twice


class JsonLines(FileSource):
    """A .jsonl file, or a .json one, also .gz and .zst.  Blank lines are passed over.  A line may also be an array of
    texts: query, positive, and any number of hard negatives.  A file that is one list of rows, over any number of
    lines, is read row by row too."""

    endings = (".jsonl", ".ndjson", ".json")

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        number, begun, decoder = 0, False, _Decoder()
        try:
            with open_text(self.file) as text:
                for number, line in enumerate(lines_of(text, self.options.max_row_bytes), start=1):
                    beginning = line.beginning if isinstance(line, LongLine) else line
                    if not begun and _OPENS_A_LIST.match(beginning):
                        yield from self._listed(beginning, text)
                        return
                    if isinstance(line, LongLine):
                        yield f"line {number}", too_long(self.options.max_row_bytes)
                    elif not line.isspace():
                        if not begun and line.strip() == "{":  # one of its lines might pass for a row
                            raise InputError(
                                f"{self.label} must hold rows, one object a line or a list of them; it is one object "
                                "over all of the file. Write its rows one a line, as `jq -c '.rows[]'` does."
                            )
                        begun = True
                        yield f"line {number}", decoder.line(line)
        except (OSError, UnicodeDecodeError) as error:
            yield f"line {number + 1}", BadRow("truncated file", damage(error))

    def _listed(self, beginning: str, text: io.TextIOWrapper) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        """The rows of the list that `beginning` opens and `text` goes on with.  No more than a piece and a row is held.
        Raises InputError where it is no list: what is behind a fault cannot be told apart, so that no row of it could
        be left out alone."""
        number = 0
        try:
            for number, row in enumerate(_Items(beginning, text, self.options.max_row_bytes), start=1):
                yield f"row {number}", row
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(
                f"{self.label} must be one list of rows, or have one row per line; behind row {number}: {why}. Mend "
                "it, or write one row per line, as `jq -c '.[]'` does."
            ) from None


#: the beginning of a file that is one list of objects or of arrays
_OPENS_A_LIST = re.compile(r"\s*\[\s*(\{|\[|$)")


class _Items:
    """The rows of a list, `beginning` and what `text` goes on with; raises ValueError where it is none, or a row is
    longer than `limit`."""

    def __init__(self, beginning: str, text: io.TextIOWrapper, limit: int) -> None:
        self._held, self._at = beginning, beginning.index("[") + 1
        self._text, self._limit, self._decoder = text, limit, _Decoder()

    def __iter__(self) -> Iterator[dict[str, Any] | BadRow]:
        first = True
        while (sign := self._sign()) != "]":
            if not first:
                if sign != ",":
                    raise ValueError("a comma must stand between two rows")
                self._at += 1
                self._sign()
            first = False
            yield self._decoder.row(self._value())
        self._at += 1
        while not self._held[self._at :].strip():
            self._at = len(self._held)
            if not self._more():
                return
        raise ValueError("more stands behind its end")

    def _more(self) -> bool:
        """Read on, as much again as is held, so that a long row is not begun too often."""
        piece = self._text.read(max(PIECE, len(self._held) - self._at))
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)

    def _sign(self) -> str:
        """What comes next that is no white space."""
        while True:
            if found := _SIGN.search(self._held, self._at):
                self._at = found.start()
                return found[0]
            self._at = len(self._held)
            if not self._more():
                raise ValueError("it does not end")

    def _value(self) -> Any:
        """The value that begins here."""
        while True:
            held = len(self._held) - self._at
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or error.pos > len(self._held) - _LONGEST_SIGN
                if unfinished and held <= self._limit and self._more():
                    continue
                if not unfinished or held <= self._limit:
                    raise
                end = len(self._held)
            if end - self._at > self._limit:
                raise ValueError(too_long(self._limit).detail)
            self._at = end
            return value


_SIGN = re.compile(r"\S")
#: characters of JSON that mean nothing without the last one, as `\\ud800` or `false`
_LONGEST_SIGN = 12


class _Decoder(json.JSONDecoder):
    """JSON as rows.  `twice`: a key that an object of the last value has twice, at any depth."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.twice: str | None = None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            self.twice = repeated(name for name, _ in pairs)
        return row

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        self.twice = None
        return super().raw_decode(s, idx)

    def row(self, value: Any) -> dict[str, Any] | BadRow:
        """The value that was just decoded as a row, or why it is none."""
        if self.twice is not None:
            return twice(self.twice)
        if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
            query, positive, *negatives = value
            return {"[0]": query, "[1]": positive, "[2]": negatives}
        if not isinstance(value, dict):
            return BadRow(
                "malformed line",
                "a row must be one JSON object, or an array of two texts or more; got "
                f"{type(value).__name__}. Correct it",
            )
        return value

    def line(self, line: str) -> dict[str, Any] | BadRow:
        """The row that is all of a line."""
        try:
            return self.row(self.decode(line))
        except (ValueError, RecursionError) as error:
            return BadRow("malformed line", f"a line must be one JSON object; {error}. Correct the line")
