"""Data sources: one file each, listed here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from isoembed.core import InputError, expanded
from isoembed.data.sources.base import MAX_ROW_BYTES, OnBadRows, RowOptions, Source
from isoembed.data.sources.csv import Csv
from isoembed.data.sources.docstrings import Docstrings
from isoembed.data.sources.files import existing, label_of
from isoembed.data.sources.formats import endings, reader_of
from isoembed.data.sources.hub import Hub
from isoembed.data.sources.jsonl import JsonLines
from isoembed.data.sources.memory import AnyPair, PairsInMemory
from isoembed.data.sources.mixture import Mixture
from isoembed.data.sources.parquet import Parquet
from isoembed.options import NO_PROMPTS, Prompts

__all__ = [
    "MAX_ROW_BYTES",
    "AnyPair",
    "Csv",
    "Docstrings",
    "Hub",
    "JsonLines",
    "Mixture",
    "PairsInMemory",
    "Parquet",
    "Source",
    "absolute",
    "open_source",
]

#: sources with names of their own, asked in turn; what none of them knows is a file (`isoembed.data.sources.formats`)
KINDS: list[type[Source]] = [Docstrings, Hub, PairsInMemory]
#: a part of a mixture with its weight
WEIGHTED = r"(.+):([0-9.]+(?:e[0-9]+)?)"


def open_source(
    spec: str,
    *,
    query_key: str | None = None,
    positive_key: str | None = None,
    negatives_key: str | None = None,
    on_bad_rows: OnBadRows = "error",
    max_negatives: int | None = None,
    prompts: Prompts = NO_PROMPTS,
    max_row_bytes: int = MAX_ROW_BYTES,
    whole: bool = False,
) -> Source:
    """The source that `spec` names: `docstrings[:all]`, a file, `hub:org/name[:config][:split]`, or a mixture of them
    with weights, `a.jsonl.gz:3,b.parquet:1`, or of them `whole`.  A prompt that rows bring must be that of their
    source's queries in `prompts`.  Raises InputError where there is no such source."""
    options = RowOptions(
        query_key, positive_key, negatives_key, on_bad_rows, max_negatives, prompts.query, max_row_bytes
    )
    parts = [part.strip() for part in spec.split(",")]
    if len(parts) == 1 or Path(spec).is_file():
        return _prompted(spec.strip(), options, prompts)
    return Mixture([_weighted(part, options, prompts) for part in parts], whole=whole)


def absolute(spec: str) -> str:
    """`spec` with the files and local folders in it named from the root, so that it means the same from anywhere."""
    parts = [part.strip() for part in spec.split(",")]
    if len(parts) == 1 or Path(spec).is_file():
        return _absolute(spec.strip())
    found = [re.fullmatch(WEIGHTED, part) for part in parts]
    return ",".join(
        _absolute(part) if match is None else f"{_absolute(match[1])}:{match[2]}"
        for part, match in zip(parts, found, strict=True)
    )


def _absolute(name: str) -> str:
    found = (each for kind in KINDS if (each := kind.absolute(name)) is not None)
    return next(found, None) or str(expanded(name).absolute())


def _weighted(part: str, options: RowOptions, prompts: Prompts) -> tuple[Source, float]:
    match = re.fullmatch(WEIGHTED, part)
    if match is None:
        return _prompted(part, options, prompts), 1.0
    try:
        return _prompted(match[1], options, prompts), float(match[2])
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"A weight must be a number; got {match[2]!r} in {part!r}. Write FILE:WEIGHT.") from None


def _prompted(name: str, options: RowOptions, prompts: Prompts) -> Source:
    """The source called `name`, its rows held against its own prompt where it has one."""
    source = _open(name, options)
    own = prompts.of_source(*source.sources).query
    return source if own == options.query_prompt else _open(name, replace(options, query_prompt=own))


def _open(name: str, options: RowOptions) -> Source:
    for kind in KINDS:
        if (found := kind.named(name, options)) is not None:
            return found
    reader = reader_of(expanded(name), options)
    if expanded(name).is_dir():
        raise InputError(f"`data` must be files; {label_of(Path(name))} is a folder. Give it as hub:FOLDER.")
    if reader is None:
        raise InputError(
            f"`data` must be docstrings, hub:ORG/NAME, or a file ending in {endings(packed=True)} (these also .gz or "
            f".zst) or {endings(packed=False)}; got {label_of(Path(name))!r}. Rename or convert it."
        )
    existing(name)
    return reader
