"""Trackers get what a run tells them; a name nobody knows is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.training.callbacks import RunTracker, StepFacts, tracker_named


def recipe() -> Recipe:
    return solve(
        1e12,
        family="nano",
        model=NANO.models[0],
        method=Full(),
        data=DataStats(),
        setup=Setup(batch_pairs=64, context_tokens=75),
        learning_rate=1e-3,
    )


def facts(step: int) -> StepFacts:
    return StepFacts(
        step=step,
        tokens=100 * step,
        pairs=2 * step,
        loss=1 / step,
        rate=1e-3,
        grad_norm=1.0,
        flop=1e9,
        tokens_per_second=1e3,
        flop_per_second=1e9,
    )


def test_tensorboard_has_the_losses_against_tokens(tmp_path: Path) -> None:
    tracker = tracker_named("tensorboard", tmp_path)
    tracker.start(recipe(), 0, 0)
    for step in (1, 2, 4):
        tracker.step(facts(step))
    tracker.end()
    events: Any = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(100, 1.0), (200, 0.5), (400, 0.25)]


def test_run_trackers_get_recipe_and_steps() -> None:
    """trackio and wandb share `init`, `log` and `finish`."""
    calls: list[tuple[str, Any]] = []
    library = SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda row: calls.append(("log", row["loss"])),
        finish=lambda: calls.append(("finish", None)),
    )
    tracker = RunTracker(library)
    tracker.start(recipe(), 0, 0)
    tracker.step(facts(2))
    tracker.end()
    assert [name for name, _ in calls] == ["init", "log", "finish"]
    assert calls[0][1]["name"] == recipe().key
    assert calls[1][1] == 0.5


def test_unknown_tracker(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tensorboard, trackio or wandb"):
        tracker_named("notebook", tmp_path)
