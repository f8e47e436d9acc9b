"""From a recipe to what trains it, and the state in which its steps run: one way for runs and for measuring speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from isoembed.encoder.attention import unmasked
from isoembed.encoder.dense import encoder_of
from isoembed.encoder.encoder import Encoder, enable_checkpointing
from isoembed.encoder.load import attend_both_ways, load_base
from isoembed.encoder.mini_batches import mini_batch_tokens_for
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.recipe import Recipe
from isoembed.training.compiled import compiled
from isoembed.training.distillation import projection_of
from isoembed.training.distributed import share_parameters
from isoembed.training.execution import Execution
from isoembed.training.memory import plan_memory
from isoembed.training.sharding import shard
from isoembed.training.step import Trainer


def set_up(recipe: Recipe, execution: Execution) -> Trainer:
    """Model, optimiser and how a batch is cut.  Seeds torch with the recipe's seed.

    Raises InputError where the base weights are not those of the recipe, or a stated peak of memory is too small.
    """
    device = execution.torch_device()
    recipe = execution.decided(recipe)
    bf16 = recipe.precision == "bf16"

    # 1. model: base weights, method, pooling
    torch.manual_seed(recipe.seed)
    encoder = untrained(recipe)
    encoder.projection = projection_of(recipe, encoder)
    if execution.checkpointing:
        enable_checkpointing(encoder.model)
    share_parameters(encoder, device)
    if execution.shard:
        shard(encoder, device)
    else:
        encoder.to(device)
    optimizer = adamw([parameter for parameter in encoder.parameters() if parameter.requires_grad], recipe)

    # 2. how to cut a batch
    # these keep state between passes, or cannot be in two threads
    alone = device.type != "cpu" or execution.checkpointing or execution.shard or execution.compile
    memory = plan_memory(
        encoder,
        recipe,
        memory_bytes=execution.memory_bytes,
        mini_batch_tokens=execution.mini_batch_tokens or mini_batch_tokens_for(device, bf16=bf16),
        threads=1 if alone else torch.get_num_threads(),
        merged=not alone,
    )
    return Trainer(recipe, execution, WorkerPool(encoder, memory.workers), optimizer, memory, bf16)


@contextmanager
def ready_to_step(trainer: Trainer) -> Iterator[None]:
    """Inside the body the encoders run as steps run them: without masks or packed where that is the same, compiled
    where that is asked.  Held-out losses are computed outside."""
    encoder, execution = trainer.encoder, trainer.execution
    with ExitStack() as around:
        packed = execution.packs(trainer.device, trainer.recipe.model.hidden)
        if trainer.device.type == "cuda" or packed:
            around.enter_context(
                unmasked(
                    trainer.pool.encoders,
                    context_tokens=trainer.recipe.context_tokens,
                    bf16=trainer.bf16,
                    packed=packed,
                    required=bool(execution.packed),
                )
            )
        if execution.compile:
            around.enter_context(compiled(encoder))
        yield


def untrained(recipe: Recipe) -> Encoder:
    """Base weights, method, pooling and projection, on the CPU."""
    base = load_base(recipe)
    if recipe.options.bidirectional:
        attend_both_ways(base)
    return encoder_of(recipe.method.apply(base), recipe)


def adamw(trainable: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only (biases and norms are not pulled to zero)."""
    return torch.optim.AdamW(
        [
            {"params": [value for value in trainable if value.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [value for value in trainable if value.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
    )
