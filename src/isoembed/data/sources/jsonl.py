"""JSON Lines, plain or packed: one object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoembed.core import InputError
from isoembed.data.sources.base import RowOptions, RowSource, too_long
from isoembed.data.sources.files import LongLine, damage, file_hash, label_of, lines_of, open_text
from isoembed.data.sources.names import BadRow, repeated, twice


class JsonLines(RowSource):
    """A .jsonl file, also .jsonl.gz and .jsonl.zst.  Blank lines are passed over.  A line may also be an array of
    texts: query, positive, and any number of hard negatives."""

    def __init__(self, file: Path, options: RowOptions) -> None:
        super().__init__(label_of(file), options)
        self.file = file

    def content_hash(self) -> str:
        return file_hash(self.file)

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        number, begun = 0, False
        try:
            with open_text(self.file) as text:
                for number, line in enumerate(lines_of(text, self.options.max_row_bytes), start=1):
                    if isinstance(line, LongLine):
                        yield f"line {number}", too_long(self.options.max_row_bytes)
                    elif not line.isspace():
                        row = _parse(line)
                        if not begun and isinstance(row, BadRow):
                            self._refuse_one_value(line)
                        begun = True
                        yield f"line {number}", row
        except (OSError, UnicodeDecodeError) as error:
            yield f"line {number + 1}", BadRow("truncated file", damage(error))

    def _refuse_one_value(self, first: str) -> None:
        """Raise InputError where the first line begins a value that is the whole file: one of its lines might pass for
        a row."""
        opened = first.strip()
        if opened == "{" or re.match(r"\[\s*(\{|\[|$)", opened):
            raise InputError(
                f"{self.label} must be JSON Lines, one object a line; it is a JSON value over all of the file. Write "
                "its objects one a line, as `jq -c '.[]'` does of a list."
            )


class _TwiceError(ValueError):
    """A key that occurs twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _TwiceError(repeated(name for name, _ in pairs))
    return row


def _parse(line: str) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except _TwiceError as error:
        return twice(str(error))
    except (ValueError, RecursionError) as error:
        return BadRow("malformed line", f"a line must be one JSON object; {error}. Correct the line")
    if isinstance(row, list) and len(row) > 1 and all(isinstance(text, str) for text in row):
        query, positive, *negatives = row
        return {"[0]": query, "[1]": positive, "[2]": negatives}
    if not isinstance(row, dict):
        return BadRow(
            "malformed line",
            f"a line must be one JSON object, or an array of two texts or more; got {type(row).__name__}. "
            "Correct the line",
        )
    return row
