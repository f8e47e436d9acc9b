"""JSON Lines, plain or packed: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoembed.data.sources.base import BadRow, RowOptions, RowSource
from isoembed.data.sources.files import file_hash, open_text


class JsonLines(RowSource):
    """A .jsonl file, also .jsonl.gz and .jsonl.zst.  Blank lines are passed over."""

    def __init__(self, file: Path, options: RowOptions) -> None:
        super().__init__(str(file), options)
        self.file = file

    def content_hash(self) -> str:
        return file_hash(self.file)

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        number = 0
        try:
            with open_text(self.file) as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.isspace():
                        yield f"line {number}", _parse(line)
        except OSError as error:
            yield f"line {number + 1}", BadRow("truncated file", f"the file must be whole; {error}. Fetch it again")


def _parse(line: str) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow("malformed line", f"a line must be one JSON object; {error}. Correct the line")
    if not isinstance(row, dict):
        return BadRow("malformed line", f"a line must be one JSON object; got {type(row).__name__}. Correct the line")
    return row
