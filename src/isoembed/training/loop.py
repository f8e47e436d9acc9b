"""The training loop: a recipe and data in, a trained encoder and a record out, resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoembed.core import InputError, StoppedError, checked, expanded
from isoembed.data.batches import Position, batches, is_spent
from isoembed.data.dataset import PairData
from isoembed.data.order import order_of
from isoembed.encoder.computing import computing_hash
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.recipe import Recipe, check_trained
from isoembed.records import Heldout, LossPoint, RunRecord
from isoembed.scratch import TRUNK, remove
from isoembed.training.average import WeightAverage
from isoembed.training.callbacks import Callback, LossCurve
from isoembed.training.checkpoint import (
    Counters,
    LoopState,
    begun_precision,
    load_checkpoint,
    load_others,
    save_checkpoint,
)
from isoembed.training.compiled import check_compiler
from isoembed.training.distributed import largest, rank, world
from isoembed.training.early_stopping import Evaluations, check_evaluated
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.memory import forget_peak
from isoembed.training.record import record_of
from isoembed.training.setup import ready_to_step, set_up, untrained
from isoembed.training.sharding import unsharded
from isoembed.training.signals import stop_requested
from isoembed.training.step import DivergedError, Trainer
from isoembed.training.teacher import with_teacher


@checked
def run(
    recipe: Recipe,
    data: PairData,
    folder: str | Path,
    *,
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    before: Heldout | None = None,
) -> tuple[Encoder, RunRecord]:
    """Train as `recipe` says; checkpoints go to `folder`.  Returns the trained encoder and the record.

    `before` is the untrained base's held-out loss where it was measured already; else it is measured here.

    Raises InputError where recipe and data do not belong together or a checkpoint does not fit, DivergedError where the
    loss stops being finite, StoppedError after a signal; the last two leave a good checkpoint behind.
    """
    execution, folder = execution or Execution(), expanded(folder)
    recipe = execution.decided(recipe, begun=begun_precision(folder) if execution.resume else None)
    _check(recipe, data, folder, execution)
    data = with_teacher(data, recipe)
    forget_peak(execution.torch_device())
    trainer = set_up(recipe, execution)
    encoder = trainer.encoder
    before = before or _heldout(trainer, data)
    base: Any = base_of(encoder.model)
    fresh = LoopState(
        recipe_key=recipe.key,
        data_fingerprint=str(data.stats.fingerprint),
        precision=recipe.precision or "fp32",
        computing=computing_hash(base.config),
    )
    state = load_checkpoint(folder, fresh, encoder, trainer.optimizer) if execution.resume else fresh
    fresh = fresh.model_copy(update={"inherited": state.inherited})
    curve, decay = LossCurve([*state.losses]), recipe.options.ema_decay
    average = WeightAverage(encoder, decay, load_others(folder, state, encoder, "average") if decay else None)
    evaluations = Evaluations(
        recipe.early_stopping,
        encoder,
        lambda: _heldout(trainer, data),
        state.evaluations,
        load_others(folder, state, encoder, "best") if recipe.early_stopping.keep == "best" else None,
    )
    loop = _Loop(trainer, data, folder, fresh, curve.points, evaluations, average, (curve, average, *callbacks))
    for callback in loop.callbacks:
        callback.start(recipe, state.step, state.tokens)
    try:
        with stop_requested() as stop:
            done = loop.until_the_end(state, stop)
    finally:
        for callback in loop.callbacks:
            callback.end()
    average.exchange()
    record = record_of(trainer, data, done, curve.points, evaluations, before=before, inherited=state.inherited)
    return (unsharded(encoder, untrained(recipe)) if execution.shard else encoder), record


@dataclass(frozen=True)
class _Loop:
    """One run's parts, held together for the length of the loop; `fresh` names the run in its checkpoints."""

    trainer: Trainer
    data: PairData
    folder: Path
    fresh: LoopState
    losses: list[LossPoint]
    evaluations: Evaluations
    average: WeightAverage
    callbacks: Sequence[Callback]

    def until_the_end(self, done: Counters, stop: list[int]) -> Counters:
        """Step until the tokens are spent or the held-out loss has not fallen for too long, and save that."""
        is_spent = False
        while not is_spent:
            if self.evaluations.due(done):
                with self.average.in_place():
                    self.evaluations.take(done)
            if self.evaluations.out_of_patience():
                break
            with ready_to_step(self.trainer):
                done, is_spent = self.until_due(done, stop)
        if self.falls_after(done, math.inf):
            self.save_trunk(done)
        if self.trainer.execution.checkpoint_seconds < math.inf:
            self.save(done)
        return done

    def until_due(self, done: Counters, stop: list[int]) -> tuple[Counters, bool]:
        """Step until an evaluation is due, or the next step would end further from `train_tokens` than the last one
        did; and whether that is so."""
        recipe, execution, saved = self.trainer.recipe, self.trainer.execution, time.monotonic()
        stream = batches(
            self.data,
            batch_pairs=recipe.batch_pairs,
            seed=recipe.seed,
            start=Position(done.epoch, done.batch),
            unique_pairs=recipe.unique_pairs,
            options=recipe.options,
        )
        for after, batch in stream:
            if is_spent(done.step, done.tokens, batch.tokens, recipe.train_tokens):
                return done, True
            if self.falls_after(done, batch.tokens):
                self.save_trunk(done)
            try:
                done = self.trainer.step(done, batch, after, self.callbacks)
            except DivergedError as error:
                self.save(done)
                raise DivergedError(f"{error} The weights before that step are kept in {self.folder}.") from None
            flags = (bool(stop), time.monotonic() - saved >= execution.checkpoint_seconds)
            # the ranks stop and save together or hang
            stopping, due = (largest(int(flag), self.trainer.device) for flag in flags)
            if stopping or due:
                self.save(done)
                saved = time.monotonic()
            if stopping:
                raise StoppedError(
                    f"Stopped by a signal after step {done.step}; the same command goes on with `resume`."
                )
            if self.evaluations.due(done):
                break
        return done, False

    def falls_after(self, done: Counters, more: float) -> bool:
        """Whether no step's rate has fallen yet and that of the next one, of `more` tokens, does; it goes by a step's
        middle."""
        trunk = self.trainer.recipe.trunk_tokens
        if trunk is None or not done.step:
            return False
        before = self.losses[-2].tokens if done.step > 1 else 0
        return before + done.tokens <= 2 * trunk < 2 * done.tokens + more

    def save(self, done: Counters) -> None:
        """Checkpoint; every rank calls it."""
        self.write(done, self.folder)

    def save_trunk(self, done: Counters) -> None:
        """The checkpoint before the rate falls, in the place of any that lies there; every rank calls it."""
        if rank() == 0:
            remove(self.folder / TRUNK)
        self.write(done, self.folder / TRUNK)

    def write(self, done: Counters, folder: Path) -> None:
        trainer = self.trainer
        counted = {"losses": tuple(self.losses), "evaluations": tuple(self.evaluations.points)}
        state = self.fresh.model_copy(update={**dict(done), **counted})
        others = {"best": self.evaluations.best_weights, "average": self.average.weights}
        keep = trainer.execution.keep_checkpoints
        save_checkpoint(folder, state, trainer.encoder, trainer.optimizer, keep=keep, others=others)


def _heldout(trainer: Trainer, data: PairData) -> Heldout | None:
    return heldout_loss(
        trainer.encoder,
        data,
        temperature=trainer.recipe.temperature,
        batch_tokens=trainer.memory.mini_batch_tokens,
        bf16=trainer.bf16,
    )


def _check(recipe: Recipe, data: PairData, folder: Path, execution: Execution) -> None:
    check_trained(recipe)
    if recipe.data.fingerprint is not None and recipe.data.fingerprint != data.stats.fingerprint:
        raise InputError(
            f"The recipe was made for other data ({recipe.data.fingerprint}, these are {data.stats.fingerprint}); "
            "make the recipe anew from these data."
        )
    order_of(data, recipe.options, batch_pairs=recipe.batch_pairs, seed=recipe.seed, unique_pairs=recipe.unique_pairs)
    check_evaluated(recipe, data)
    if execution.shard and world() == 1:
        raise InputError(
            "`shard` needs at least two processes to shard over; got 1. Start with torchrun --nproc-per-node N, "
            "or leave it out."
        )
    if recipe.options.teacher is not None and world() > 1:
        raise InputError(f"A run with a teacher must be one process; got {world()}. Start it without torchrun.")
    if execution.compile:
        check_compiler(execution.torch_device())
    if recipe.batch_pairs % world():
        raise InputError(f"`batch_pairs` must be a multiple of the {world()} processes; got {recipe.batch_pairs}.")
    if not execution.resume and any(folder.glob("step-*")):
        raise InputError(f"{folder} already holds checkpoints; go on with `resume` or give another `out`.")
