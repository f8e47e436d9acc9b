"""Attention without masks, and packed: the same hidden states and gradients, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import FalconConfig, FalconModel, MistralConfig, MistralModel

from isoembed.core import InputError
from isoembed.encoder import attention
from isoembed.encoder.attention import unmasked
from isoembed.encoder.encoder import Encoder, base_of, pad
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.methods import Freeze, Full, LoRA, Method
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loss import contrastive_loss
from tests.models import configs, tiny
from tests.training.small import assert_same_gradients, batch_ids, gradients, small_encoder


def implementation(encoder: Encoder) -> str:
    config: Any = base_of(encoder.model).config
    name: str = config._attn_implementation
    return name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("architecture", [name for name in configs() if name != "bloom"])
def test_the_same_embeddings(architecture: str, packed: bool) -> None:
    """Positions that do not start anew, or a text that sees the one before it, would show."""
    encoder = Encoder(Full().apply(tiny(architecture)), "mean").eval()
    ids_BT, mask_BT = pad([row % 50 for row in batch_ids(5)[1]], 0)
    wanted_BD = encoder(ids_BT, mask_BT).detach()
    with unmasked([encoder], context_tokens=24, bf16=False, packed=packed):
        assert (implementation(encoder), encoder.packed) == (attention.NAME, packed)
        torch.testing.assert_close(encoder(ids_BT, mask_BT).detach(), wanted_BD, rtol=0, atol=1e-6)
    assert (implementation(encoder), encoder.packed) == ("sdpa", False)


@pytest.mark.parametrize("method", [Full(), Freeze(fraction=0.5), LoRA(rank=4, alpha=8.0)], ids=lambda m: m.name)
@pytest.mark.parametrize("kept", [0, 60, 10**9])
@pytest.mark.parametrize("workers", [1, 2])
def test_packed_gradients_are_the_padded_ones(method: Method, kept: int, workers: int) -> None:
    """With graphs kept, mini-batches run twice and frozen blocks not run again, by one worker or two; and no padding is
    counted as run."""
    encoder = small_encoder(method)
    pool = WorkerPool(encoder, workers)
    memory = Memory(40, kept, frozen_blocks=int(method.name == "freeze"))
    found = []
    for packed in (False, True):
        encoder.zero_grad()
        with unmasked(pool.encoders, context_tokens=20, bf16=False, packed=packed):
            assert {replica.packed for replica in pool.encoders} == {packed}
            step = accumulate_gradients(pool, *batch_ids(11), lambda q, p: contrastive_loss(q, p, 0.05), memory)
        found.append((step, gradients(encoder)))
    (padded, wanted), (bare, got) = found
    assert bare.loss == pytest.approx(padded.loss, rel=1e-5)
    assert_same_gradients(wanted, got)
    assert bare.processed_tokens == sum(len(row) for side in batch_ids(11) for row in side) < padded.processed_tokens


def test_packed_texts_need_not_be_sorted() -> None:
    """Attention pads neighbours of like length; a longer one behind a shorter is no neighbour.  Nor need they be padded
    on the right, where positions are learned either."""
    for encoder in (small_encoder().eval(), Encoder(tiny("gpt2"), "mean")):
        ids_BT, mask_BT = pad([np.arange(2, 2 + length) for length in (1, 17, 5, 6, 17, 13, 12, 1, 1, 16)], 0)
        wanted_BD = encoder(ids_BT, mask_BT).detach()
        with unmasked([encoder], context_tokens=20, bf16=False, packed=True):
            torch.testing.assert_close(encoder(ids_BT, mask_BT).detach(), wanted_BD, rtol=0, atol=1e-6)
            left = [torch.stack([row.roll(int(17 - real.sum())) for row, real in zip(side_BT, mask_BT, strict=True)])
                    for side_BT in (ids_BT, mask_BT)]  # fmt: skip
            torch.testing.assert_close(encoder(*left).detach(), wanted_BD, rtol=0, atol=1e-6)


def windowed(window: int) -> Encoder:
    """Mistral, whose tokens attend to the last `window` tokens alone."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = MistralConfig(**shape, num_attention_heads=4, num_key_value_heads=2, sliding_window=window)
    return Encoder(MistralModel(config), "mean")


def test_what_the_mask_alone_knows_is_found_out() -> None:
    """A window shorter than the texts is in transformers' mask only: such a model keeps its own way, in bf16 too, whose
    rounding hides a window that is short by little."""
    for window, own in ((8, "sdpa"), (23, "sdpa"), (64, attention.NAME)):
        for bf16, packed in ((False, False), (True, False), (True, True)):
            encoder = windowed(window)
            with unmasked([encoder], context_tokens=24, bf16=bf16, packed=packed, required=False):
                assert implementation(encoder) == own
    wanting = unmasked([windowed(8)], context_tokens=24, bf16=False, packed=True)
    with pytest.raises(InputError, match="cannot be packed for mistral"):
        wanting.__enter__()


def test_an_architecture_that_needs_its_mask_is_not_packed() -> None:
    """Refused where packing is asked for; where it is only faster, the model keeps its own way."""
    encoder = Encoder(Full().apply(tiny("bloom")), "mean")
    own = implementation(encoder)
    shape: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    falcon = Encoder(FalconModel(FalconConfig(**shape)), "mean")  # which adds its mask to scores, and raises without
    for other in (encoder, windowed(8), falcon):
        with unmasked([other], context_tokens=24, bf16=False, packed=True, required=False):
            assert (implementation(other), other.packed) == (own if other is encoder else "sdpa", False)
    with unmasked([falcon], context_tokens=24, bf16=False):
        assert implementation(falcon) == "sdpa"
    with pytest.raises(InputError, match="cannot be packed for bloom"):
        unmasked([encoder], context_tokens=24, bf16=False, packed=True).__enter__()
    assert not encoder.packed
