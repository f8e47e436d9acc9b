"""Semantic textual similarity: does the cosine of two texts rank pairs as people do?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.stats import spearmanr

from isoembed.core import InputError
from isoembed.evaluation.notes import ScoreNote
from isoembed.evaluation.readers import find, rows
from isoembed.evaluation.systems import EmbeddingSystem, System


@dataclass(frozen=True)
class StsTask:
    """Pairs of texts with a human score each, on any scale: only the order counts."""

    name: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    scores: tuple[float, ...]
    kind: ClassVar[str] = "sts"
    facts: ClassVar[tuple[ScoreNote, ...]] = ()

    @classmethod
    def from_path(cls, path: Path) -> StsTask:
        """Read {"s1", "s2", "score"} rows from a .jsonl file, or from test.jsonl of a folder, plain or .gz."""
        file = find(path, "test.jsonl") if path.is_dir() else path
        if file is None or not file.is_file():
            raise InputError(f"An STS task must be a .jsonl file or a folder with test.jsonl; {path} is neither.")
        read = [row for _, row in rows(file, s1=str, s2=str, score=(int, float))]
        if len({row["score"] for row in read}) < 2:
            raise InputError(f"{file} must hold pairs with at least two different scores, or nothing can be ranked.")
        left, right, scores = (tuple(row[key] for row in read) for key in ("s1", "s2", "score"))
        return cls(path.name if path.is_dir() else path.name.partition(".")[0], left, right, scores)

    @property
    def counts(self) -> dict[str, int]:
        return {"pairs": len(self.scores)}

    def score(self, system: System) -> dict[str, float]:
        """Spearman's rank correlation of cosine and human score, as a fraction (benchmark tables show it times 100).

        Both texts are embedded as queries, and kept as documents are.  Empty for a system without embeddings, and where
        every pair has the same cosine.
        """
        if not isinstance(system, EmbeddingSystem):
            return {}
        cosines = np.einsum("nd,nd->n", *system.embed_pairs(self.left, self.right))
        if np.ptp(cosines) == 0:
            return {}
        return {"spearman": float(spearmanr(cosines, self.scores).statistic)}
