"""How fast a recipe trains here: a few of its own steps, set up as the training loop sets them up."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from isoembed.data.batches import batches
from isoembed.data.dataset import PairData
from isoembed.recipe import Recipe
from isoembed.training.checkpoint import Counters
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.setup import ready_to_step, set_up
from isoembed.training.step import Trainer
from isoembed.training.teacher import with_teacher

#: held-out pairs on which their evaluation is timed
HELDOUT_TIMED = 512


@dataclass(frozen=True)
class Speed:
    """What a run takes: model FLOP a second in its steps, and the seconds of setting up and of a held-out loss."""

    flop_per_second: float
    setup_seconds: float
    heldout_seconds: float


def matrix_speed(device: torch.device, *, size: int = 1024, seconds: float = 0.2) -> float:
    """FLOP/s of products of square fp32 matrices on `device`, the fastest of those that fit into about `seconds`."""
    left, right = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    best, began = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for a GPU
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def measure_speed(recipe: Recipe, data: PairData, execution: Execution, *, steps: int = 3) -> Speed:
    """Take `steps` steps of `recipe`, behind one that is not counted, and drop the model; nothing is written."""
    data = with_teacher(data, recipe)
    began = time.perf_counter()
    with torch.random.fork_rng():
        trainer = set_up(recipe, execution)
        setup_seconds = time.perf_counter() - began
        stream = batches(
            data,
            batch_pairs=recipe.batch_pairs,
            seed=recipe.seed,
            unique_pairs=recipe.unique_pairs,
            options=recipe.options,
        )
        done = first = Counters()
        with ready_to_step(trainer):
            for number, (after, batch) in zip(range(steps + 1), stream, strict=False):
                done = trainer.step(done, batch, after)
                first = done if number == 0 else first
        heldout_seconds = _heldout_seconds(trainer, data)
    return Speed(
        flop_per_second=recipe.cost.flop_per_token * (done.tokens - first.tokens) / (done.seconds - first.seconds),
        setup_seconds=setup_seconds,
        heldout_seconds=heldout_seconds,
    )


def _heldout_seconds(trainer: Trainer, data: PairData) -> float:
    """What the held-out loss takes, by that of some of the pairs."""
    some = replace(data, heldout=data.heldout[:HELDOUT_TIMED])
    began = time.perf_counter()
    heldout_loss(
        trainer.encoder,
        some,
        temperature=trainer.recipe.temperature,
        batch_tokens=trainer.memory.mini_batch_tokens,
        bf16=trainer.bf16,
    )
    return (time.perf_counter() - began) * len(data.heldout) / max(1, len(some.heldout))
