"""The EMA of a run's weights: what it is, that it is what is scored and exported, exact resume, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData
from isoembed.estimates import recipe_memory
from isoembed.methods import Full, LoRA
from isoembed.options import Options
from isoembed.recipe import EarlyStopping, Recipe
from isoembed.training import memory
from isoembed.training.checkpoint import checkpoints, trainable_of
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.loop import run
from isoembed.training.memory import plan_memory
from isoembed.training.setup import untrained
from tests.training.small import StopAfter, recipe, small_data, small_encoder

DECAY = 0.4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


def averaged(plain: Recipe, **changes: object) -> Recipe:
    return plain.model_copy(update={"options": Options(ema_decay=DECAY), **changes})


def test_it_is_the_average_of_the_steps_and_what_is_scored(data: PairData, tmp_path: Path) -> None:
    """By hand from the weights of every step; the steps themselves, their FLOP and a plain recipe's key stay."""
    plain = recipe(data, steps=5)
    planned, every = averaged(plain), Execution(checkpoint_seconds=0, keep_checkpoints=99)
    encoder, record = run(planned, data, tmp_path / "averaged", execution=every)
    _, last = run(plain, data, tmp_path / "plain")
    assert [point.loss for point in record.loss_curve] == [point.loss for point in last.loss_curve]
    assert record.model_flop == last.model_flop
    expected = {name: value.detach().double() for name, value in trainable_of(untrained(plain)).items()}
    for step, folder in enumerate(checkpoints(tmp_path / "averaged"), 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, value in load_file(folder / "model.safetensors").items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    found = trainable_of(encoder)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].detach().numpy(), value.numpy(), atol=1e-6, err_msg=name)
    scored = heldout_loss(encoder, data, temperature=plain.temperature)
    assert scored is not None
    assert record.heldout is not None
    assert last.heldout is not None
    assert record.heldout.loss == pytest.approx(scored.loss, abs=1e-6)
    assert record.heldout.loss != pytest.approx(last.heldout.loss, abs=1e-4)
    assert planned.key != plain.key == plain.model_copy(update={"options": Options(ema_decay=None)}).key


def test_resumed_is_bitwise_uninterrupted_and_the_best_average_is_kept(data: PairData, tmp_path: Path) -> None:
    planned = averaged(
        recipe(data, LoRA(rank=4, alpha=8.0), steps=5), early_stopping=EarlyStopping(keep="best", eval_steps=2)
    )
    whole_encoder, whole = run(planned, data, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(planned, data, tmp_path / "part", callbacks=[StopAfter(3)])
    encoder, record = run(planned, data, tmp_path / "part", execution=Execution(resume=True))
    assert [(point.step, point.loss) for point in record.evaluations] == [
        (point.step, point.loss) for point in whole.evaluations
    ]
    assert record.heldout == whole.heldout
    assert all(torch.equal(value, trainable_of(encoder)[name]) for name, value in trainable_of(whole_encoder).items())
    (checkpoints(tmp_path / "part")[-1] / "average.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="is damaged"):
        run(planned, data, tmp_path / "part", execution=Execution(resume=True))


def test_its_memory_is_counted(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more all that is trained, in the plan and in the estimate."""
    plain, encoder = recipe(data), small_encoder(Full())
    more = recipe_memory(averaged(plain)).least - recipe_memory(plain).least
    assert more == 4 * plain.cost.trained
    monkeypatch.setattr(memory, "_there_and_free", lambda device: (0.0, 1e9))
    kept = [
        plan_memory(encoder, each, memory_bytes=1e8, mini_batch_tokens=64).kept_tokens
        for each in (plain, averaged(plain))
    ]
    assert kept[0] > kept[1]


@pytest.mark.parametrize("decay", [0, 1, 1.5, float("nan")])
def test_no_decay_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match="`ema_decay` must lie between 0 and 1"):
        Options(ema_decay=decay)
