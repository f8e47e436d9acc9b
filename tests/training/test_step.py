"""A step: what it counts, what it tells, and that it costs no more the longer the run is."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from isoembed.data.batches import Position, batches
from isoembed.data.dataset import PairData
from isoembed.records import LossPoint
from isoembed.training.callbacks import LossCurve
from isoembed.training.checkpoint import Counters, LoopState
from isoembed.training.execution import Execution
from isoembed.training.setup import set_up
from isoembed.training.step import DivergedError, Trainer
from tests.training.small import recipe, small_data

POINT = LossPoint(step=1, tokens=1, loss=1.0, rate=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def trainer(data: PairData) -> Trainer:
    return set_up(recipe(data), Execution(device="cpu"))


def test_a_step_moves_the_weights_counts_and_is_told(trainer: Trainer, data: PairData) -> None:
    before = [value.detach().clone() for value in trainer.trainable]
    curve, done = LossCurve([]), Counters()
    for after, batch in islice(batches(data, batch_pairs=16, seed=0), 2):
        done = trainer.step(done, batch, after, [curve])
    assert (done.step, done.epoch, done.batch, done.pairs) == (2, 0, 2, 32)
    assert done.executed_flop >= done.tokens * trainer.recipe.cost.flop_per_token > 0
    assert [(point.step, point.tokens) for point in curve.points][-1] == (2, done.tokens)
    assert 0 < curve.points[1].rate <= trainer.recipe.learning_rate
    assert all(not torch.equal(old, new) for old, new in zip(before, trainer.trainable, strict=True))


def test_a_loss_that_is_not_finite_leaves_the_weights(trainer: Trainer, data: PairData) -> None:
    with torch.no_grad():
        next(iter(trainer.trainable)).fill_(float("nan"))
    before = [value.detach().clone() for value in trainer.trainable[1:]]
    after, batch = next(batches(data, batch_pairs=16, seed=0))
    with pytest.raises(DivergedError, match=r"finite: it was nan .*at step 1.*Lower"):
        trainer.step(Counters(), batch, after)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.trainable[1:], strict=True))


def test_what_a_step_hands_on_does_not_grow(trainer: Trainer, data: PairData) -> None:
    """Fails where it holds what all steps before it left, such as their losses, copied with every step: the time for
    that goes by the square of the steps."""
    _, batch = next(batches(data, batch_pairs=16, seed=0))
    state = LoopState(recipe_key="key", data_fingerprint="data", losses=(POINT,) * 1000)
    done = trainer.step(state, batch, Position(0, 1))
    assert all(isinstance(value, (int, float)) for value in dict(done).values())
