"""The precision of products: fp32, or bf16 by autocast around fp32 weights, on GPUs and CPUs alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@contextmanager
def products(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Inside the body dense layers multiply in bf16 where that is asked; weights, sums of gradients, norms and residuals
    stay fp32.

    A weight is used once a mini-batch: autocast's cache would hold a second copy of all of them.
    """
    if not bf16:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        if device.type != "cpu":
            yield
            return
        with _AttentionInFp32():
            yield


class _AttentionInFp32(TorchFunctionMode):
    """torch's attention for short texts on a CPU goes backward in bf16 five times as slowly as in fp32 (torch 2.13), so
    it stays fp32, which is also nearer to the truth.  Of the thread that enters it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            attended: torch.Tensor = func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return attended.bfloat16()


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
