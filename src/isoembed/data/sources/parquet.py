"""Parquet, read one record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isoembed.core import InputError
from isoembed.data.sources.base import FileSource
from isoembed.data.sources.files import damage, open_file
from isoembed.data.sources.names import BadRow, repeated, required, twice

BATCH_ROWS = 4096


class Parquet(FileSource):
    """A .parquet file; only the columns that hold the texts are read."""

    endings = (".parquet", ".pq")
    packed = False

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        number = 0
        try:
            with open_file(self.file) as stream, pq.ParquetFile(stream) as table:
                columns = self._columns(table.schema_arrow)
                for batch in table.iter_batches(BATCH_ROWS, columns=columns):
                    for row in _to_dicts(batch):
                        number += 1
                        yield f"row {number}", row
        except (pa.ArrowException, OSError) as error:
            yield f"row {number + 1}", BadRow("truncated file", damage(error))

    def _columns(self, schema: pa.Schema) -> list[str]:
        """The columns to read; raises InputError where the names do not say which."""
        if (name := repeated(schema.names)) is not None:
            raise InputError(f"{self.label}: {twice(name).detail}.")
        header = {field.name: "" if _is_text(field.type) else None for field in schema}
        wanted = required(self.names.layout(header), self.label).read
        return [name for name in schema.names if name in wanted]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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
