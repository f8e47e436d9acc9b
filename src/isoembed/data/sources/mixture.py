"""A weighted mixture of sources, interleaved deterministically."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from isoembed.core import InputError, fingerprint, placeless
from isoembed.data.pair import Pair
from isoembed.data.sources.base import Source
from isoembed.data.sources.names import Fields


class Mixture(Source):
    """Draws pairs at relative rates: with weights 3 and 1, three of the first for each one of the second.

    The next pair comes from the source furthest behind its share, so any stretch of the mixture has the proportions
    asked for.  It ends when a source whose turn it is has no more: nothing is repeated, and what the others have left
    is not used (give a large file a large weight to use more of it).

    whole: all of every source instead, one behind the other; for whoever says the shares otherwise than by weights.
    """

    def __init__(self, parts: list[tuple[Source, float]], *, whole: bool = False) -> None:
        super().__init__()
        for source, weight in parts:
            if not 0 < weight < math.inf:
                raise InputError(
                    f"A weight must be above 0 and finite; {source.label} has {weight:g}. Leave it out or change it."
                )
        if whole and len({weight for _, weight in parts}) > 1:
            raise InputError(
                "Shares are said by weights or by `source_alpha`; got both, weights "
                f"{', '.join(f'{weight:g}' for _, weight in parts)}. Leave one out."
            )
        self.parts, self.whole = parts, whole
        self.label = ",".join(source.label if whole else f"{source.label}:{weight:g}" for source, weight in parts)

    @property
    def fields(self) -> tuple[Fields, ...]:
        return tuple(fields for source, _ in self.parts for fields in source.fields)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(placeless(source.label) for source, _ in self.parts)

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for source, _ in self.parts for name in source.datasets))

    def fingerprint(self) -> str:
        if self.whole:
            return fingerprint(["whole sources", *(source.fingerprint() for source, _ in self.parts)])
        return fingerprint(["mixture", *([source.fingerprint(), weight] for source, weight in self.parts)])

    def pairs(self) -> Iterator[Pair]:
        yield from self._one_behind_the_other() if self.whole else self._interleaved()
        self.skipped = sum((source.skipped for source, _ in self.parts), Counter())

    def _part(self, number: int) -> Iterator[Pair]:
        """The pairs of one source."""
        return (replace(pair, source=number) for pair in self.parts[number][0])

    def _one_behind_the_other(self) -> Iterator[Pair]:
        return itertools.chain.from_iterable(self._part(number) for number in range(len(self.parts)))

    def _interleaved(self) -> Iterator[Pair]:
        parts = [self._part(number) for number in range(len(self.parts))]
        total = sum(weight for _, weight in self.parts)
        behind = [0.0] * len(parts)
        while True:
            for index, (_, weight) in enumerate(self.parts):
                behind[index] += weight / total
            turn = max(range(len(behind)), key=behind.__getitem__)
            behind[turn] -= 1.0
            pair = next(parts[turn], None)
            if pair is None:
                return
            yield pair
