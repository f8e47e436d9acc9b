"""The precision of products: fp32, or bf16 by autocast around fp32 weights, on GPUs and CPUs alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from isoembed.core import InputError, check_named
from isoembed.recipe import Precision

#: `auto`: bf16 where that is faster here, else fp32
AskedPrecision = Literal["auto", "fp32", "bf16"]

#: hidden width from which bf16 is faster on CPUs that multiply in it (docs/lab-notes/models.md, 2026-11-28)
CPU_BF16_HIDDEN = 256


def precision_named(name: str) -> AskedPrecision:
    """`name` as a precision; raises InputError where it is none."""
    check_named("precision", name, get_args(AskedPrecision))
    return cast(AskedPrecision, name)


def device_called(name: str) -> torch.device:
    """torch's device of that name; raises InputError where it names none, or this torch or machine has none such."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: a torch built without CUDA
        why = str(error).splitlines()[0]
        raise InputError(f"`device` must be one that torch can use here; got {name!r} ({why}).") from None


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies in bf16 itself; elsewhere torch emulates it: the same numbers, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def fastest(device: torch.device, hidden: int) -> Precision:
    """What `auto` stands for on `device`, for a model of this hidden width: the same in every call."""
    pays = device.type != "cpu" or hidden >= CPU_BF16_HIDDEN
    return "bf16" if pays and has_bf16(device) else "fp32"


@contextmanager
def products(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Inside the body dense layers multiply in bf16 where that is asked; weights, sums of gradients, norms and
    residuals stay fp32.

    A weight is used once a mini-batch: autocast's cache would hold a second copy of all of them.
    """
    if not bf16:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        if device.type != "cpu":
            yield
            return
        with AttentionInFp32():
            yield


class AttentionInFp32(TorchFunctionMode):
    """torch's attention for short texts on a CPU goes backward in bf16 five times as slowly as in fp32 (torch 2.13), so
    it stays fp32, which is also nearer to the truth.  Of the thread that enters it; nothing without autocast."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            attended: torch.Tensor = func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return attended.bfloat16()


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
