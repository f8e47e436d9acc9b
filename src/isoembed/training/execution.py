"""How a recipe runs on a machine: device, precision, memory, checkpoints."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch

from isoembed.core import InputError, checked
from isoembed.encoder.precision import device_called, fastest, has_bf16, precision_named
from isoembed.recipe import Precision, Recipe

#: hidden width from which packing is faster on a CPU (docs/lab-notes/speed.md, 2026-11-30)
CPU_PACKED_HIDDEN = 256


@dataclass(frozen=True)
class Execution:
    """How a recipe runs on this machine.  Nothing here changes the result beyond rounding; of that, bf16 is a part of
    the run's identity (`decided`)."""

    device: str | None = None  #: None: the GPU where there is one
    precision: str = "auto"  #: of products: fp32, or bf16 by autocast; auto: the recipe's, else what is faster here
    memory_bytes: float | None = None  #: peak of the process (GPU: allocated there); None: half of what is free
    mini_batch_tokens: int | None = None  #: tokens a mini-batch, padding among them; None: by device
    checkpointing: bool = False  #: gradient checkpointing inside the model
    packed: bool | None = None  #: texts one behind the other in place of padding; None: where that is faster (`packs`)
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
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise InputError(f"`memory_bytes` must be above 0; got {self.memory_bytes:g}. Leave it out.")

    def torch_device(self) -> torch.device:
        """The device to run on; under torchrun each rank takes the GPU of its local number.

        Raises InputError where `device` names none, or this torch or machine has none such.
        """
        if self.device is not None:
            return device_called(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def packs(self, device: torch.device, hidden: int) -> bool:
        """Whether texts are packed where the architecture allows it: as asked, else on a CPU for models wide enough,
        if nothing asked for goes without."""
        if self.packed is not None:
            return self.packed
        apart = self.checkpointing or self.shard or self.compile
        return device.type == "cpu" and hidden >= CPU_PACKED_HIDDEN and not apart

    def decided(self, recipe: Recipe, *, begun: Precision | None = None) -> Recipe:
        """The recipe with the precision that it runs in: the one asked for, or with `auto` the one in which the run was
        `begun`, the recipe's own, or the faster one on this device.

        Warns where this machine only emulates it.
        """
        device, asked = self.torch_device(), precision_named(self.precision)
        chosen = begun or recipe.precision or fastest(device, recipe.model.hidden) if asked == "auto" else asked
        if chosen == "bf16" and not has_bf16(device):
            warnings.warn("bf16 is emulated here: the same result as elsewhere, more slowly than fp32", stacklevel=2)
        return recipe.model_copy(update={"precision": chosen})


Execution.__init__ = checked(Execution.__init__)  # type: ignore[method-assign]
