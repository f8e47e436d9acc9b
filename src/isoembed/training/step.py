"""One training step: rate, gradient, finite check, update, counters, callbacks."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from isoembed.core import InputError, first_line
from isoembed.data.batches import Batch, Position
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.worker_pool import WorkerPool, forget_gradients
from isoembed.flops import Cost, all_in_flop, executed_flop, projection_flop
from isoembed.recipe import Recipe
from isoembed.training.callbacks import Callback, StepFacts
from isoembed.training.checkpoint import Counters
from isoembed.training.distributed import own_share, rank, sum_gradients, world
from isoembed.training.execution import Execution
from isoembed.training.gradients import Gradient, Memory, accumulate_gradients
from isoembed.training.memory import is_out_of_memory
from isoembed.training.merged import as_run
from isoembed.training.objective import Objective
from isoembed.training.replay import RandomState
from isoembed.training.schedule import rate_at
from isoembed.training.sharding import whole


class DivergedError(InputError):
    """The loss or its gradient stopped being finite; the weights are those before the step."""

    exit_code = 1


class OutOfMemoryError(InputError):
    """Not even the smallest piece of a batch fits."""

    exit_code = 1


@dataclass
class Trainer:
    """What takes the steps of a recipe: model, optimiser, and how a batch is cut.  `set_up` makes it.

    Between steps only weights, moments and, where memory runs out, `memory` change; what is counted is handed in and
    out.
    """

    recipe: Recipe
    execution: Execution
    pool: WorkerPool
    optimizer: torch.optim.AdamW
    memory: Memory
    bf16: bool

    @property
    def encoder(self) -> Encoder:
        return self.pool.encoders[0]

    @cached_property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    @property
    def device(self) -> torch.device:
        return self.trainable[0].device

    @cached_property
    def executed_cost(self) -> Cost:
        """The recipe's cost as this machine runs it."""
        return as_run(self.recipe.cost, self.encoder) if self.memory.merged else self.recipe.cost

    def step(self, done: Counters, batch: Batch, after: Position, callbacks: Sequence[Callback] = ()) -> Counters:
        """One optimiser step on `batch`, behind which the data stand at `after`; what is done with it.

        Raises DivergedError before the weights change where loss or gradient is not finite, OutOfMemoryError where
        nothing smaller is left to try.
        """
        started = time.perf_counter()
        rate = self._set_rate(done.tokens + batch.tokens / 2)
        gradient = self._gradient(batch)
        grad_norm = self._clipped()
        self._check_finite(done.step + 1, gradient.loss, grad_norm, rate)
        self.optimizer.step()
        seconds = time.perf_counter() - started
        done = self._counted(done, batch, after, gradient, seconds)
        flop_per_token = self.recipe.cost.flop_per_token
        facts = StepFacts(
            step=done.step,
            tokens=done.tokens,
            pairs=done.pairs,
            loss=gradient.loss,
            rate=rate,
            grad_norm=grad_norm,
            flop=float(flop_per_token) * done.tokens,
            tokens_per_second=batch.tokens / seconds,
            flop_per_second=flop_per_token * batch.tokens / seconds,
        )
        for callback in callbacks:
            callback.step(facts)
        return done

    def _clipped(self) -> float:
        """The gradient's norm; the gradient is scaled only where that is above the largest allowed, for it is a pass
        over all of it."""
        total = nn.utils.get_total_norm([value.grad for value in self.trainable if value.grad is not None])
        norm = whole(total).item()
        if norm + 1e-6 > self.recipe.max_grad_norm:  # torch's own guard
            nn.utils.clip_grads_with_norm_(self.trainable, self.recipe.max_grad_norm, total)
        return norm

    def _set_rate(self, tokens: float) -> float:
        """Set and return the learning rate behind `tokens` tokens."""
        rate = rate_at(tokens, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _gradient(self, batch: Batch) -> Gradient:
        """The gradient of `batch`, summed over the ranks; where memory runs out, of smaller pieces, from then on."""
        for encoder in self.pool.encoders:
            encoder.train()
        gradient = None
        while gradient is None:
            forget_gradients(self.trainable)
            gradient = self._attempt(batch)
        if not self.execution.shard:  # there the backward pass has summed them
            sum_gradients(self.trainable)
        return gradient

    def _attempt(self, batch: Batch) -> Gradient | None:
        """None where memory ran out: `memory` then says how the batch is to be cut instead."""
        random = RandomState.now(self.device)
        share = batch.pairs // world()
        own = slice(rank() * share, (rank() + 1) * share)
        negatives = own_share(len(batch.negative_ids))
        prompt_tokens = None
        if batch.prompt_tokens is not None:
            before, behind, of_negatives = batch.prompt_tokens
            prompt_tokens = np.concatenate([before[own], behind[own], of_negatives[negatives]])
        try:
            return accumulate_gradients(
                self.pool,
                batch.query_ids[own],
                batch.positive_ids[own],
                Objective(self.recipe.temperature, self.recipe.options, self.encoder.projection).of(batch, self.device),
                self.memory,
                prompt_tokens=prompt_tokens,
                negative_ids=[batch.negative_ids[index] for index in negatives],
                bf16=self.bf16,
            )
        except (MemoryError, RuntimeError) as error:
            if world() > 1 or not is_out_of_memory(error):  # the other ranks would wait for this one
                raise
            smaller = self.memory.smaller(self.recipe.context_tokens)
            if smaller is None:
                raise OutOfMemoryError(
                    f"Memory must hold {self.recipe.context_tokens} tokens at work; it did not ({first_line(error)}). "
                    "Free some, or take a smaller model, another method or `gradient_checkpointing`."
                ) from None
        # here, where nothing of the failed attempt is held any more
        self.memory = smaller
        random.restore(self.device)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _check_finite(self, step: int, loss: float, grad_norm: float, rate: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"The loss must stay finite: it was {loss} (gradient norm {grad_norm}) at step {step}, learning rate "
                f"{rate:.2g}. Lower `learning_rate` (try {self.recipe.learning_rate / 3:.1g})."
            )

    def _counted(self, done: Counters, batch: Batch, after: Position, gradient: Gradient, seconds: float) -> Counters:
        recipe = self.recipe
        checkpointed = gradient.processed_tokens if self.execution.checkpointing else 0
        once = executed_flop(self.executed_cost, processed_tokens=gradient.processed_tokens)
        executed = executed_flop(
            self.executed_cost,
            processed_tokens=gradient.processed_tokens,
            recomputed_tokens=gradient.recomputed_tokens,
            resumed_tokens=gradient.resumed_tokens + checkpointed,
        )
        all_in = all_in_flop(
            recipe.cost,
            tokens=batch.tokens,
            squared_lengths=float((batch.lengths**2).sum()),
            hidden=recipe.model.attention_width,
            blocks=recipe.model.blocks,
        )
        if (dense := self.encoder.dense) is not None:
            texts = 2 * batch.pairs + len(batch.negative_ids)
            all_in += projection_flop(dense.in_features, dense.out_features, texts)
        return Counters(
            step=done.step + 1,
            epoch=after.epoch,
            batch=after.batch,
            tokens=done.tokens + batch.tokens,
            pairs=done.pairs + batch.pairs,
            negatives=done.negatives + len(batch.negative_ids),
            executed_flop=done.executed_flop + executed,
            recomputed_flop=done.recomputed_flop + executed - once,
            all_in_flop=done.all_in_flop + all_in,
            seconds=done.seconds + seconds,
        )
