"""Several mini-batches at once on a CPU: a mini-batch a thread, instead of every operation cut over all threads.

torch splits each operation over the threads and waits for the slowest of them, a few hundred times a mini-batch.  With
a mini-batch a thread they wait once a pass.  What it brings by model size: docs/lab-notes/speed.md, 2026-11-26.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

from isoembed.encoder.encoder import Encoder

Result = TypeVar("Result")


class WorkerPool:
    """An encoder and, for `workers` above one, replicas that share its weights, each run by a thread of its own.

    A replica has its own gradients and its own modules (what is hung on one of them does not reach another), so workers
    run forward and backward at the same time, and their sums of gradients are the same in every run.  What draws
    random numbers (dropout) must have one worker: threads would draw from one generator in no fixed order.
    """

    def __init__(self, encoder: Encoder, workers: int = 1) -> None:
        self.encoders = [encoder, *(_replica(encoder) for _ in range(workers - 1))]
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="isoembed-worker") for _ in range(workers - 1)]

    def map(self, task: Callable[[Encoder, int], Result], numbers: Sequence[int]) -> list[Result]:
        """`task(encoder, number)` for each number, number n by worker n % workers; results in the numbers' order."""
        workers = len(self.encoders)
        if workers == 1:
            return [task(self.encoders[0], number) for number in numbers]
        all_threads = torch.get_num_threads()
        each = max(1, all_threads // workers)

        def work(worker: int) -> dict[int, Result]:
            torch.set_num_threads(each)  # of the thread that calls it
            return {n: task(self.encoders[worker], n) for n in numbers if n % workers == worker}

        others = [thread.submit(work, worker) for worker, thread in enumerate(self._threads, start=1)]
        try:
            found = work(0)
        finally:
            wait(others)
            torch.set_num_threads(all_threads)
        for other in others:
            found |= other.result()
        return [found[number] for number in numbers]

    def drop_gradients(self) -> None:
        """Forget what an attempt that failed has left with the replicas."""
        for replica in self.encoders[1:]:
            for own, other in zip(self.encoders[0].parameters(), replica.parameters(), strict=True):
                if other is not own:
                    other.grad = None
                    (kept_rows(other) or []).clear()

    def collect_gradients(self) -> None:
        """Add the replicas' gradients to the encoder's and drop them."""
        for replica in self.encoders[1:]:
            for parameter, other in zip(self.encoders[0].parameters(), replica.parameters(), strict=True):
                if other is parameter:
                    continue
                if rows := kept_rows(other):
                    add_rows(parameter, rows)
                    rows.clear()
                if other.grad is None:
                    continue
                parameter.grad = other.grad if parameter.grad is None else parameter.grad.add_(other.grad)
                note_dense(parameter)
                other.grad = None


#: (ids, gradient of their rows) of a mini-batch
RowGradients = tuple[torch.Tensor, torch.Tensor]


def kept_rows(weight: nn.Parameter) -> list[RowGradients] | None:
    """The rows of its gradient that a replica's token table keeps; None of every other parameter."""
    rows: list[RowGradients] | None = vars(weight).get("kept_rows")
    return rows


def add_rows(weight: nn.Parameter, rows: Sequence[RowGradients]) -> None:
    """Add the rows to the gradient of `weight`, in their order; `forget_gradients` will know which they were."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
        if "added_to" not in vars(weight):
            weight.register_post_accumulate_grad_hook(note_dense)
        vars(weight)["added_to"] = []
    for ids, gradient in rows:
        if (added_to := vars(weight)["added_to"]) is not None:
            added_to.append(ids)
        weight.grad.index_add_(0, ids, gradient)


def note_dense(weight: torch.Tensor) -> None:
    """Something was added to all of the gradient of `weight`."""
    if "added_to" in vars(weight):
        vars(weight)["added_to"] = None


def forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Drop the gradients.  One to which nothing but rows was added is zeroed in these rows and kept: to make and fill
    another of a whole token table takes longer."""
    for parameter in parameters:
        if parameter.grad is not None and (added_to := vars(parameter).get("added_to")):
            parameter.grad[torch.cat(added_to)] = 0.0
            added_to.clear()
        else:
            parameter.grad = None


def _replica(encoder: Encoder) -> Encoder:
    """New modules around the same weights: frozen ones are the same parameters, trained ones new leaves on the same
    memory, which every optimiser step changes for both."""
    memo: dict[int, object] = {id(buffer): buffer.clone() for buffer in encoder.buffers()}
    for parameter in encoder.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach()) if parameter.requires_grad else parameter
    replica = copy.deepcopy(encoder, memo)
    for module in replica.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            vars(module.weight)["kept_rows"] = []
    return replica
