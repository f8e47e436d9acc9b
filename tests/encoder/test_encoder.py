"""Shape legend: B texts, T tokens of the longest, D embedding width."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from isoembed.encoder.encoder import Encoder, looks_back_only, pad
from tests.models import VOCAB, configs, tiny

LENGTHS = (3, 9, 1, 6)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, VOCAB, length) for length in LENGTHS]


def pad_left(rows: list[np.ndarray], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT, mask_BT = torch.ones(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids_BT[index, width - len(row) :] = torch.from_numpy(row)
        mask_BT[index, width - len(row) :] = 1
    return ids_BT, mask_BT


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("architecture", configs())
def test_left_padding_equals_right_padding_equals_none(architecture: str, pooling: str) -> None:
    encoder = Encoder(tiny(architecture), pooling)
    rows = texts()
    with torch.no_grad():
        alone_BD = torch.cat([encoder(*pad([row], 1)) for row in rows])
        ids_BT, mask_BT = pad(rows, 1)
        extra = torch.zeros(len(rows), 5, dtype=torch.long)
        variants = {
            "right": (ids_BT, mask_BT),
            "right, another pad token": pad(rows, 7),
            "right, more of it": (torch.cat([ids_BT, extra], 1), torch.cat([mask_BT, extra], 1)),
            "left": pad_left(rows, max(LENGTHS)),
            "left, more of it": pad_left(rows, max(LENGTHS) + 5),
        }
        for name, (ids, mask) in variants.items():
            torch.testing.assert_close(encoder(ids, mask), alone_BD, atol=1e-5, rtol=0, msg=f"{name} padding")


def test_only_what_is_known_to_look_back_goes_without_a_mask() -> None:
    assert all(looks_back_only(tiny(architecture)) for architecture in configs())
    both_ways: Any = tiny("gpt_neox")
    both_ways.config.is_causal = False
    encoder = BertModel(
        BertConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    assert not looks_back_only(both_ways)
    assert not looks_back_only(encoder)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "opt", "bloom", "gemma3"])
def test_the_gradient_does_not_see_padding_either(architecture: str) -> None:
    gradients = []
    for padded in (pad(texts(), 1), pad_left(texts(), 12)):
        encoder = Encoder(tiny(architecture), "mean")
        encoder(*padded)[:, 0].sum().backward()
        gradients.append([value.grad for value in encoder.parameters()])
    for right, left in zip(*gradients, strict=True):
        assert right is not None
        torch.testing.assert_close(right, left, atol=1e-4, rtol=1e-4)


def test_embeddings_have_length_one_in_single_precision() -> None:
    encoder = Encoder(tiny("gpt_neox"), "mean")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embedding_BD = encoder(*pad(texts(), 1))
    assert embedding_BD.dtype == torch.float32
    torch.testing.assert_close(embedding_BD.norm(dim=1), torch.ones(len(LENGTHS)), atol=1e-6, rtol=0)


def test_pad_by_hand() -> None:
    ids_BT, mask_BT = pad([np.array([5, 6, 7], np.uint16), np.array([8], np.uint16)], 1)
    assert ids_BT.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids_BT.dtype == torch.long
