"""Running a mini-batch a second time: with the random numbers of the first, and from the lowest trained block on.

Frozen blocks in front of the lowest trained one compute the same in both passes and take no part in the backward pass,
so the output of the last of them is kept from the first pass and handed on in the second, in which none of them runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from isoembed.training.forward import forwards_replaced


@dataclass(frozen=True, eq=False)
class RandomState:
    """The state of the CPU's generator and, where a GPU runs the model, of that one's."""

    cpu: torch.Tensor
    cuda: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The state as it is."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RandomState) and all(
            left is right if left is None or right is None else torch.equal(left, right)
            for left, right in ((self.cpu, other.cpu), (self.cuda, other.cuda))
        )

    def restore(self, device: torch.device) -> None:
        """Draw from here on what was drawn from there on."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


@contextmanager
def replayed(state: RandomState, device: torch.device) -> Iterator[None]:
    """Run the body with the random numbers of an earlier run, then go on where the generator was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        state.restore(device)
        yield


@dataclass
class PrefixOutput:
    """What the last frozen block returned in a mini-batch's first pass, and the random state it left; empty until
    then."""

    output: Any = None
    random: RandomState | None = None


@contextmanager
def recorded(frozen: Sequence[nn.Module], device: torch.device) -> Iterator[PrefixOutput]:
    """The body runs the model once without gradient; what the last of the `frozen` blocks returns is noted."""
    found = PrefixOutput()

    def note(module: nn.Module, arguments: object, output: Any) -> None:
        found.output, found.random = output, RandomState.now(device)

    handle = frozen[-1].register_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def resumed(frozen: Sequence[nn.Module], known: PrefixOutput, device: torch.device) -> Iterator[None]:
    """The body runs the model once: the `frozen` blocks hand `known` on instead of running."""
    random = known.random
    assert random is not None

    def hand_on(*arguments: object, **named: object) -> Any:
        # whatever ran before the blocks has drawn its own random numbers again
        random.restore(device)
        return known.output

    devices = [device] if device.type == "cuda" else []
    with forwards_replaced(dict.fromkeys(frozen, hand_on)), torch.random.fork_rng(devices):
        yield
