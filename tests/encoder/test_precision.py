"""Products in bf16: what stays fp32, and what `auto` stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from isoembed.core import InputError
from isoembed.encoder import precision
from isoembed.encoder.precision import fastest, precision_named, products

CPU = torch.device("cpu")


def test_dense_layers_multiply_in_bf16_and_attention_in_fp32() -> None:
    """Fails where bf16 is asked for and not used, or attention gets rounded inputs: on CPUs its backward pass is then
    five times as slow."""
    torch.manual_seed(0)
    layer, query = nn.Linear(8, 8), torch.randn(2, 2, 5, 4, requires_grad=True)
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    wanted = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    with products(CPU, bf16=True):
        assert layer(torch.randn(3, 8)).dtype == torch.bfloat16
        attended = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert attended.dtype == torch.bfloat16
    assert torch.equal(attended, wanted.bfloat16())
    (slope,) = torch.autograd.grad(attended.float().sum(), query)
    assert slope.dtype == torch.float32
    with products(CPU, bf16=False):
        assert layer(torch.randn(3, 8)).dtype == torch.float32


def test_auto_is_bf16_where_the_machine_has_it_and_the_model_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where small models, which it slows down, or machines that emulate it get it."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert [fastest(CPU, hidden) for hidden in (48, 160, 576, 2048)] == ["fp32", "fp32", "bf16", "bf16"]
    assert fastest(torch.device("cuda"), 48) == "bf16"
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert {fastest(device, 2048) for device in (CPU, torch.device("cuda"))} == {"fp32"}


def test_a_wrong_precision_is_refused() -> None:
    with pytest.raises(InputError, match="must be one of auto, fp32, bf16; got 'fp16'"):
        precision_named("fp16")
