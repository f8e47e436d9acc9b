"""Several processes, one batch: every rank embeds its share, all compute the loss of the whole.

Each rank evaluates the same B x B loss on the gathered embeddings and keeps the gradient of its own rows, so the sum of
the ranks' parameter gradients is the gradient one process would have had: no factor to remember, one all-reduce a step.
Started by `torchrun`; without it there is one rank and every function here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from isoembed.encoder.worker_pool import note_dense


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that `torchrun` announced (NCCL on GPUs, gloo on CPUs) and leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes share a batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        distributed.barrier()


def gather_rows(rows_bD: torch.Tensor) -> torch.Tensor:
    """The ranks' rows below one another, in rank order, without gradient; every rank holds equally many."""
    if world() == 1:
        return rows_bD
    parts = [torch.empty_like(rows_bD) for _ in range(world())]
    distributed.all_gather(parts, rows_bD.contiguous())
    return torch.cat(parts)


def own_share(count: int) -> list[int]:
    """Which of `count` things are this rank's: the ranks' shares, one behind the other, are all of them in order.

    Every share is as large as the others; where the count is no multiple of the ranks, the first thing stands in at
    the end, for the caller to leave out of what was gathered.
    """
    share = -(-count // world())
    return [index if index < count else 0 for index in range(rank() * share, (rank() + 1) * share)]


def sum_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Add up every rank's gradients in place: one flat all-reduce."""
    if world() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    distributed.all_reduce(flat)
    start = 0
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
            note_dense(parameter)
            start += parameter.numel()


def total(value: float, device: torch.device) -> float:
    """The sum of the ranks' `value`."""
    if world() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return float(tensor)


def largest(count: int, device: torch.device) -> int:
    """The largest of the ranks' `count`."""
    if world() == 1:
        return count
    tensor = torch.tensor(count, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def share_parameters(module: torch.nn.Module, device: torch.device) -> None:
    """Give every rank the parameters of rank 0 (LoRA starts from random numbers), by way of `device`."""
    if world() > 1:
        for tensor in module.state_dict().values():
            there = tensor.to(device)
            distributed.broadcast(there, 0)
            tensor.copy_(there)
