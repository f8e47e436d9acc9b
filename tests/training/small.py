"""A tiny seeded encoder, a batch of token ids and an in-memory data set for the training tests."""

from __future__ import annotations

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXModel

from isoembed.encoder.encoder import Encoder
from isoembed.methods import Full, Method

VOCAB = 61


def small_encoder(method: Method | None = None, *, dropout: float = 0.0, seed: int = 0) -> Encoder:
    """Two GPT-NeoX blocks of width 16 under `method` (full by default)."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        use_cache=False,
    )
    model = GPTNeoXModel(config)
    with torch.no_grad():  # larger than the default initialisation, so that gradients are far from rounding error
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder = Encoder((method or Full()).apply(model), "mean")
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def batch_ids(pairs: int, *, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ragged query (2 to 6 tokens) and positive (4 to 17 tokens) ids."""
    rng = np.random.default_rng(seed)
    sides = [
        [rng.integers(2, VOCAB, rng.integers(low, high), dtype=np.int64) for _ in range(pairs)]
        for low, high in ((2, 7), (4, 18))
    ]
    return sides[0], sides[1]


def gradients(encoder: Encoder) -> dict[str, torch.Tensor]:
    """The gradients there are, by name, copied."""
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}


def assert_same_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], rtol: float = 1e-4) -> None:
    """The same parameters have gradients, equal to within `rtol` of each one's largest element."""
    assert left.keys() == right.keys()
    assert left
    for name, value in left.items():
        scale = float(value.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(right[name], value, rtol=rtol, atol=rtol * scale, msg=name)
