"""Datasets of the Hugging Face hub, streamed.

Also a local folder of data files, under the same kind of id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from isoembed.core import InputError, expanded, fingerprint
from isoembed.data.sources.base import RowOptions, RowSource
from isoembed.data.sources.files import file_hash, label_of
from isoembed.data.sources.formats import reader_of
from isoembed.data.sources.names import BadRow, shown, twice
from isoembed.hub import hub_or_cache, is_reachable

if TYPE_CHECKING:
    from datasets import DatasetBuilder

#: what a dataset may be made of; among what `datasets` would also read are pickles, which run code
SAFE_BUILDERS = ("json", "csv", "parquet", "arrow", "text")
DEFAULT_SPLIT = "train"
#: files about data, which no dataset is made of
ABOUT_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
#: what a folder may say of its data files without changing how they are read
PLAIN_CONFIG = {"config_name", "data_files", "data_dir", "default", "description"}


class Hub(RowSource):
    """`hub:org/name[:config][:split]`: the default configuration and its split `train`, unless named.  One name is a
    split of the default configuration, or else a configuration.

    The hub's current commit is looked up once and read throughout, so that the pairs are those of the fingerprint.  Of
    a folder, which files are in the split is for `datasets` to say, by their names or the folder's README.md; they are
    read as they are alone.  Nothing outside the folder is read.
    """

    def __init__(self, name: str, options: RowOptions, *, config: str | None = None, split: str | None = None) -> None:
        self.name, self.config, self.split = name, config, split
        self.folder = expanded(name) if expanded(name).is_dir() else None
        place = name if self.folder is None else label_of(Path(name))
        super().__init__(":".join(["hub", place, *self._chosen]), options)
        self._commit: str | None = None

    @classmethod
    def named(cls, spec: str, options: RowOptions) -> Self | None:
        kind, *parts = spec.split(":")
        if kind != "hub" or not parts:
            return None
        dataset, *named = parts
        if len(named) > 2:
            raise InputError(f"A dataset must be hub:ORG/NAME[:CONFIG][:SPLIT]; got {label_of(Path(spec))!r}. Mend it.")
        config, split = ["", "", *named][-2:]
        return cls(dataset, options, config=config or None, split=split or None)

    @classmethod
    def absolute(cls, spec: str) -> str | None:
        kind, *parts = spec.split(":")
        if kind != "hub" or not parts:
            return None
        if expanded(parts[0]).is_dir():
            parts[0] = str(expanded(parts[0]).absolute())
        return ":".join([kind, *parts])

    @property
    def datasets(self) -> tuple[str, ...]:
        return () if self.folder is not None else (self.name,)

    @property
    def _chosen(self) -> list[str]:
        return [*([self.config] if self.config else []), self.split or DEFAULT_SPLIT]

    def commit(self) -> str:
        """The commit of the dataset on the hub."""
        if self._commit is None:
            from huggingface_hub import HfApi

            try:
                with hub_or_cache():
                    self._commit = str(HfApi().dataset_info(self.name).sha)
            except Exception as error:  # the hub client's errors share no base class
                raise self._refusal(error) from error
        return self._commit

    def content_hash(self) -> str:
        if self.folder is None:
            return fingerprint([self.name, *self._chosen, self.commit()])
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return fingerprint([*self._chosen, *([str(file.relative_to(self.folder)), file_hash(file)] for file in files)])

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        plain, configs = True, list[dict[str, Any]]()
        if self.folder is not None:
            configs = _configs(self.folder)
            plain = all(set(config) <= PLAIN_CONFIG for config in configs)
            for pattern in _patterns(configs):
                self._require_inside(pattern)
        try:
            with hub_or_cache(str(self.folder or "")):
                builder, split = self._builder()
            if builder.__module__.split(".")[-1] not in SAFE_BUILDERS:
                raise ValueError(f"its files are read by {builder.__module__}, not one of {', '.join(SAFE_BUILDERS)}")
            stream = builder.as_streaming_dataset(split=split)
        except (InputError, ModuleNotFoundError):
            raise
        except Exception as error:  # datasets, fsspec and the hub client raise errors of many kinds
            raise self._refusal(error) from error
        readers = [] if self.folder is None else [reader_of(file, self.options) for file in self._files(builder, split)]
        if self.folder is not None and not configs:
            self._require_whole(builder)
        if plain and readers and None not in readers:
            for reader in readers:
                assert reader is not None
                reader.names = self.names
                for place, row in reader.rows():
                    yield f"{Path(reader.label).name}, {place}", row
        else:
            yield from self._streamed(stream, of_csv=builder.__module__.endswith(".csv"))

    def _streamed(self, stream: Any, *, of_csv: bool) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        """The rows as `datasets` reads them; after an error it has no more, so that one is the end."""
        number, rows = 0, iter(stream)
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise InputError(
                    f"{self.label}: all rows must be readable; after row {number}: {error}. Check the dataset and the "
                    "network."
                ) from error
            if row is None:
                return
            number += 1
            if of_csv and number == 1:
                for name in row:  # pandas numbers columns of one name
                    if (match := re.fullmatch(r"(.+)\.\d+", name)) and match[1] in row:
                        raise InputError(f"{self.label}: {twice(match[1]).detail}.")
            yield f"row {number}", row

    def _builder(self) -> tuple[DatasetBuilder, str]:
        """What reads the configuration, and the split; raises InputError, with those that there are, where they are not
        named."""
        import datasets

        place, revision = str(self.folder or self.name), None if self.folder else self.commit()
        names = datasets.get_dataset_config_names(place, revision=revision)
        default = datasets.get_dataset_default_config_name(place, revision=revision)
        if self.config is not None:
            asked: list[tuple[str | None, str]] = [(self.config, self.split or DEFAULT_SPLIT)]
        else:
            asked = [(default, self.split or DEFAULT_SPLIT), (self.split, DEFAULT_SPLIT)]
        splits: dict[str, list[str]] = {}
        for config, split in asked:
            if config is not None and config in names:
                builder = datasets.load_dataset_builder(place, config, revision=revision)
                splits[config] = list(map(str, builder.config.data_files or {}))
                if split in splits[config]:
                    return builder, split
        there = "; ".join(f"the splits of {config} are {shown(found)}" for config, found in splits.items())
        raise InputError(
            f"`{self.label}` must be a dataset with that configuration and split: its configurations are "
            f"{shown(names)}{f'; {there}' if there else ''}. Name one of each, as hub:ORG/NAME:{names[0]}:SPLIT."
        )

    def _files(self, builder: DatasetBuilder, split: str) -> list[Path]:
        """The files of the split in the folder; raises InputError for one that is not in it."""
        found = (builder.config.data_files or {}).values()
        for file in (file for files in found for file in files):
            self._require_inside(file)
        return [Path(file) for file in (builder.config.data_files or {}).get(split, [])]

    def _require_whole(self, builder: DatasetBuilder) -> None:
        """Raise InputError where the folder holds data that are in no split: of files of two kinds `datasets` takes one
        kind, without a word."""
        assert self.folder is not None
        taken = {Path(file).resolve() for files in (builder.config.data_files or {}).values() for file in files}
        found = (
            file
            for file in sorted(self.folder.rglob("*"))
            if reader_of(file, self.options) is not None and file.name not in ABOUT_DATA
        )
        if left := [label_of(file.relative_to(self.folder)) for file in found if file.resolve() not in taken]:
            raise InputError(
                f"All data files of a folder must be in a split; {self.label} would leave out {left[0]}"
                f"{f' and {len(left) - 1} more' if left[1:] else ''}. Name the splits under `configs` in its "
                "README.md, or give the files themselves as `data`."
            )

    def _require_inside(self, named: str) -> None:
        """Raise InputError unless the file or pattern `named` lies in the folder, links followed."""
        assert self.folder is not None
        root = self.folder.resolve()
        if root.parent.name == "snapshots":  # a dataset in the hub's cache: its files are links into it
            root = root.parent.parent
        place = Path(os.path.normpath(self.folder.absolute() / named))
        inside = place.is_relative_to(self.folder.absolute()) or place.is_relative_to(self.folder.resolve())
        if "::" in named or "://" in named or not (inside and place.resolve().is_relative_to(root)):
            raise InputError(
                f"A folder of data must hold all its files; {self.label} names {label_of(Path(named))}, which lies "
                "outside. Copy it in, or give the file itself as `data`."
            )

    def _refusal(self, error: Exception) -> InputError:
        away = isinstance(error, ConnectionError) and not is_reachable()
        reason = "the model hub cannot be reached" if away else str(error).rstrip(".")
        return InputError(
            f"`{self.label}` must be a dataset on the hub, or a folder, with that split: {reason}. "
            "Check the name, the split and the network (a gated dataset also needs `hf auth login`)."
        )


def _configs(folder: Path) -> list[dict[str, Any]]:
    """What the folder says of its data files, in its README.md."""
    from huggingface_hub import metadata_load

    if (folder / ".huggingface.yaml").exists():
        raise InputError(
            f"A folder must say in README.md what its data files are; {label_of(folder)} has .huggingface.yaml."
        )
    readme = folder / "README.md"
    try:
        said = metadata_load(readme) if readme.is_file() else None
    except Exception as error:  # of YAML's parser, which is not ours to import
        raise InputError(f"README.md of {label_of(folder)} must begin with valid YAML: {error}. Mend it.") from None
    found = (said or {}).get("configs") or []
    return [config for config in found if isinstance(config, dict)]


def _patterns(value: Any, *, named: bool = False) -> Iterator[str]:
    """Every pattern of files in what a folder says, at any depth under `data_files` or `data_dir`."""
    if isinstance(value, str) and named:
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _patterns(inner, named=(named and key != "split") or key in ("data_files", "data_dir"))
    elif isinstance(value, list):
        for inner in value:
            yield from _patterns(inner, named=named)
