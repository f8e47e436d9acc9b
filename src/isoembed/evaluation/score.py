"""Score several systems on several tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from pydantic import Field, computed_field

from isoembed.core import Frozen
from isoembed.evaluation.notes import ScoreNote, remark
from isoembed.evaluation.systems import System
from isoembed.evaluation.tasks import Task
from isoembed.notes import Noted


class TaskScore(Noted):
    """One system on one task.  A metric that is undefined for the system is missing."""

    noted: ClassVar = "facts"
    described: ClassVar = {"notes": "remark"}

    kind: str
    metrics: dict[str, float]
    counts: dict[str, int]
    seconds: float = Field(description="wall time of embedding or indexing, and ranking")
    facts: tuple[ScoreNote, ...] = Field((), description="what a reader of the score should know")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the score should know, in words."""
        return self._sentences("remark")


class Scores(Frozen):
    """System -> task -> score, in the order given."""

    systems: dict[str, dict[str, TaskScore]]

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """System -> task -> metric -> value."""
        return {
            system: {task: score.metrics for task, score in tasks.items()} for system, tasks in self.systems.items()
        }

    def kinds(self) -> dict[str, str]:
        """Task -> its kind."""
        return {task: score.kind for tasks in self.systems.values() for task, score in tasks.items()}


def evaluate(
    systems: Mapping[str, System],
    tasks: Sequence[Task],
    *,
    progress: Callable[[str, str], None] | None = None,
) -> Scores:
    """Every system on every task, through the same code; `progress` is told of each (system, task) before it runs."""
    scores: dict[str, dict[str, TaskScore]] = {name: {} for name in systems}
    for task in tasks:
        for name, system in systems.items():
            if progress is not None:
                progress(name, task.name)
            started = time.perf_counter()
            metrics = task.score(system)
            seconds = time.perf_counter() - started
            facts = task.facts
            if task.kind == "retrieval" and not metrics:
                facts += (remark("nothing-found", system=name),)
            scores[name][task.name] = TaskScore(
                kind=task.kind, metrics=metrics, counts=task.counts, seconds=seconds, facts=facts
            )
    return Scores(systems=scores)
