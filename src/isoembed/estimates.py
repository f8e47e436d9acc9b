"""What a run will need, estimated before it is run.  Measured figures come with every record.

The model of memory is that by which training plans its own (`isoembed.training.memory`), with a graph's bytes per token
counted here and measured by autograd there.  `benchmarks/memory_estimates.py` sets it beside measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from isoembed.budget import Device
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.options import PLAIN, Options
from isoembed.recipe import Recipe

#: of a weight as NF4 under double quantisation: 4 bits, 8 for each 64 weights, 32 for each 256 * 64
QUANTISED_BYTES = (4 + 8 / 64 + 32 / (256 * 64)) / 8
#: resident bytes a byte of kept graph takes: freed pieces of other sizes lie between (glibc, mini-batches of all
#: lengths)
FRAGMENTATION = 1.1
#: embeddings of the batch alive at once in fp32: this rank's, all ranks', of unit length, and a gradient of each
EMBEDDING_COPIES = 7
#: values alive a logit of a tile: the logits, two exponentials, masks, and logits masked by score for each direction
TILE_VALUES = 6
#: logits of one tile of the loss at most: 4 MiB in fp32, so that a batch of 1,024 is one tile
TILE_LOGITS = 1 << 20
#: the process itself: torch, transformers and peft, the data's index, what was freed and not given back (CPU); or the
#: context of a GPU, which is on the device and in no tensor
PROCESS_BYTES = 0.8e9
#: freed pieces that stand on a CPU where no `memory` bounds them: median over the nano study, up to three times that
FREED_BYTES = 0.5e9
#: of a graph kept under autocast to bf16, a value: its inputs are halved, norms and residuals stay in fp32
_BF16_BYTES = 3.0
#: padded tokens a mini-batch on a CPU: what a block makes of them stays in its caches (4,096 and 16,384 take 1.2 times
#: as long: `benchmarks/encode_speed.py`)
CPU_MINI_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a run needs on one device: training cuts its batches into mini-batches that fit."""

    least: float
    """with the smallest mini-batch, one text: what decides whether a recipe fits"""
    whole: float
    """with the graph of the whole batch kept, so that nothing runs twice, and on a CPU what stands freed"""


def recipe_memory(recipe: Recipe, *, bf16: bool = False) -> TrainingMemory:
    """What training `recipe` needs, as `training_memory`."""
    return training_memory(
        recipe.model,
        recipe.cost,
        batch_tokens=recipe.batch_pairs * recipe.data.tokens_per_pair,
        batch_pairs=recipe.batch_pairs,
        context_tokens=recipe.context_tokens,
        negatives=recipe.data.negatives,
        options=recipe.options,
        bf16=bf16,
    )


def training_memory(
    model: ModelSpec,
    cost: Cost,
    *,
    batch_tokens: float,
    batch_pairs: int,
    context_tokens: int,
    negatives: float = 0.0,
    options: Options = PLAIN,
    bf16: bool = False,
) -> TrainingMemory:
    """Estimate of a run's peak; in fp32, or under autocast to bf16 as on a GPU.

    1. There: the process, and weights in fp32 (0.516 bytes one kept in 4 bits), a projection's among them.
    2. State in fp32: gradient and two AdamW moments, 12 bytes a trained parameter, 16 where the weights are averaged
       too; one gradient more of the largest.
    3. The batch's embeddings and a tile of logits (`batch_bytes`), never all logits.
    4. The larger of a checkpoint being written and the graphs kept, with as much again for the mini-batch at work.

    Left out: sharding, several mini-batches at work at once, dense weights of merged adapters.
    """
    dense = 0 if options.dimensions is None else model.hidden * options.dimensions
    weights = model.total_params + cost.forward - model.params - cost.quantised + dense
    trained = cost.trained + dense
    there = PROCESS_BYTES + 4.0 * weights + QUANTISED_BYTES * cost.quantised
    largest = max((layer.inputs * layer.outputs for layer in model.dense), default=0)
    state = (12.0 if options.ema_decay is None else 16.0) * trained + 4.0 * min(trained, max(cost.table, largest))
    fixed = there + state + batch_bytes(options.width_of(model), batch_pairs, negatives, len(options.matryoshka))
    token = FRAGMENTATION * graph_bytes(model, cost, bf16=bf16)
    checkpoint, mini_batch = 8.0 * trained, min(CPU_MINI_BATCH_TOKENS, batch_tokens)
    return TrainingMemory(
        least=fixed + max(checkpoint, 2 * min(context_tokens, batch_tokens) * token),
        whole=fixed
        + (0.0 if bf16 else FREED_BYTES)
        + max(checkpoint, (batch_tokens + max(mini_batch, context_tokens)) * token),
    )


def graph_bytes(model: ModelSpec, cost: Cost, *, bf16: bool = False) -> float:
    """Bytes of graph a token: what each dense layer of the blocks that train reads and gives, and four values a hidden
    unit for norms and residuals.  Measured by autograd on seven architectures: within a quarter, but OPT's a half less.
    """
    dense = sum((layer.inputs + layer.outputs) * layer.count for layer in model.dense) / max(1, model.blocks)
    return (_BF16_BYTES if bf16 else 4.0) * (dense + 4 * model.hidden) * cost.blocks_backward


def batch_bytes(width: int, batch_pairs: int, negatives: float, prefixes: int) -> float:
    """Embeddings, their gradients and a tile of logits; of every prefix two more copies of unit length at most."""
    texts, candidates = (2 + negatives) * batch_pairs, (1 + negatives) * batch_pairs
    return 4.0 * (
        (EMBEDDING_COPIES + 2 * prefixes) * texts * width
        + TILE_VALUES * min(max(TILE_LOGITS, candidates), candidates**2)
    )


def training_seconds(recipe: Recipe, device: Device, *, count: int, utilisation: float) -> float:
    """Wall time at a given share of the devices' peak."""
    return recipe.flop / (device.peak_flop_per_second * count * utilisation)
