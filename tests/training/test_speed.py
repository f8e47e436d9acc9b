"""Speed is measured on the loop's own steps, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isoembed.data.batches import Batch, Position
from isoembed.recipe import Recipe
from isoembed.training import speed
from isoembed.training.checkpoint import Counters
from isoembed.training.execution import Execution
from isoembed.training.setup import set_up
from isoembed.training.speed import measure_speed
from isoembed.training.step import Trainer
from tests.training.small import recipe, small_data


def test_the_loops_own_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where measuring sets up a model, an optimiser or a cut of its own, which the loop would not use; where the
    first step, slow once, counts; or where the caller draws other random numbers after it."""
    data, planned = small_data(tmp_path), recipe(small_data(tmp_path), steps=3)
    made: list[Trainer] = []
    counted: list[Counters] = []
    take = Trainer.step

    def kept(planned: Recipe, execution: Execution) -> Trainer:
        made.append(set_up(planned, execution))
        return made[-1]

    def noted(trainer: Trainer, done: Counters, batch: Batch, after: Position) -> Counters:
        taken = take(trainer, done, batch, after)
        counted.append(taken.model_copy(update={"seconds": 10.0 + done.step}))
        return counted[-1]

    monkeypatch.setattr(speed, "set_up", kept)
    monkeypatch.setattr(Trainer, "step", noted)
    random = torch.get_rng_state()
    found = measure_speed(planned, data, Execution(device="cpu", mini_batch_tokens=64), steps=2)
    assert torch.equal(random, torch.get_rng_state())
    assert made[0].memory.mini_batch_tokens == 64
    tokens = counted[2].tokens - counted[0].tokens
    assert found.flop_per_second == planned.cost.flop_per_token * tokens / 2.0
    assert min(found.setup_seconds, found.heldout_seconds) > 0
