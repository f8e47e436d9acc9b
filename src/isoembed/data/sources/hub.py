"""Datasets of the Hugging Face hub, streamed.

Also a local folder of data files, under the same kind of id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isoembed.core import InputError, expanded, fingerprint
from isoembed.data.sources.base import BadRow, RowOptions, RowSource
from isoembed.data.sources.files import file_hash

#: what a dataset may be made of; among what `datasets` would also read are pickles, which run code
SAFE_BUILDERS = ("json", "csv", "parquet", "arrow", "text")


class Hub(RowSource):
    """`hub:org/name[:split]`, split `train` by default.

    The hub's current commit is looked up once and read throughout, so that the pairs are those of the fingerprint.
    """

    def __init__(self, name: str, split: str, options: RowOptions) -> None:
        super().__init__(f"hub:{name}:{split}", options)
        self.name, self.split = name, split
        self.folder = expanded(name) if expanded(name).is_dir() else None
        self._commit: str | None = None

    def commit(self) -> str:
        """The commit of the dataset on the hub."""
        if self._commit is None:
            from huggingface_hub import HfApi

            try:
                self._commit = str(HfApi().dataset_info(self.name).sha)
            except Exception as error:  # the hub client's errors share no base class
                raise self._refusal(error) from error
        return self._commit

    def content_hash(self) -> str:
        if self.folder is None:
            return fingerprint([self.name, self.split, self.commit()])
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return fingerprint([self.split, *([str(file.relative_to(self.folder)), file_hash(file)] for file in files)])

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        import datasets

        revision = None if self.folder else self.commit()
        try:
            builder = datasets.load_dataset_builder(str(self.folder or self.name), revision=revision)
            if builder.__module__.split(".")[-1] not in SAFE_BUILDERS:
                raise ValueError(f"its files are read by {builder.__module__}, not one of {', '.join(SAFE_BUILDERS)}")
            stream = builder.as_streaming_dataset(split=self.split)
        except Exception as error:  # datasets, fsspec and the hub client raise errors of many kinds
            raise self._refusal(error) from error
        number, rows = 0, iter(stream)
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                yield f"row {number + 1}", BadRow("unreadable", f"rows must be readable; {error}. Check the dataset")
                return
            if row is None:
                return
            number += 1
            yield f"row {number}", row

    def _refusal(self, error: Exception) -> InputError:
        return InputError(
            f"`{self.label}` must be a dataset on the hub, or a folder, with that split: {error}. "
            "Check the name, the split and the network (a gated dataset also needs `hf auth login`)."
        )
