"""Pair: two texts that belong together, the unit of contrastive training."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the text that answers it.

    `group` names a unit whose pairs resemble each other and must stay on one side of a train/held-out split (for
    docstrings: the package); None where each pair stands alone.  `source` says which part of a mixture it is from.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    group: str | None = None
    source: int = field(default=0, compare=False)
