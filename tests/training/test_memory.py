"""What a batch keeps: measured bytes, the plan made of them, and peaks that stay within what was stated."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder
from isoembed.methods import Bias, Freeze, Full, LoRA
from isoembed.training.gradients import Memory
from isoembed.training.memory import Footprint, fill, measure_footprint, plan_memory
from tests.models import configs, tiny
from tests.training.small import of_eight, small_encoder


def test_frozen_prefix_keeps_no_graph() -> None:
    """Memory of a half-frozen model is about half of a full one's: nothing is saved below the lowest trained block."""
    full, half = (measure_footprint(small_encoder(method), 16) for method in (Full(), Freeze(fraction=0.5)))
    assert 0.3 < half.graph_bytes / full.graph_bytes < 0.7


@pytest.mark.parametrize("method", [Bias(), LoRA(rank=2, alpha=4.0)], ids=lambda method: method.name)
def test_cheaper_methods_keep_less_than_full(method: Bias | LoRA) -> None:
    full, other = measure_footprint(small_encoder(), 16), measure_footprint(small_encoder(method), 16)
    assert other.frozen_blocks == 0
    assert other.graph_bytes < full.graph_bytes * (1.0 if method.name == "bias" else 1.2)


def test_measured_bytes_are_those_autograd_holds() -> None:
    encoder = small_encoder()
    small, large = (measure_footprint(encoder, 16, tokens=tokens).graph_bytes for tokens in (256, 2048))
    assert small == pytest.approx(large, rel=0.05)
    assert large > 2 * 12 * 16 * 4  # two blocks, at least twelve saved rows of width 16 in fp32


@pytest.mark.parametrize("architecture", configs())
def test_frozen_blocks_are_found(architecture: str) -> None:
    """By what needs a gradient when it runs, not by names; the output of a block is width 32 in fp32."""
    for fraction, frozen in ((0.34, 2), (0.67, 1), (1.0, 0)):
        found = measure_footprint(Encoder(Freeze(fraction=fraction).apply(tiny(architecture)), "mean"), 16)
        assert (found.frozen_blocks, found.prefix_bytes) == (frozen, 128.0 if frozen else 0.0)


@pytest.mark.parametrize("architecture", configs())
def test_a_measured_model_is_let_go(architecture: str) -> None:
    """An operation that saves its output held graph and model for ever: each run of a process lost a model."""
    encoder = Encoder(tiny(architecture), "mean")
    measure_footprint(encoder, 16)
    alive = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert alive() is None


def test_a_plan_by_hand() -> None:
    assert fill(Footprint(1000.0), 11e6, mini_batch_tokens=2000, context_tokens=75) == Memory(2000, 6000)
    assert fill(Footprint(1000.0), 1.1e6, mini_batch_tokens=2000, context_tokens=75) == Memory(500, 0)
    assert fill(Footprint(1000.0), -5.0, mini_batch_tokens=2000, context_tokens=75) == Memory(75, 0)
    assert fill(Footprint(1000.0, 2, 50.0), 11e6, mini_batch_tokens=2000, context_tokens=75) == Memory(
        2000, 6000, 2, 0.05
    )


def test_a_crew_by_hand() -> None:
    """Two mini-batches at work and a second gradient must leave half of the room to graphs."""
    cut: dict[str, Any] = {"mini_batch_tokens": 1000, "context_tokens": 75, "threads": 4, "worker_bytes": 1e6}
    assert fill(Footprint(1000.0), 13.3e6, **cut) == Memory(1000, 7181, workers=2)
    assert fill(Footprint(1000.0), 12.7e6, **cut) == Memory(1000, 9545, workers=1)
    assert fill(Footprint(1000.0), 1e9, **cut).workers == 4
    assert fill(Footprint(1000.0), 13.3e6, **cut | {"threads": 1}) == Memory(1000, 10090)


def test_random_numbers_are_noticed() -> None:
    """A model that draws some keeps to one mini-batch at a time."""
    for dropout, workers in ((0.0, 2), (0.1, 1)):
        encoder = small_encoder(dropout=dropout)
        assert measure_footprint(encoder, 16).draws == (workers == 1)
        plan = plan_memory(encoder, of_eight(), memory_bytes=None, mini_batch_tokens=64, threads=2)
        assert plan.workers == workers


def test_memory_that_holds_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="must hold the process"):
        plan_memory(small_encoder(), of_eight(), memory_bytes=1e6, mini_batch_tokens=64)
