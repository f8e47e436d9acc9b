"""Published benchmark scores of well-known embedding models, kept offline to stand beside one's own.

From the MTEB results (https://github.com/embeddings-benchmark/results) by `scripts/published_scores.py`, unchanged:
main scores, fractions of 1.  The models differ in what they were trained on, often in data like a task's; a score says
what is reached, not what a budget buys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field

from isoembed.core import Frozen

FILE = Path(__file__).parent / "assets" / "published_scores.json"


class PublishedModel(Frozen):
    """One model's scores."""

    name: str = Field(description="on the hub, or of a baseline of the library")
    parameters: int | None = Field(description="in all; None of what is no network")
    table_parameters: int | None = Field(description="of these in the token table; None where not stated")
    scores: dict[str, float] = Field(description="task -> main score")

    def mean(self, tasks: Collection[str]) -> float | None:
        """Over `tasks`; None where one of them was not scored, or there is none."""
        if not tasks or not self.scores.keys() >= set(tasks):
            return None
        return float(np.mean([self.scores[task] for task in tasks]))


class PublishedScores(Frozen):
    """All of them, with where they are from."""

    source: str
    commit: str
    benchmarks: dict[str, tuple[str, ...]] = Field(description="benchmark -> its tasks")
    types: dict[str, str] = Field(description="task -> the library's type")
    models: tuple[PublishedModel, ...]

    def of_type(self, benchmark: str, kind: str) -> tuple[str, ...]:
        """The tasks of a benchmark that are of one type, as `Retrieval`."""
        return tuple(task for task in self.benchmarks[benchmark] if self.types[task] == kind)

    def beside(self, tasks: Iterable[str]) -> tuple[tuple[str, ...], list[tuple[PublishedModel, float]]]:
        """Those of `tasks` that the tables know, and each model that has all of them with its mean, best first."""
        known = tuple(task for task in dict.fromkeys(tasks) if task in self.types)
        means = [(model, model.mean(known)) for model in self.models]
        return known, sorted(((model, mean) for model, mean in means if mean is not None), key=lambda each: -each[1])


@cache
def published_scores() -> PublishedScores:
    """What ships."""
    return PublishedScores.model_validate_json(FILE.read_bytes())
