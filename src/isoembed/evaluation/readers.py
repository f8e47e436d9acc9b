"""Evaluation files, plain or .gz, read strictly: a benchmark with a bad line is no benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from isoembed.core import InputError
from isoembed.data.sources.base import MAX_ROW_BYTES
from isoembed.data.sources.files import LongLine, lines_of, open_text

#: files that BEIR's folders keep elsewhere
_BEIR = {"qrels.tsv": "qrels/test.tsv"}


def find(folder: Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever there is; qrels also where BEIR has those of its test split."""
    places = [folder / each for each in (name, _BEIR.get(name, name))]
    files = [file for place in places for file in (place, place.with_name(f"{place.name}.gz"))]
    return next((file for file in files if file.is_file()), None)


def require(folder: Path, name: str) -> Path:
    """As `find`; raises InputError where there is neither."""
    file = find(folder, name)
    if file is None:
        beir = _BEIR.get(name)
        places = f"{name} (or {name}.gz)" if beir is None else f"{name} or {beir} (or either as .gz)"
        others = sorted(each.name for each in (folder / beir).parent.glob("*.tsv*")) if beir is not None else []
        splits = f"; of its qrels/ only test.tsv is read, not {', '.join(others)}" if others else ""
        raise InputError(f"A task folder must hold {places}; {folder} does not{splits}. Add it or name another folder.")
    return file


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of every line that is not blank; the place is `file:number`, for errors."""
    number = 0
    try:
        with open_text(file) as text:
            for number, line in enumerate(lines_of(text, MAX_ROW_BYTES), start=1):
                if isinstance(line, LongLine):
                    raise InputError(f"{file}:{number}: a line must have at most {MAX_ROW_BYTES:,} bytes. Shorten it.")
                if not line.isspace():
                    line.encode()
                    yield f"{file}:{number}", line.rstrip("\r\n")
    except UnicodeEncodeError:  # `open_text` makes lone surrogates of bytes that are no UTF-8
        raise InputError(f"{file}:{number}: every line must be UTF-8 text, and this one is not. Convert it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} must be a whole file: {error} after line {number}. Fetch it again.") from None


def rows(file: Path, **types: type | tuple[type, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSON-lines file whose rows must have the keys of `types` with values of those types."""
    for place, line in lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: every line must be one JSON object: {error}. Mend or remove it.") from None
        if not isinstance(row, dict):
            raise InputError(
                f"{place}: every line must be one JSON object; got {type(row).__name__}. Mend or remove it."
            )
        if r"\u" in line:  # the only way in for half a character: no encoder takes it
            _encodable(place, row)
        for key, kind in types.items():
            if key not in row:
                raise InputError(f"{place}: a row must have {', '.join(types)}; {key!r} is missing. Add or rename it.")
            if not isinstance(row[key], kind) or isinstance(row[key], bool):
                raise InputError(f"{place}: {key!r} has the wrong type ({type(row[key]).__name__}). Mend it.")
            if (
                isinstance(row[key], (int, float)) and not abs(row[key]) <= sys.float_info.max
            ):  # nor a whole number beyond
                got = f"{row[key]}"[:20]
                raise InputError(f"{place}: {key!r} must be a finite number; got {got}. Mend or remove the row.")
        yield place, row


def _encodable(place: str, row: Any) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{place}: every text must be UTF-8, and one has half a character (a lone surrogate, as \\ud800). Mend it."
        ) from None


def task_folders(folder: Path, kinds: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """(kind, path) of every folder KIND/NAME in `folder`, by kind in the order given, then by name."""
    for kind in kinds:
        if (folder / kind).is_dir():
            yield from ((kind, path) for path in sorted((folder / kind).iterdir()) if path.is_dir())
