"""How much of a batch is kept for the backward pass, planned from a stated peak of memory.

The peak is the process's resident size on a CPU, the tensors allocated on a GPU.  The model of it:

    peak = what is there before the first step              (read then)
         + gradients and AdamW's moments                     12 bytes a trained parameter in fp32
         + the batch's embeddings, their gradients, the loss
         + the larger of  graphs kept + one mini-batch at work    graph and as much again for temporary values
                    and   a checkpoint being written         8 bytes a trained parameter
         + one more gradient of the largest trained parameter, before it is added to the sum

with a graph's bytes per token measured by autograd.  A pool of m has m mini-batches at work, and m - 1 more gradients
of everything trained.  Merged adapters (`isoembed.training.merged`) add their dense weights once and a gradient of
these per worker.  Peaks measured against it: `benchmarks/train_speed.py --memory-gib`.
"""

from __future__ import annotations

import os
import resource
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.encoder.precision import products
from isoembed.estimates import FRAGMENTATION, batch_bytes
from isoembed.methods.parts import blocks_of
from isoembed.recipe import Recipe
from isoembed.training.gradients import Memory
from isoembed.training.merged import adapters_merged, merged_bytes
from isoembed.training.replay import RandomState
from isoembed.training.resident import give_back, resident_bytes
from isoembed.training.sharding import gathered_bytes, held_elements

#: how far above the stated peak freed pieces may stand before they are given back, which costs time (LoRA: a fifth)
SLACK = 1.1
#: share of what is free that a run plans for where no peak is stated: a GPU is mostly there for it alone
FREE_SHARE = {"cuda": 0.85, "cpu": 0.5}


@dataclass(frozen=True)
class Footprint:
    """What an encoder keeps for the backward pass: bytes of graph a padded token; how many blocks in front are frozen,
    and the bytes per token of what the last of them gives; whether the forward pass draws random numbers; bytes a
    mini-batch, however large: weights in bf16."""

    graph_bytes: float
    frozen_blocks: int = 0
    prefix_bytes: float = 0.0
    draws: bool = False
    mini_batch_bytes: float = 0.0


def measure_footprint(
    encoder: Encoder, length: int, *, tokens: int = 1024, bf16: bool = False, merged: bool = False
) -> Footprint:
    """The footprint on texts of `length` tokens, measured by autograd on about `tokens` of them; under autocast on
    twice as many too, for what grows with them."""
    found = _footprint(encoder, length, tokens, bf16, merged)
    if not bf16:
        return found
    texts = max(1, tokens // length)
    small, large = (each * length for each in (texts, 2 * texts))
    kept, more = found.graph_bytes * small, _footprint(encoder, length, 2 * small, bf16, merged).graph_bytes * large
    slope = (more - kept) / (large - small)
    return replace(found, graph_bytes=slope, mini_batch_bytes=max(0.0, kept - slope * small))


def _footprint(encoder: Encoder, length: int, tokens: int, bf16: bool, merged: bool) -> Footprint:
    device = next(encoder.parameters()).device
    ids_BT = torch.zeros(max(1, tokens // length), length, dtype=torch.long)
    storages: dict[int, int] = {}
    frozen: list[float] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # asked each time: a sharded parameter is elsewhere whenever its block runs
        if tensor.data_ptr() not in {weight.data_ptr() for weight in (*encoder.parameters(), *weights)}:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation that saves its own output would hold it, and the model, for ever

    def look(block: torch.nn.Module, arguments: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        hidden_BTD = output if isinstance(output, torch.Tensor) else output[0]
        if not hidden_BTD.requires_grad:
            frozen.append(hidden_BTD.nbytes / ids_BT.numel())

    hooks = [block.register_forward_hook(look) for block in blocks_of(base_of(encoder.model))]
    before = RandomState.now(device)
    try:
        with (
            adapters_merged([encoder]) if merged else nullcontext(()) as weights,
            saved_tensors_hooks(pack, lambda tensor: tensor),
            products(device, bf16=bf16),
        ):
            output = encoder(ids_BT, torch.ones_like(ids_BT))
    finally:
        for hook in hooks:
            hook.remove()
    del output
    return Footprint(
        sum(storages.values()) / ids_BT.numel(),
        len(frozen),
        frozen[-1] if frozen else 0.0,
        draws=RandomState.now(device) != before,
    )


def plan_memory(
    encoder: Encoder,
    recipe: Recipe,
    *,
    memory_bytes: float | None,
    mini_batch_tokens: int,
    threads: int = 1,
    merged: bool = False,
) -> Memory:
    """Keep as much of the recipe's batches as a peak of `memory_bytes` allows; None: as a share of what is free now
    allows.

    Up to `threads` mini-batches may be at work at once; with `merged`, adapters run merged where that is faster.  Where
    the best weights are kept they stand once more in the machine's memory, an average of them on the device.

    Raises InputError where a stated peak does not hold even the smallest mini-batch, one text of `context_tokens`.
    """
    context_tokens, bf16 = recipe.context_tokens, recipe.precision == "bf16"
    device = next(encoder.parameters()).device
    encoder.train()
    with torch.random.fork_rng():  # dropout in this forward must not move the run's random state
        footprint = measure_footprint(encoder, context_tokens, bf16=bf16, merged=merged)
    dense = merged_bytes(encoder) if merged else 0.0  # of merged weights, and as much of their gradients
    there, free = _there_and_free(device)
    config: Any = base_of(encoder.model).config
    prefixes = len(recipe.options.matryoshka)
    width = recipe.options.dimensions or config.hidden_size
    embeddings = batch_bytes(width, recipe.batch_pairs, recipe.data.negatives, prefixes)
    fixed = state_bytes(encoder) + gathered_bytes(encoder) + embeddings
    fixed += 2 * dense
    fixed += gradient_bytes(encoder) if recipe.early_stopping.keep == "best" and device.type == "cpu" else 0.0
    fixed += gradient_bytes(encoder) if recipe.options.ema_decay is not None else 0.0
    peak = memory_bytes if memory_bytes is not None else there + FREE_SHARE[device.type] * free
    text = footprint.mini_batch_bytes + context_tokens * footprint.graph_bytes
    smallest = max(2 * text * FRAGMENTATION, checkpoint_bytes(encoder))
    if memory_bytes is not None and there + fixed + smallest > peak:
        raise InputError(
            f"`memory` must hold the process with its model ({_mib(there)}), gradients, moments, embeddings "
            f"({_mib(fixed)}) and the work on one text or a checkpoint ({_mib(smallest)}); got {_mib(peak)}. "
            f"Raise it to {_mib(there + fixed + smallest)} or more, or take a smaller model or another method."
        )
    memory = fill(
        footprint,
        peak - there - fixed,
        mini_batch_tokens=mini_batch_tokens,
        context_tokens=context_tokens,
        threads=1 if footprint.draws else threads,
        worker_bytes=gradient_bytes(encoder) + dense,
    )
    return replace(memory, limit_bytes=SLACK * peak if device.type == "cpu" else None, merged=dense > 0)


def fill(
    footprint: Footprint,
    room_bytes: float,
    *,
    mini_batch_tokens: int,
    context_tokens: int,
    threads: int = 1,
    worker_bytes: float = 0.0,
) -> Memory:
    """Cut a batch for `room_bytes` of graphs and the mini-batches at work, each of which needs about as much again as
    its graph for temporary values.

    As many of the `threads` as leave half of the room to graphs work on a mini-batch each, every one but the first at
    `worker_bytes` more.
    """
    token_bytes = FRAGMENTATION * (footprint.graph_bytes + footprint.mini_batch_bytes / mini_batch_tokens)
    workers = max(1, min(threads, int(room_bytes / 2 / (worker_bytes + 2 * mini_batch_tokens * token_bytes))))
    fit = int(max(0.0, room_bytes - (workers - 1) * worker_bytes) / token_bytes)
    mini_batch = max(context_tokens, min(mini_batch_tokens, fit // 2))
    return Memory(
        mini_batch_tokens=mini_batch,
        kept_tokens=max(0, fit - 2 * workers * mini_batch),
        frozen_blocks=footprint.frozen_blocks,
        prefix_share=footprint.prefix_bytes / footprint.graph_bytes,
        workers=workers,
    )


def gradient_bytes(encoder: Encoder) -> float:
    """The gradients of everything trained."""
    return 4.0 * sum(held_elements(value) for value in encoder.parameters() if value.requires_grad)


def state_bytes(encoder: Encoder) -> float:
    """Gradients and moments, and a second gradient of the largest trained parameter."""
    largest = max(held_elements(value) for value in encoder.parameters() if value.requires_grad)
    return 3 * gradient_bytes(encoder) + 4.0 * largest


def checkpoint_bytes(encoder: Encoder) -> float:
    """What safetensors copies while it writes the moments."""
    return 2 * gradient_bytes(encoder)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory has run out, in the words of Python, of a GPU's allocator or of the CPU's."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def forget_peak(device: torch.device) -> None:
    """Start the peak anew, for a process that has run something before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes: the GPU's peak allocation, or this process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _there_and_free(device: torch.device) -> tuple[float, float]:
    """Bytes that this process has, and that it could have beside the other ranks of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device)), float(torch.cuda.mem_get_info(device)[0])
    give_back()
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return float(resident_bytes()), psutil.virtual_memory().available / ranks


def _mib(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"
