"""Where a sweep stands, counted from its folder."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from isoembed.core import Frozen
from isoembed.records import FailedRun, RunRecord
from isoembed.sweep import repetition, variations
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.plan import Plan
from isoembed.sweep.repetition import Repeated
from isoembed.sweep.stage import Stage
from isoembed.sweep.variations import Varied

State = Literal["done", "running", "failed", "left"]


class StageStatus(Frozen):
    """One stage's runs."""

    stage: str
    part: Stage
    done: int
    running: int
    failed: int
    left: int
    flop_done: float
    flop_planned: float


class SweepStatus(Frozen):
    """All stages planned so far, and what is left of them."""

    stages: tuple[StageStatus, ...]
    seconds_spent: float = Field(description="of workers, on the runs that ended well: their steps and what is beside")
    seconds_left: float | None = Field(description="at the speed of the runs that ended; None before the first")
    failures: dict[str, str] = Field(description="key -> why the run was given up")
    damaged: dict[str, str] = Field(description="file -> why it was passed over")
    silent: dict[str, float] = Field(
        {}, description="key of a running run -> seconds without a sign of life from a worker elsewhere"
    )
    variations: tuple[Varied, ...] = Field((), description="pooling and options beside the sweep's own")
    repetition: tuple[Repeated, ...] = Field((), description="repeated pairs beside data that do not repeat")

    @property
    def flop_done(self) -> float:
        return sum(stage.flop_done for stage in self.stages)

    @property
    def flop_planned(self) -> float:
        return sum(stage.flop_planned for stage in self.stages)

    def count(self, what: str) -> int:
        """Runs over all stages that are `done`, `running`, `failed` or `left`."""
        return sum(int(getattr(stage, what)) for stage in self.stages)


class RunState(Frozen):
    """Where one planned run stands."""

    key: str
    stage: str
    part: Stage
    model: str
    method: str
    flop: float
    seed: int
    state: State
    loss: float | None = Field(description="held-out loss in nats; None before it is known")


class StatusReader:
    """Reads a sweep's status again and again, the record of a run that ended well once: it never changes."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.outcomes: dict[str, RunRecord | FailedRun] = {}

    def runs(self) -> tuple[RunState, ...]:
        """Every planned run, in the plan's order."""
        self._look()
        return tuple(
            RunState(
                key=run.key,
                stage=run.stage,
                part=run.part,
                model=run.recipe.model.name,
                method=run.recipe.method.label,
                flop=run.recipe.flop,
                seed=run.recipe.seed,
                state=self._state(run),
                loss=outcome.heldout.loss if isinstance(outcome, RunRecord) and outcome.heldout else None,
            )
            for run in self.folder.runs()
            for outcome in (self.outcomes.get(run.key),)
        )

    def _look(self) -> None:
        """Read the outcomes that are new, and again those that may have changed."""
        ledger = self.folder.ledger
        self.outcomes = {key: outcome for key, outcome in self.outcomes.items() if isinstance(outcome, RunRecord)}
        for key in ledger.keys() - self.outcomes.keys():
            if (outcome := ledger.outcome(key)) is not None:
                self.outcomes[key] = outcome

    def read(self) -> SweepStatus:
        """The status now."""
        self._look()
        folder, ledger, runs = self.folder, self.folder.ledger, self.folder.runs()
        states = {run.key: self._state(run) for run in runs}
        silences = folder.silences([key for key, state in states.items() if state == "running"])
        stages = []
        for part in dict.fromkeys(run.part for run in runs):
            own = [run for run in runs if run.part == part]
            counts = Counter(states[run.key] for run in own)
            stages.append(
                StageStatus(
                    stage=str(part),
                    part=part,
                    done=counts["done"],
                    running=counts["running"],
                    failed=counts["failed"],
                    left=counts["left"],
                    flop_done=sum(run.own_flop for run in own if run.key in self.outcomes),
                    flop_planned=sum(run.own_flop for run in own),
                )
            )
        return SweepStatus(
            stages=tuple(stages),
            seconds_spent=sum(
                run.own_seconds + (run.overhead_seconds or 0.0)
                for run in self.outcomes.values()
                if isinstance(run, RunRecord)
            ),
            seconds_left=self._seconds_left([run for run in runs if run.key not in self.outcomes]),
            failures={key: o.failures[-1] for key, o in self.outcomes.items() if isinstance(o, FailedRun)},
            damaged=ledger.damaged,
            silent={key: seconds for key, seconds in silences.items() if seconds > folder.stale_seconds},
            variations=variations.compare(runs, self.outcomes),
            repetition=repetition.compare(runs, self.outcomes),
        )

    def _state(self, run: PlannedRun) -> State:
        outcome = self.outcomes.get(run.key)
        if outcome is not None:
            return outcome.status
        last = max(self.folder.attempts(run.key), default=0)
        open_attempt = last and self.folder.end_of(run.key, last) is None
        return "running" if open_attempt and self.folder.is_alive(run.key, last) else "left"

    def _seconds_left(self, runs: list[PlannedRun]) -> float | None:
        """Seconds of one worker for these runs: each at its model's mean speed so far, or else at that of all, with
        what a run took beside its steps."""
        done = [outcome for outcome in self.outcomes.values() if isinstance(outcome, RunRecord)]
        if not done:
            return None
        by_model = {
            name: _pace([run for run in done if run.recipe.model.name == name])
            for name in {run.recipe.model.name for run in done}
        }
        every = _pace(done)
        paces = [by_model.get(run.recipe.model.name, every) for run in runs]
        return sum(beside + run.own_flop * pace for run, (pace, beside) in zip(runs, paces, strict=True))


def _pace(runs: list[RunRecord]) -> tuple[float, float]:
    """Seconds a FLOP, and mean seconds beside the steps, of these runs."""
    beside = [run.overhead_seconds for run in runs if run.overhead_seconds is not None]
    pace = sum(run.wall_seconds for run in runs) / sum(run.model_flop for run in runs)
    return pace, sum(beside) / max(1, len(beside))


def stage_costs(plan: Plan) -> dict[Stage, tuple[int, float]]:
    """Stage -> (runs, FLOP), in the plan's order."""
    return {
        part: (len(own := [run for run in plan.runs if run.part == part]), sum(run.own_flop for run in own))
        for part in dict.fromkeys(run.part for run in plan.runs)
    }
