"""What comes of a benchmark, as values that need no library to be read."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from isoembed.core import Frozen
from isoembed.records import ScoreName


class BenchmarkScore(Frozen):
    """One task's main score, a fraction of 1 (benchmark tables show it times 100); None where it is undefined, as a
    correlation is where all texts have one embedding."""

    task: str
    type: str = Field(description="the library's task type, which is the category that means are taken over")
    metric: str
    score: float | None
    data_revision: str
    seconds: float = Field(description="wall time here, loading included; next to none where a kept result was read")


class BenchmarkScores(Frozen):
    """One model's scores, in the order of the tasks."""

    model: str
    revision: str = Field(description="of the model: a hash of its weights, tokenizer, pooling and prompts")
    library: str = Field(description="version of mteb")
    prompts: dict[str, str]
    tasks: tuple[BenchmarkScore, ...]
    left_out: tuple[str, ...] = Field((), description="tasks that are no part of the means")

    @property
    def mean(self) -> float | None:
        """Over tasks; None where none counts."""
        found = [score for _, score in self._counted()]
        return float(np.mean(found)) if found else None

    @property
    def mean_of_types(self) -> float | None:
        """Over task types, each the mean of its tasks; None where none counts."""
        by_type: dict[str, list[float]] = {}
        for kind, score in self._counted():
            by_type.setdefault(kind, []).append(score)
        return float(np.mean([np.mean(found) for found in by_type.values()])) if by_type else None

    def as_record(self) -> dict[str, float]:
        """`task/metric` -> score, as a run's record holds them."""
        return {str(ScoreName(task.task, task.metric)): task.score for task in self.tasks if task.score is not None}

    def _counted(self) -> list[tuple[str, float]]:
        """(type, score) of what the means are over."""
        return [
            (task.type, task.score) for task in self.tasks if task.score is not None and task.task not in self.left_out
        ]
