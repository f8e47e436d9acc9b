"""What a run does on held-out pairs as it goes: when it is taken, when it ends the run, and the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from isoembed.core import InputError
from isoembed.data.dataset import PairData
from isoembed.encoder.encoder import Encoder
from isoembed.recipe import EarlyStopping, Recipe
from isoembed.records import Heldout, HeldoutPoint
from isoembed.training.checkpoint import Counters, Tensors, trainable_of
from isoembed.training.distributed import rank, total
from isoembed.training.sharding import part_like, whole


def check_evaluated(recipe: Recipe, data: PairData) -> None:
    """Raise InputError where a run that goes by held-out pairs has none."""
    if recipe.early_stopping.evaluates and len(data.heldout) < 2:
        raise InputError("`keep=best` and `patience` go by held-out pairs, and the data leave none; give `heldout`.")


class Evaluations:
    """What the held-out loss was during a run and at its end, and of the best one the weights where they are to be
    kept: whole, on the CPU, on every rank.  All ranks go by the first one's losses.

    `best_weights` are those that a checkpoint held.
    """

    def __init__(
        self,
        rule: EarlyStopping,
        encoder: Encoder,
        measure: Callable[[], Heldout | None],
        points: Sequence[HeldoutPoint] = (),
        best_weights: Tensors | None = None,
    ) -> None:
        self.rule, self.encoder, self.measure = rule, encoder, measure
        self.points, self.best_weights = [*points], best_weights
        self._last: Heldout | None = None

    @property
    def best(self) -> HeldoutPoint:
        """The first one of least loss, or of greatest MRR."""
        if self.rule.metric_for_best_model == "mrr":
            return max(self.points, key=lambda point: point.mrr or 0.0)
        return min(self.points, key=lambda point: point.loss)

    def due(self, done: Counters) -> bool:
        """Whether the loss is to be taken where the run stands, and was not yet."""
        if not self.rule.evaluates or not done.step or self._taken(done):
            return False
        return done.batch == 0 if self.rule.eval_steps is None else done.step % self.rule.eval_steps == 0

    def out_of_patience(self) -> bool:
        """Whether the last evaluations were as many without a better one as the run has patience."""
        if self.rule.patience is None or not self.points:
            return False
        return len(self.points) - 1 - self.points.index(self.best) >= self.rule.patience

    def take(self, done: Counters) -> Heldout | None:
        """The held-out loss where the run stands, noted where the recipe evaluates; None where nothing is held out."""
        if self._last is not None and self._taken(done):
            return self._last
        began = time.perf_counter()
        found = self.measure()
        if found is None or not self.rule.evaluates:
            return found
        device = next(self.encoder.parameters()).device
        firsts = {name: getattr(found, name) for name in ("loss", "mrr") if getattr(found, name) is not None}
        found = found.model_copy(
            update={name: total(value if rank() == 0 else 0.0, device) for name, value in firsts.items()}
        )
        self._last = found
        if self._taken(done):
            return found
        seconds = time.perf_counter() - began
        self.points.append(
            HeldoutPoint(step=done.step, tokens=done.tokens, loss=found.loss, mrr=found.mrr, seconds=seconds)
        )
        if self.rule.keep == "best" and self.best.step == done.step:
            self.best_weights = {
                name: whole(value.detach()).to("cpu", copy=True) for name, value in trainable_of(self.encoder).items()
            }
        return found

    def kept(self, last: Heldout | None) -> tuple[Heldout | None, int | None]:
        """What the weights that the recipe keeps do, where those at the end did `last`, and the step that they are of
        where that is not the last one; they are put back."""
        if last is None or self.best_weights is None or self.best.step == self.points[-1].step:
            return last, None
        with torch.no_grad():
            for name, parameter in trainable_of(self.encoder).items():
                parameter.copy_(part_like(self.best_weights[name], parameter))
        return last.model_copy(update={"loss": self.best.loss, "mrr": self.best.mrr}), self.best.step

    def _taken(self, done: Counters) -> bool:
        return bool(self.points) and self.points[-1].step == done.step
