"""Adapters that run as the dense weights they amount to train as peft's do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder, pad
from isoembed.encoder.load import load_model
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.families import NANO
from isoembed.methods import Freeze, Full, LoRA, LoRATop, Method
from isoembed.methods.parts import dense_layers
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loss import contrastive_loss
from isoembed.training.memory import measure_footprint, plan_memory
from isoembed.training.merged import adapters_merged, as_run, merged_bytes, merged_layers
from tests.models import configs, tiny
from tests.training.small import assert_same_gradients, batch_ids, gradients, of_eight, small_encoder


def found(pool: WorkerPool, memory: Memory) -> tuple[float, dict[str, torch.Tensor]]:
    pool.encoders[0].zero_grad()
    step = accumulate_gradients(pool, *batch_ids(11), lambda q, p: contrastive_loss(q, p, 0.05), memory)
    return step.loss, gradients(pool.encoders[0])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kept", [0, 60, 10**9])
@pytest.mark.parametrize(
    "method",
    [LoRA(rank=4, alpha=8.0), LoRATop(rank=4, alpha=8.0, fraction=0.5)],
    ids=lambda method: method.name,
)
def test_the_gradients_are_those_of_peft(method: Method, kept: int, workers: int) -> None:
    """Whatever is kept or run again; each time anew from the weights as they are by then."""
    encoder = small_encoder(method)
    pool = WorkerPool(encoder, workers)
    memory = Memory(40, kept, frozen_blocks=int(method.name == "lora-top"))
    assert merged_layers(encoder)
    for _ in range(2):
        with torch.no_grad():
            for value in encoder.parameters():
                value.mul_(1.1)
        loss, expected = found(pool, memory)
        merged_loss, got = found(pool, replace(memory, merged=True))
        assert merged_loss == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(expected, got)
        assert all(
            value.grad is None for replica in pool.encoders[1:] for value in replica.parameters() if value.requires_grad
        )


@pytest.mark.parametrize("architecture", configs())
def test_of_every_architecture(architecture: str) -> None:
    """Fused or apart, with biases or without, kept as (inputs, outputs) or the other way round."""
    try:
        encoder = Encoder(LoRA(rank=16, alpha=32.0).apply(tiny(architecture)), "mean")
    except InputError:
        pytest.skip("adapters do not fit it")
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    layers = merged_layers(encoder)
    assert len(layers) == sum("lora_A" in name for name, _ in encoder.named_parameters())
    assert architecture != "gpt2" or all(isinstance(layer.base_layer, Conv1D) for layer in layers)
    loss, expected = found(WorkerPool(encoder), Memory(40, 60))
    merged_loss, got = found(WorkerPool(encoder), Memory(40, 60, merged=True))
    assert merged_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(expected, got, rtol=1e-3)


def test_merged_layers_run_no_factor_and_are_peft_s_again_afterwards() -> None:
    encoder = small_encoder(LoRA(rank=4, alpha=8.0))
    ran: list[nn.Module] = []
    for name, module in encoder.named_modules():
        if ".lora_A." in name:
            module.register_forward_hook(lambda module, *_: ran.append(module))
    inputs = pad(batch_ids(3)[0], 0)
    alone = encoder(*inputs)
    layers = len(ran)
    assert layers == len(merged_layers(encoder)) > 0

    def interrupted() -> None:
        with adapters_merged([encoder]) as weights:
            torch.testing.assert_close(encoder(*inputs), alone)
            assert len(weights) == len(ran) == layers
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    encoder(*inputs)
    assert len(ran) == 2 * layers


def spoil(layer: Any) -> None:
    layer.base_layer.weight.requires_grad_()


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (Full(), None),
        (Freeze(fraction=0.5), None),
        (LoRA(rank=4, alpha=8.0), spoil),
        (LoRA(rank=4, alpha=8.0), lambda layer: layer.lora_dropout.update({"default": nn.Dropout(0.1)})),
        (LoRA(rank=4, alpha=8.0), lambda layer: layer.base_layer.half()),
        (LoRA(rank=4, alpha=8.0), lambda layer: layer.enable_adapters(enabled=False)),
        (LoRA(rank=4, alpha=8.0), lambda layer: layer.add_module("base_layer", nn.Identity())),
    ],
    ids=["full", "freeze", "trained", "dropout", "half", "off", "no dense layer"],
)
def test_what_is_left_to_peft(method: Method, change: Callable[[Any], None] | None) -> None:
    encoder = small_encoder(method)
    for module in encoder.modules():
        if change is not None and hasattr(module, "lora_A"):
            change(module)
    assert merged_layers(encoder) == []
    assert merged_bytes(encoder) == 0


def test_flop_as_run() -> None:
    """Of nano-28k with adapters of rank 8 every layer runs dense, without adapters."""
    model, method = NANO.models[0], LoRA(rank=8, alpha=16.0)
    encoder = Encoder(method.apply(load_model(model.source)), "mean")
    dense = sum(inputs * outputs for inputs, outputs in dense_layers(load_model(model.source)).values())
    cost = as_run(method.cost(model), encoder)
    assert (cost.forward, cost.backward, cost.updated) == (model.params, model.params, dense)
    assert merged_bytes(encoder) == 4 * dense


@pytest.mark.parametrize(
    ("inputs", "outputs", "rank", "merged"),
    [(160, 640, 8, True), (256, 1024, 32, True), (512, 512, 32, False), (512, 2048, 32, False), (512, 512, 40, True)],
)
def test_wide_layers_are_left_apart(inputs: int, outputs: int, rank: int, merged: bool) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(inputs, outputs)), LoraConfig(r=rank, target_modules=["0"]))
    assert len(merged_layers(cast("Encoder", model))) == merged


def test_merged_weights_are_no_graph() -> None:
    """They are made once a batch: planned beside the graphs, which keep less than peft's."""
    encoder = small_encoder(LoRA(rank=4, alpha=8.0))
    apart, merged = (measure_footprint(encoder, 16, merged=merged) for merged in (False, True))
    full = measure_footprint(small_encoder(Full()), 16)
    assert 0.9 * full.graph_bytes < merged.graph_bytes <= full.graph_bytes < apart.graph_bytes
    plan = plan_memory(encoder, of_eight(), memory_bytes=None, mini_batch_tokens=64, threads=2, merged=True)
    assert plan.merged
