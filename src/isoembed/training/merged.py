"""Low-rank adapters trained as the dense weights they amount to.

As peft runs it a layer computes W x + s B (A x): two more products and a sum, each a pass over memory.  Here
M = W + s B A is made once a batch, forward and backward passes run as for a dense layer, and the gradient of M gives
those of both factors at the end: exact.  A dense weight's gradient costs 2 FLOP a weight and token; the factors' passes
6 FLOP a weight of theirs and what reading and writing their inputs and outputs takes.  So this pays where layers are
narrow, on a CPU (docs/lab-notes/speed.md, 2026-11-26).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from isoembed.encoder.encoder import Encoder
from isoembed.flops import Cost
from isoembed.training.forward import forwards_replaced

#: FLOP for which the memory traffic of an adapter stands, a token and each input or output of its layer; from
#: `benchmarks/chunk_speed.py`: 60 to 350 at widths 48 to 512 and ranks 8 to 32; batches of 600 tokens or more
TRAFFIC = 300


@contextmanager
def adapters_merged(encoders: Sequence[Encoder]) -> Iterator[list[torch.Tensor]]:
    """Passes of the `encoders`, replicas that share their weights, run merged layers inside the body, which is given
    the merged weights of the first encoder.  At its end the gradients of all of them are added to those of the first
    encoder's adapters.

    Left to peft: what `merged_layers` does not name.
    """
    layers = [merged_layers(encoder) for encoder in encoders]
    weights = [layer.base_layer.weight + layer.get_delta_weight(_adapter(layer)) for layer in layers[0]]
    leaves = [[weight.detach().requires_grad_() for weight in weights] for _ in encoders]
    merged = {
        layer: partial(_dense, leaf, layer.base_layer)
        for its_layers, its_leaves in zip(layers, leaves, strict=True)
        for layer, leaf in zip(its_layers, its_leaves, strict=True)
    }
    with forwards_replaced(merged):
        yield leaves[0]
    for weight, *its_leaves in zip(weights, *leaves, strict=True):
        gradients = [leaf.grad for leaf in its_leaves if leaf.grad is not None]
        if gradients:
            weight.backward(torch.stack(gradients).sum(dim=0) if len(gradients) > 1 else gradients[0])


def merged_layers(encoder: Encoder) -> list[Any]:
    """peft's layers that run merged, in the model's order: one plain adapter around an fp32 dense layer on a CPU, and
    worth it."""
    return [module for module in encoder.modules() if _plain(module) and _worth(module)]


def as_run(cost: Cost, encoder: Encoder) -> Cost:
    """`cost` with its merged layers counted as they run: dense, without their adapters.

    Left out: making M and the factors' gradients, once a batch, which is rank / tokens of the batch.
    """
    layers = merged_layers(encoder)
    adapters = sum(_adapter_params(layer) for layer in layers)
    dense = sum(_dense_params(layer) for layer in layers)
    return cost.model_copy(
        update={
            "forward": cost.forward - adapters,
            "backward": cost.backward - adapters,
            "updated": cost.updated - adapters + dense,
        }
    )


def merged_bytes(encoder: Encoder) -> float:
    """The merged weights in fp32."""
    return 4.0 * sum(_dense_params(layer) for layer in merged_layers(encoder))


def _plain(module: nn.Module) -> bool:
    if not (hasattr(module, "get_delta_weight") and hasattr(module, "lora_A")):
        return False
    layer: Any = module
    base = layer.base_layer
    return (
        type(base) in (nn.Linear, Conv1D)
        and (base.weight.device.type, base.weight.dtype) == ("cpu", torch.float32)
        and not base.weight.requires_grad
        and len(layer.active_adapters) == 1
        and not (layer.merged or layer.disable_adapters or layer.lora_variant or layer.lora_bias[_adapter(layer)])
        and isinstance(layer.lora_dropout[_adapter(layer)], nn.Identity)
    )


def _worth(layer: Any) -> bool:
    adapters, base = _adapter_params(layer), layer.base_layer
    return bool(2 * _dense_params(layer) <= 6 * adapters + TRAFFIC * sum(base.weight.shape))


def _adapter(layer: Any) -> str:
    name: str = layer.active_adapters[0]
    return name


def _dense_params(layer: Any) -> int:
    return int(layer.base_layer.weight.numel())


def _adapter_params(layer: Any) -> int:
    factors = (layer.lora_A[_adapter(layer)], layer.lora_B[_adapter(layer)])
    return sum(factor.weight.numel() for factor in factors)


def _dense(weight: torch.Tensor, base: nn.Linear | Conv1D, hidden_BTI: torch.Tensor) -> torch.Tensor:
    """The base layer with another weight; a `Conv1D` keeps it the other way round."""
    return nn.functional.linear(hidden_BTI, weight.T if isinstance(base, Conv1D) else weight, base.bias)
