"""CSV with a header line, plain or packed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoembed.data.sources.base import BadRow, RowOptions, RowSource
from isoembed.data.sources.files import file_hash, open_text


class Csv(RowSource):
    """A .csv file, also .csv.gz and .csv.zst: comma-separated, double-quoted, the first line naming the columns."""

    def __init__(self, file: Path, options: RowOptions) -> None:
        super().__init__(str(file), options)
        self.file = file

    def content_hash(self) -> str:
        return file_hash(self.file)

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        line = 0
        try:
            with open_text(self.file) as lines:
                reader = csv.reader(lines, strict=True)
                names: list[str] | None = None
                while True:
                    try:
                        cells = next(reader, None)
                    except csv.Error as error:
                        yield f"line {reader.line_num}", BadRow("malformed line", f"{error}. Correct its quotes")
                        continue
                    line = reader.line_num
                    if cells is None:
                        return
                    if not cells:
                        continue
                    if names is None:
                        names = cells
                    elif len(cells) != len(names):
                        fault = f"a line must have {len(names)} columns, as the header has; got {len(cells)}"
                        yield f"line {line}", BadRow("malformed line", f"{fault}. Correct its commas and quotes")
                    else:
                        yield f"line {line}", dict(zip(names, cells, strict=True))
        except OSError as error:
            yield f"line {line + 1}", BadRow("truncated file", f"the file must be whole; {error}. Fetch it again")
