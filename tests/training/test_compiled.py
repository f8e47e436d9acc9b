"""Compiled blocks: the same gradient, whatever is kept or handed on, and nothing compiled again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from isoembed.core import InputError
from isoembed.encoder.encoder import base_of, enable_checkpointing
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.methods import Freeze, Full, Method
from isoembed.methods.parts import blocks_of
from isoembed.training.compiled import compiled
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.loss import contrastive_loss
from tests.training.small import assert_same_gradients, batch_ids, gradients, recipe, small_data, small_encoder


def found(pool: WorkerPool, memory: Memory, seed: int) -> tuple[float, dict[str, torch.Tensor]]:
    encoder = pool.encoders[0]
    encoder.zero_grad()
    encoder.train()
    step = accumulate_gradients(pool, *batch_ids(23, seed=seed), lambda q, p: contrastive_loss(q, p, 0.05), memory)
    return step.loss, gradients(encoder)


@pytest.mark.parametrize("method", [Full(), Freeze(fraction=0.5)], ids=lambda m: m.name)
def test_the_gradient_is_the_plain_one_and_no_length_compiles_again(method: Method) -> None:
    torch._dynamo.reset()
    pool = WorkerPool(small_encoder(method))
    memory = Memory(40, 60, frozen_blocks=int(method.name == "freeze"))
    expected = [found(pool, memory, seed) for seed in range(3)]
    with compiled(pool.encoders[0], backend="eager"):
        for seed, (loss, gradient) in enumerate(expected):
            before = counters["stats"]["unique_graphs"]
            got_loss, got = found(pool, memory, seed)
            assert got_loss == pytest.approx(loss, rel=1e-5)
            assert_same_gradients(gradient, got)
            assert (counters["stats"]["unique_graphs"] == before) == (seed > 0)
    assert all("forward" not in vars(block) for block in blocks_of(base_of(pool.encoders[0].model)))


def test_under_gradient_checkpointing_too() -> None:
    torch._dynamo.reset()
    encoder = small_encoder()
    enable_checkpointing(encoder.model)
    pool = WorkerPool(encoder)
    loss, gradient = found(pool, Memory(40, 60), 0)
    with compiled(encoder, backend="eager"):
        got_loss, got = found(pool, Memory(40, 60), 0)
    assert got_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradient, got)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here")
def test_a_run_with_torchs_own_compiler_ends_at_the_same_loss(tmp_path: Path) -> None:
    data = small_data(tmp_path)
    _, plain = run(recipe(data), data, tmp_path / "plain", execution=Execution(device="cpu"))
    _, fused = run(recipe(data), data, tmp_path / "fused", execution=Execution(device="cpu", compile=True))
    assert [point.loss for point in fused.loss_curve] == pytest.approx(
        [point.loss for point in plain.loss_curve], abs=1e-4
    )
    assert fused.heldout is not None
    assert plain.heldout is not None
    assert fused.heldout.loss == pytest.approx(plain.heldout.loss, abs=1e-4)


def test_without_a_compiler_it_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler"):
        run(recipe(data), data, tmp_path / "out", execution=Execution(device="cpu", compile=True))
    assert not (tmp_path / "out").exists()
