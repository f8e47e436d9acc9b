"""Cached gradients equal plain ones, whatever is kept, recomputed, dropped out or ragged."""

from __future__ import annotations

import pytest
import torch

from isoembed.encoder.encoder import Encoder, pad
from isoembed.methods import Bias, Freeze, Full, LoRA, Method
from isoembed.training.gradients import Memory, accumulate_gradients, measure_bytes_per_token, plan_memory
from isoembed.training.loss import contrastive_loss
from tests.training.small import assert_same_gradients, batch_ids, gradients, small_encoder

KEEP_ALL, KEEP_NONE = 10**9, 0


def cached(encoder: Encoder, pairs: int, memory: Memory, tau: float = 0.05) -> tuple[float, dict[str, torch.Tensor]]:
    encoder.zero_grad()
    encoder.train()
    step = accumulate_gradients(encoder, *batch_ids(pairs), lambda q, p: contrastive_loss(q, p, tau), memory)
    return step.loss, gradients(encoder)


def plain(encoder: Encoder, pairs: int, tau: float = 0.05) -> tuple[float, dict[str, torch.Tensor]]:
    """One forward of each side, padded, and one backward: what everybody would write."""
    encoder.zero_grad()
    encoder.train()
    queries, positives = batch_ids(pairs)
    loss = contrastive_loss(encoder(*pad(queries, 0)), encoder(*pad(positives, 0)), tau)
    loss.backward()
    return loss.item(), gradients(encoder)


@pytest.mark.parametrize(
    "method", [Full(), Freeze(fraction=0.5), Bias(), LoRA(rank=4, alpha=8.0)], ids=lambda m: m.name
)
@pytest.mark.parametrize("kept", [KEEP_NONE, 40, KEEP_ALL])
def test_equals_plain_gradient(method: Method, kept: int) -> None:
    """Trap 6: 11 pairs in chunks of 20 tokens leave a ragged last chunk."""
    encoder = small_encoder(method)
    loss, expected = plain(encoder, 11)
    cached_loss, found = cached(encoder, 11, Memory(20, kept))
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(expected, found)


def test_temperature_reaches_the_cached_path() -> None:
    """Trap 8."""
    encoder = small_encoder()
    cold, warm = (cached(encoder, 6, Memory(20, KEEP_NONE), tau)[0] for tau in (0.02, 0.5))
    assert cold != pytest.approx(warm, rel=1e-3)
    assert warm == pytest.approx(plain(encoder, 6, 0.5)[0], rel=1e-5)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=4, alpha=8.0)], ids=lambda m: m.name)
def test_recomputation_repeats_dropout(method: Method) -> None:
    """Trap 7: with other random numbers in the second forward, the gradient would belong to another function."""
    encoder = small_encoder(method, dropout=0.5)
    torch.manual_seed(3)
    kept_loss, kept = cached(encoder, 9, Memory(20, KEEP_ALL))
    torch.manual_seed(3)
    loss, recomputed = cached(encoder, 9, Memory(20, KEEP_NONE))
    assert loss == pytest.approx(kept_loss, rel=1e-5)
    assert_same_gradients(kept, recomputed)
    torch.manual_seed(4)
    assert cached(encoder, 9, Memory(20, KEEP_NONE))[0] != pytest.approx(loss, rel=1e-3)


def test_random_state_moves_on_after_recomputation() -> None:
    """Kept or recomputed, the next step draws the same random numbers."""
    encoder = small_encoder(dropout=0.5)
    after = []
    for kept in (KEEP_ALL, KEEP_NONE):
        torch.manual_seed(3)
        cached(encoder, 5, Memory(20, kept))
        after.append(torch.rand(3))
    torch.testing.assert_close(*after, rtol=0, atol=0)


def test_counts_processed_and_recomputed_tokens() -> None:
    encoder = small_encoder()
    queries, positives = batch_ids(8)
    real = sum(map(len, [*queries, *positives]))

    def step(memory: Memory) -> tuple[int, int]:
        found = accumulate_gradients(encoder, queries, positives, lambda q, p: contrastive_loss(q, p, 0.05), memory)
        return found.processed_tokens, found.recomputed_tokens

    processed, recomputed = step(Memory(1, KEEP_ALL))
    assert (processed, recomputed) == (real, 0)  # one text a chunk: no padding
    processed, recomputed = step(Memory(40, KEEP_NONE))
    assert processed == recomputed >= real
    assert 0 < step(Memory(40, 60))[1] < processed


def test_frozen_prefix_keeps_no_graph() -> None:
    """Memory of a half-frozen model is about half of a full one's: nothing is saved below the lowest trained block."""
    full, half = (measure_bytes_per_token(small_encoder(method), 16) for method in (Full(), Freeze(fraction=0.5)))
    assert 0.3 < half / full < 0.7


def test_measured_bytes_are_those_autograd_holds() -> None:
    """A hand-counted module: y = x W keeps x (4 x 16 bytes a token) for the gradient of W, and the pooled output."""
    encoder = small_encoder()
    small, large = (measure_bytes_per_token(encoder, 16, tokens=tokens) for tokens in (256, 2048))
    assert small == pytest.approx(large, rel=0.05)
    assert large > 2 * 12 * 16 * 4  # two blocks, at least twelve saved rows of width 16 in fp32


def test_memory_plan() -> None:
    assert plan_memory(1000.0, 10e6, chunk_tokens=2000) == Memory(2000, 6000)
    assert plan_memory(1000.0, 1e6, chunk_tokens=2000) == Memory(500, 0)
