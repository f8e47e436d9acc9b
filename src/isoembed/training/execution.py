"""How a recipe runs on a machine: device, precision, memory, checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from isoembed.core import InputError, checked

Precision = Literal["auto", "fp32", "bf16"]


def precision_named(name: str) -> Precision:
    """`name` as a precision; raises InputError where it is none."""
    if name not in get_args(Precision):
        raise InputError(f"`precision` must be one of {', '.join(get_args(Precision))}; got {name!r}.")
    return cast(Precision, name)


@dataclass(frozen=True)
class Execution:
    """How a recipe runs on this machine.  Nothing here changes the result beyond rounding."""

    device: str | None = None  #: None: the GPU where there is one
    precision: str = "auto"  #: of products: fp32, or bf16 by autocast; auto: bf16 on a GPU that has it
    memory_bytes: float | None = None  #: peak of the process (GPU: allocated there); None: half of what is free
    mini_batch_tokens: int | None = None  #: padded tokens a mini-batch; None: by device
    checkpointing: bool = False  #: gradient checkpointing inside the model
    packed: bool = False  #: texts one behind the other in place of padding, where the architecture allows it
    compile: bool = False  #: torch.compile of the blocks: slow at first, then faster
    shard: bool = False  #: cut the parameters over the processes, for a model too large for one device
    checkpoint_seconds: float = 120.0  #: time between checkpoints; 0 saves after every step, inf never
    keep_checkpoints: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        precision_named(self.precision)
        for name in ("mini_batch_tokens", "keep_checkpoints"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"`{name}` must be at least 1; got {number}. Give another number.")

    def torch_device(self) -> torch.device:
        """The device to run on; under torchrun each rank takes the GPU of its local number.

        Raises InputError where `device` names none, or this torch or machine has none such.
        """
        if self.device is not None:
            try:
                return torch.empty(0, device=self.device).device
            except (RuntimeError, AssertionError) as error:  # the latter: a torch built without CUDA
                why = str(error).splitlines()[0]
                raise InputError(
                    f"`device` must be one that torch can use here; got {self.device!r} ({why})."
                ) from None
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether products on `device` run in bfloat16."""
        if self.precision == "auto":
            return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return self.precision == "bf16"


Execution.__init__ = checked(Execution.__init__)  # type: ignore[method-assign]
