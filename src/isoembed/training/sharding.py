"""One model over several devices, for one is too small: each rank keeps a slice of every parameter (torch's FSDP2).

A block's parameters are gathered when it runs, forward or backward, and dropped again; the gradient of a mini-batch is
summed over the ranks, each keeping its slice, before the next mini-batch runs.  So a rank holds its share of
parameters, gradients and AdamW's moments, and beside them the whole of what is not in a block (the token table) and of
the two blocks at work.  The price is traffic with every mini-batch, not only once a step: large mini-batches hide it.

Gathering needs all ranks at once: with sharded parameters every rank calls the model, forward and backward, equally
often and in the same order (`in_step`), saves when the others do, and computes the same held-out loss beside them.
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder, base_of, is_sharded
from isoembed.methods.parts import blocks_of
from isoembed.training.distributed import largest, world


def shard(encoder: Encoder, device: torch.device) -> None:
    """Cut every parameter of `encoder` over the ranks and move the slices to `device`, a block at a time.

    1. Blocks first, then all that is outside of them; each is gathered in one go.
    2. Everything is dropped after a forward, the root too: outside of a forward or backward pass, the parameters that
       the optimiser and a checkpoint see are always the slices.
    3. Gradients are summed, not averaged, for every rank's are those of the whole batch's loss (see `distributed`);
       with a plain sum, because gloo knows no other.
    4. Gathered in fp32, so that a run under bf16 autocast computes what it computes without sharding.
    """
    if not all(parameter.is_floating_point() for parameter in encoder.parameters()):
        raise InputError(
            "`shard` cuts floating-point parameters; qlora keeps weights in 4 bits. Leave it out, or use lora."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (world(),))
    for part in (*blocks_of(base_of(encoder.model)), encoder):
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def in_step(encoder: Encoder, count: int) -> int:
    """`count`, or where the parameters are sharded the largest `count` of any rank."""
    return largest(count, next(encoder.parameters()).device) if is_sharded(encoder) else count


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, gathered by all ranks together; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's slice of the whole `tensor`, cut and placed as `like` is; all of it where `like` is not sharded."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def held_elements(tensor: torch.Tensor) -> int:
    """How many of the tensor's elements are on this rank."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()


def gathered_bytes(encoder: Encoder) -> float:
    """What a pass over sharded parameters holds beside the slices at its peak; 0 where nothing is sharded.

    In fp32: parameters and gradients of what is outside the blocks, parameters of two blocks (the next one is gathered
    while one runs) and gradients of one.
    """
    if not is_sharded(encoder):
        return 0.0
    blocks = [sum(value.numel() for value in block.parameters()) for block in blocks_of(base_of(encoder.model))]
    outside = sum(value.numel() for value in encoder.parameters()) - sum(blocks)
    return 4.0 * (2 * outside + 3 * max(blocks))


def unsharded(encoder: Encoder, fresh: Encoder) -> Encoder:
    """`fresh`, the encoder before training, with the trained parameters of the sharded `encoder`; on every rank."""
    trained = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(whole(trained[name]))
    return fresh
