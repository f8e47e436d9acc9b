"""Pairs at hand: tuples, dicts or `Pair`s in place of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from isoembed.core import InputError
from isoembed.data.pair import Pair
from isoembed.data.sources.base import RowOptions, RowSource
from isoembed.data.sources.names import BadRow

#: a pair as a user may give it: (query, positive), (query, positive, negatives), or the fields of a row of a file
AnyPair = Pair | Mapping[str, Any] | Sequence[Any]


class PairsInMemory(RowSource):
    """Rows in a list; dicts are read by the names that files are read by."""

    #: what a record says of where its pairs lay
    label = "pairs in memory"

    def __init__(self, pairs: Iterable[AnyPair]) -> None:
        super().__init__(self.label, RowOptions())
        self._rows = [_row(number, pair) for number, pair in enumerate(pairs, 1)]

    @classmethod
    def named(cls, spec: str, options: RowOptions) -> Self | None:
        if spec == cls.label:
            raise InputError("Pairs that were given in memory are kept nowhere. Give them again, or `data`.")
        return None

    @classmethod
    def absolute(cls, spec: str) -> str | None:
        return spec if spec == cls.label else None

    def content_hash(self) -> str:
        content = hashlib.sha256()
        for row in self._rows:
            content.update(json.dumps(row, default=repr).encode() + b"\n")
        return content.hexdigest()

    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        for number, row in enumerate(self._rows, 1):
            yield f"pair {number}", row


def _row(number: int, pair: AnyPair) -> dict[str, Any]:
    """The pair by the fields of a row."""
    if isinstance(pair, Pair):
        pair = (pair.query, pair.positive, list(pair.negatives))
    if isinstance(pair, Mapping):
        return dict(pair)
    if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) in (2, 3):
        negatives = pair[2] if len(pair) == 3 else []
        negatives = list(negatives) if isinstance(negatives, tuple) else negatives
        return {"query": pair[0], "positive": pair[1], **({"negative": negatives} if negatives else {})}
    raise InputError(
        f"A pair must be (query, positive), with a list of negatives behind them or not, or a dict of these; pair "
        f"{number} is {str(pair)[:60]!r}. Mend it."
    )
