"""Cached gradients equal plain ones, whatever is kept, recomputed, dropped out or ragged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from isoembed.encoder.encoder import Encoder, base_of, pad
from isoembed.encoder.worker_pool import WorkerPool, forget_gradients
from isoembed.methods import Bias, Freeze, Full, LoRA, Method
from isoembed.methods.parts import blocks_of
from isoembed.options import Prompts
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loss import contrastive_loss
from tests.models import configs, tiny
from tests.training.small import assert_same_gradients, batch_ids, gradients, negative_ids, small_encoder

KEEP_ALL, KEEP_NONE = 10**9, 0


def cached(encoder: Encoder, pairs: int, memory: Memory, tau: float = 0.05) -> tuple[float, dict[str, torch.Tensor]]:
    encoder.zero_grad()
    encoder.train()
    step = accumulate_gradients(
        WorkerPool(encoder), *batch_ids(pairs), lambda q, p: contrastive_loss(q, p, tau), memory
    )
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
    """Trap 6: 11 pairs in mini-batches of 20 tokens leave a ragged last mini-batch."""
    encoder = small_encoder(method)
    loss, expected = plain(encoder, 11)
    cached_loss, found = cached(encoder, 11, Memory(20, kept))
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(expected, found)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gradient_of_rows_is_emptied_in_place_and_one_of_more_is_dropped(workers: int) -> None:
    """Fails where a row of the batch before stays in the sum, or what else was added to the table does."""
    encoder = small_encoder()
    table = base_of(encoder.model).get_parameter("embed_in.weight")
    pool, loss_of = WorkerPool(encoder, workers), partial(contrastive_loss, temperature=0.05)
    accumulate_gradients(pool, *batch_ids(4), loss_of, Memory(20, KEEP_ALL))
    first, place = gradients(encoder), table.grad
    forget_gradients(encoder.parameters())
    assert place is not None
    assert table.grad is place
    assert not place.any()
    accumulate_gradients(pool, *batch_ids(11), loss_of, Memory(20, KEEP_ALL))
    forget_gradients(encoder.parameters())
    accumulate_gradients(pool, *batch_ids(4), loss_of, Memory(20, KEEP_ALL))
    for name, value in gradients(encoder).items():
        assert torch.equal(value, first[name]), name
    table.sum().backward()
    forget_gradients(encoder.parameters())
    assert table.grad is None


def test_both_passes_see_the_same_numbers_in_bf16() -> None:
    """Fails where the second pass of a mini-batch rounds otherwise than the first, or sums of gradients are bf16."""
    encoder = small_encoder()
    _, wanted = plain(encoder, 11)
    found = []
    for kept in (KEEP_NONE, KEEP_ALL):
        encoder.zero_grad()
        loss_of = partial(contrastive_loss, temperature=0.05)
        accumulate_gradients(WorkerPool(encoder), *batch_ids(11), loss_of, Memory(20, kept), bf16=True)
        found.append(gradients(encoder))
    for name, value in found[0].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, found[1][name]), name
        assert (value - wanted[name]).norm() < 0.05 * wanted[name].norm(), name


@pytest.mark.parametrize("method", [Full(), Freeze(fraction=0.5), LoRA(rank=4, alpha=8.0)], ids=lambda m: m.name)
@pytest.mark.parametrize("memory", [Memory(40, KEEP_NONE), Memory(40, 60), Memory(40, KEEP_ALL)], ids=str)
def test_a_crew_finds_the_same_gradient_every_time(method: Method, memory: Memory) -> None:
    """Replicas share the weights, so a change of them reaches all; what workers find is added in one order."""
    encoder = small_encoder(method)
    memory = replace(memory, frozen_blocks=int(method.name == "freeze"))
    pool = WorkerPool(encoder, 3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.1)
    loss, expected = plain(encoder, 23)
    found = []
    for _ in range(3):
        encoder.zero_grad()
        step = accumulate_gradients(pool, *batch_ids(23), lambda q, p: contrastive_loss(q, p, 0.05), memory)
        assert step.loss == pytest.approx(loss, rel=1e-5)
        found.append(gradients(encoder))
        assert_same_gradients(expected, found[-1])
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])
    assert all(
        value.grad is None for replica in pool.encoders[1:] for value in replica.parameters() if value.requires_grad
    )


def test_what_a_failed_attempt_left_with_replicas_is_dropped() -> None:
    """Fails where a step that is tried again in smaller pieces adds the gradients of the first attempt; and where rows
    that a replica keeps are lost beside those that it has added to a table of its own."""
    encoder = small_encoder()
    pool = WorkerPool(encoder, 2)
    _, expected = plain(encoder, 11)
    encoder.zero_grad()

    def fails(*_: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    for replica in pool.encoders[1:]:
        for parameter in replica.parameters():
            parameter.grad = torch.ones_like(parameter)
    with pytest.raises(MemoryError):
        accumulate_gradients(pool, *batch_ids(11), fails, Memory(12, KEEP_ALL))
    accumulate_gradients(pool, *batch_ids(11), lambda q, p: contrastive_loss(q, p, 0.05), Memory(12, KEEP_ALL))
    assert_same_gradients(expected, gradients(encoder))


@pytest.mark.parametrize("architecture", configs())
def test_every_architecture_has_twins(architecture: str) -> None:
    encoder = Encoder(Full().apply(tiny(architecture)), "mean")
    encoder.eval()  # without dropout, which a pool may not have
    found = []
    for workers in (1, 2):
        encoder.zero_grad()
        memory = Memory(20, 40)
        accumulate_gradients(
            WorkerPool(encoder, workers), *batch_ids(6), lambda q, p: contrastive_loss(q, p, 0.05), memory
        )
        found.append(gradients(encoder))
    largest = max(float(value.abs().max()) for value in found[0].values())
    named = [name for name, value in found[0].items() if value.abs().max() > 1e-6 * largest]  # a key's bias has none
    alone, shared = ({name: side[name] for name in named} for side in found)
    assert_same_gradients(alone, shared)


@pytest.mark.parametrize("kept", [KEEP_NONE, 40, KEEP_ALL])
def test_equals_plain_gradient_with_hard_negatives(kept: int) -> None:
    """A number that is no multiple of the pairs'."""
    encoder, negatives = small_encoder(), negative_ids(7)

    def loss_of(*sides: torch.Tensor) -> torch.Tensor:
        query, positive, negative = sides
        return contrastive_loss(query, positive, 0.05, negative_MD=negative)

    sides = (*batch_ids(11), negatives)
    encoder.zero_grad()
    loss = loss_of(*(encoder(*pad(side, 0)) for side in sides))
    loss.backward()
    expected = gradients(encoder)
    encoder.zero_grad()
    step = accumulate_gradients(WorkerPool(encoder), *batch_ids(11), loss_of, Memory(20, kept), negative_ids=negatives)
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(expected, gradients(encoder))
    assert cached(encoder, 11, Memory(20, kept))[0] != pytest.approx(step.loss, rel=1e-3)  # they count


def test_equals_plain_gradient_behind_prompts_that_are_not_pooled() -> None:
    """Two tokens of every query and three of every other text are the prompt's, none of one hard negative."""
    encoder, negatives = small_encoder(), negative_ids(4)
    encoder.prompts = Prompts(query="x", positive="y", pooled=False)
    sides = (*batch_ids(7), negatives)

    def loss_of(*embeddings: torch.Tensor) -> torch.Tensor:
        query, positive, negative = embeddings
        return contrastive_loss(query, positive, 0.05, negative_MD=negative)

    def plainly(*counts: int) -> torch.Tensor:
        prompts = [torch.full((len(side),), count) for side, count in zip(sides, counts, strict=True)]
        prompts[2][1] = 0
        return loss_of(*(encoder(*pad(side, 0), before) for side, before in zip(sides, prompts, strict=True)))

    loss = plainly(2, 3, 3)
    assert loss.item() != pytest.approx(plainly(0, 0, 0).item(), rel=1e-3)
    loss.backward()
    expected = gradients(encoder)
    encoder.zero_grad()
    prompts = np.array([2] * 7 + [3] * 7 + [3, 0, 3, 3])
    step = accumulate_gradients(
        WorkerPool(encoder), *sides[:2], loss_of, Memory(20, 40), negative_ids=negatives, prompt_tokens=prompts
    )
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(expected, gradients(encoder))


def test_temperature_reaches_the_cached_path() -> None:
    """Trap 8."""
    encoder = small_encoder()
    cold, warm = (cached(encoder, 6, Memory(20, KEEP_NONE), tau)[0] for tau in (0.02, 0.5))
    assert cold != pytest.approx(warm, rel=1e-3)
    assert warm == pytest.approx(plain(encoder, 6, 0.5)[0], rel=1e-5)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=4, alpha=8.0), Freeze(fraction=0.5)], ids=lambda m: m.name)
def test_recomputation_repeats_dropout(method: Method) -> None:
    """Trap 7: with other random numbers in the second forward, the gradient would belong to another function."""
    encoder = small_encoder(method, dropout=0.5)
    torch.manual_seed(3)
    kept_loss, kept = cached(encoder, 9, Memory(20, KEEP_ALL))
    torch.manual_seed(3)
    loss, recomputed = cached(encoder, 9, Memory(20, KEEP_NONE, frozen_blocks=int(method.name == "freeze")))
    assert loss == pytest.approx(kept_loss, rel=1e-5)
    assert_same_gradients(kept, recomputed)
    torch.manual_seed(4)
    assert cached(encoder, 9, Memory(20, KEEP_NONE))[0] != pytest.approx(loss, rel=1e-3)


def test_random_state_moves_on_after_recomputation() -> None:
    """Kept or recomputed, the next step draws the same random numbers."""
    encoder = small_encoder(dropout=0.5)
    half = small_encoder(Freeze(fraction=0.5), dropout=0.5)
    after = []
    for model, memory in (
        (encoder, Memory(20, KEEP_ALL)),
        (encoder, Memory(20, KEEP_NONE)),
        (half, Memory(20, KEEP_NONE, frozen_blocks=1)),
    ):
        torch.manual_seed(3)
        cached(model, 5, memory)
        after.append(torch.rand(3))
    torch.testing.assert_close(after[1], after[0], rtol=0, atol=0)
    torch.testing.assert_close(after[2], after[0], rtol=0, atol=0)


def test_counts_processed_and_recomputed_tokens() -> None:
    encoder = small_encoder(Freeze(fraction=0.5))
    queries, positives = batch_ids(8)
    real = sum(map(len, [*queries, *positives]))

    def step(memory: Memory) -> tuple[int, int, int]:
        found = accumulate_gradients(
            WorkerPool(encoder), queries, positives, lambda q, p: contrastive_loss(q, p, 0.05), memory
        )
        return found.processed_tokens, found.recomputed_tokens, found.resumed_tokens

    assert step(Memory(1, KEEP_ALL)) == (real, 0, 0)  # one text a mini-batch: no padding
    processed, recomputed, resumed = step(Memory(40, KEEP_NONE))
    assert processed == recomputed >= real
    assert resumed == 0
    assert 0 < step(Memory(40, 60))[1] < processed
    assert step(Memory(40, KEEP_NONE, frozen_blocks=1)) == (processed, 0, processed)
    assert step(Memory(40, KEEP_NONE, frozen_blocks=1, prefix_share=0.1)) == (processed, processed, 0)


def test_what_is_kept_first() -> None:
    """Four mini-batches of 10 tokens: first what frozen blocks gave, of all where it fits; then graphs, from the last
    on."""
    padded = [10, 10, 10, 10]

    def tiers(kept_tokens: int, share: float | None = None) -> tuple[int, int]:
        memory = Memory(10, kept_tokens) if share is None else Memory(10, kept_tokens, 1, share)
        return memory.tiers(padded)

    assert [tiers(room) for room in (0, 9, 10, 39, 40)] == [(4, 4), (4, 4), (3, 3), (1, 1), (0, 0)]
    # a stored prefix takes a quarter of a graph's memory: 2.5 a mini-batch, a graph in its place 7.5 more
    assert [tiers(room, 0.25) for room in (0, 3, 10, 17, 18, 40)] == [(4, 4), (3, 4), (0, 4), (0, 4), (0, 3), (0, 0)]


@given(st.lists(st.integers(1, 1024), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_without_room_nothing_is_stored(padded: list[int], share: float) -> None:
    """By a rounding error the last mini-batch left the room below zero, and a next one was looked for."""
    first_stored, first_kept = Memory(1024, 0, frozen_blocks=1, prefix_share=share).tiers(padded)
    assert first_kept == len(padded)
    assert first_stored >= len(padded) - 1


@pytest.mark.parametrize("architecture", configs())
def test_a_frozen_prefix_runs_once(architecture: str) -> None:
    """Of three blocks two are frozen: they run once a mini-batch, with the gradient of the plain way."""
    encoder = Encoder(Freeze(fraction=0.34).apply(tiny(architecture)), "mean")
    blocks, runs = blocks_of(encoder.model), [0, 0, 0]

    def count(number: int) -> Callable[..., None]:
        def add(*_: object) -> None:
            runs[number] += 1

        return add

    for number, block in enumerate(blocks):  # a layer inside: hooks of a block that is passed over are called too
        inside = next(part for part in block.modules() if isinstance(part, (nn.Linear, Conv1D)))
        inside.register_forward_pre_hook(count(number))
    _, expected = cached(encoder, 6, Memory(20, KEEP_ALL))
    mini_batches = runs[0]
    assert runs == [mini_batches] * 3
    _, found = cached(encoder, 6, Memory(20, KEEP_NONE, frozen_blocks=2))
    assert_same_gradients(expected, found)
    assert runs == [2 * mini_batches, 2 * mini_batches, 3 * mini_batches]
    assert not any("forward" in vars(block) for block in blocks)


@pytest.mark.parametrize("architecture", configs())
def test_full_gradient_of_every_architecture(architecture: str) -> None:
    """The token table's too, whose rows are added one by one: tied scales, padding rows, learned positions."""
    encoder = Encoder(Full().apply(tiny(architecture)), "mean")
    _, expected = plain(encoder, 6)
    for kept in (KEEP_ALL, KEEP_NONE):
        _, found = cached(encoder, 6, Memory(20, kept))
        assert found.keys() == expected.keys()
        largest = max(float(value.abs().max()) for value in expected.values())
        for name, value in expected.items():  # that of a key's bias is zero but for rounding
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_no_gradient_is_as_large_as_the_table() -> None:
    """torch's own way makes one of that size for every mini-batch."""
    encoder = small_encoder()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        cached(encoder, 6, Memory(20, KEEP_ALL))
    names = {event.key for event in seen.key_averages()}
    assert "aten::index_add_" in names
    assert "aten::embedding_dense_backward" not in names
    assert not any("forward" in vars(module) for module in encoder.modules())


def test_a_frozen_prefix_that_trains_is_refused() -> None:
    with pytest.raises(AssertionError):
        cached(small_encoder(), 6, Memory(20, KEEP_NONE, frozen_blocks=1))
