"""A weighted mixture of sources, interleaved deterministically."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from isoembed.core import InputError, fingerprint
from isoembed.data.pair import Pair
from isoembed.data.sources.base import Source
from isoembed.data.sources.names import Fields


class Mixture(Source):
    """Draws pairs at relative rates: with weights 3 and 1, three of the first for each one of the second.

    The next pair comes from the source furthest behind its share, so any stretch of the mixture has the proportions
    asked for.  It ends when a source whose turn it is has no more: nothing is repeated, and what the others have left
    is not used (give a large file a large weight to use more of it).
    """

    def __init__(self, parts: list[tuple[Source, float]]) -> None:
        super().__init__()
        for source, weight in parts:
            if not 0 < weight < math.inf:
                raise InputError(
                    f"A weight must be above 0 and finite; {source.label} has {weight:g}. Leave it out or change it."
                )
        self.parts = parts
        self.label = ",".join(f"{source.label}:{weight:g}" for source, weight in parts)

    @property
    def fields(self) -> tuple[Fields, ...]:
        return tuple(fields for source, _ in self.parts for fields in source.fields)

    def fingerprint(self) -> str:
        return fingerprint(["mixture", *([source.fingerprint(), weight] for source, weight in self.parts)])

    def pairs(self) -> Iterator[Pair]:
        iterators = [iter(source) for source, _ in self.parts]
        total = sum(weight for _, weight in self.parts)
        behind = [0.0] * len(iterators)
        while True:
            for index, (_, weight) in enumerate(self.parts):
                behind[index] += weight / total
            turn = max(range(len(behind)), key=behind.__getitem__)
            behind[turn] -= 1.0
            pair = next(iterators[turn], None)
            self.skipped = sum((source.skipped for source, _ in self.parts), Counter())
            if pair is None:
                return
            yield pair
