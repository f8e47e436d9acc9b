"""TextVectors: a teacher's vectors of pairs, computed once and kept on disk beside the tokens.

    part-00000.npy, ...     records (row, tokens of query and positive, their vectors), read through memory mapping

A part is written whole or not at all and never changed.  Its number is claimed, so that of two processes that compute
the same row the one that wrote first is believed by both, in every later run too.

Legend: N = pairs, W = width of the teacher's vectors.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isoembed.cache import used
from isoembed.core import InputError, write_once
from isoembed.data.sources.files import label_of

#: raised when the meaning of a part changes
VECTORS_VERSION = 1

Vectors = npt.NDArray[np.float16]


def _record(width: int) -> np.dtype[Any]:
    return np.dtype([("row", "<i8"), ("tokens", "<u4", (2,)), ("vector", "<f2", (2, width))])


@dataclass(frozen=True, eq=False)
class TextVectors:
    """What the folder holds of a store of `len(place_N)` rows; `place_N` says which (part, record) a row is, -1 where
    it has none."""

    folder: Path
    width: int
    parts: tuple[npt.NDArray[Any], ...]
    place_N: npt.NDArray[np.int64]  #: (rows, 2)
    tokens: int = 0  #: that the teacher read of the rows that are asked for

    @classmethod
    def open(cls, folder: Path, *, rows: int, width: int) -> Self:
        """All parts that are whole; raises InputError for one that is damaged."""
        place_N = np.full((rows, 2), -1)
        parts: list[npt.NDArray[Any]] = []
        for number in itertools.count():
            file = _file(folder, number)
            try:
                part = np.load(file, mmap_mode="r")
                if part.dtype != _record(width) or part.ndim != 1 or not (part["row"] < rows).all():
                    raise ValueError("other records than it should")
            except FileNotFoundError:
                break
            except (ValueError, OSError, EOFError) as error:
                raise InputError(
                    f"A teacher's vectors must be as they were written; {file.name} in {label_of(folder)} is damaged "
                    f"({error}). Delete that folder; they are computed again."
                ) from None
            new = place_N[part["row"], 0] < 0
            place_N[part["row"][new]] = np.stack([np.full(new.sum(), number), np.flatnonzero(new)], axis=1)
            parts.append(part)
        if parts:
            used(folder)
        return cls(folder, width, tuple(parts), place_N)

    def missing(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of `rows` that have no vectors yet."""
        found: npt.NDArray[np.int64] = rows[self.place_N[rows, 0] < 0]
        return found

    def add(self, rows: npt.NDArray[np.int64], tokens_N2: npt.NDArray[Any], vector_N2W: npt.NDArray[Any]) -> None:
        """Write a part; `open` reads it."""
        part = np.empty(len(rows), _record(self.width))
        part["row"], part["tokens"], part["vector"] = rows, tokens_N2, vector_N2W
        content = io.BytesIO()
        np.save(content, part, allow_pickle=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self.parts)
        while not write_once(_file(self.folder, number), content.getvalue()):
            number += 1

    def tokens_of(self, rows: npt.NDArray[np.int64]) -> int:
        """Tokens that the teacher read of `rows`."""
        return sum(int(part["tokens"][own].sum()) for part, own, _ in self._located(rows))

    def of(self, rows: npt.NDArray[np.int64]) -> tuple[Vectors, Vectors]:
        """Vectors (N, W) of the queries and of the positives at `rows`."""
        found = np.empty((len(rows), 2, self.width), np.float16)
        for part, own, where in self._located(rows):
            found[where] = part["vector"][own]
        return found[:, 0], found[:, 1]

    def _located(
        self, rows: npt.NDArray[np.int64]
    ) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(part, its records among `rows`, where these stand in `rows`)."""
        place = self.place_N[rows]
        located = [(number, np.flatnonzero(place[:, 0] == number)) for number in np.unique(place[:, 0])]
        return [(self.parts[number], place[where, 1], where) for number, where in located]


def _file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"
