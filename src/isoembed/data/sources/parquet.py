"""Parquet, read one record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isoembed.data.sources.base import BadRow, Keys, RowOptions, RowSource
from isoembed.data.sources.files import file_hash

BATCH_ROWS = 4096


class Parquet(RowSource):
    """A .parquet file; only the columns that hold the texts are read."""

    def __init__(self, file: Path, options: RowOptions) -> None:
        super().__init__(str(file), options)
        self.file = file

    def content_hash(self) -> str:
        return file_hash(self.file)

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        number = 0
        try:
            with pq.ParquetFile(self.file) as table:
                found = table.schema_arrow.names
                keys = self.options.keys(found)
                wanted = (keys.query, keys.positive, keys.negatives) if isinstance(keys, Keys) else found
                columns = [name for name in found if name in wanted]
                for batch in table.iter_batches(BATCH_ROWS, columns=columns):
                    for row in _to_dicts(batch):
                        number += 1
                        yield f"row {number}", row
        except (pa.ArrowException, OSError) as error:
            yield f"row {number + 1}", BadRow("truncated file", f"the file must be whole; {error}. Fetch it again")


def _to_dicts(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | BadRow]:
    """The batch's rows; Arrow does not check that strings are UTF-8, so a bad one is found only here."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield BadRow("not UTF-8", f"texts must be UTF-8; {error}. Save it as UTF-8")
        else:
            for row in range(batch.num_rows):
                yield from _to_dicts(batch.slice(row, 1))
