"""An average of a run's weights, kept beside them and exported in their place: the exponential moving average (EMA).

After step t it moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to the weights, so that the first ones, which lie
near the base, soon count for nothing (TensorFlow's ExponentialMovingAverage with `num_updates`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from isoembed.encoder.encoder import Encoder
from isoembed.recipe import Recipe
from isoembed.training.callbacks import StepFacts
from isoembed.training.checkpoint import Tensors, trainable_of
from isoembed.training.sharding import part_like


class WeightAverage:
    """A callback that follows the trained weights of `encoder`; without a `decay` it does nothing.

    `weights` are those of a checkpoint, whole; None where the run begins.
    """

    def __init__(self, encoder: Encoder, decay: float | None, weights: Tensors | None = None) -> None:
        self.decay = decay
        self.trained = {} if decay is None else trainable_of(encoder)
        self.weights = {
            name: value.detach().clone() if weights is None else part_like(weights[name], value.detach()).clone()
            for name, value in self.trained.items()
        }

    def start(self, recipe: Recipe, step: int, tokens: int) -> None: ...

    @torch.no_grad()
    def step(self, facts: StepFacts) -> None:
        if self.decay is None:
            return
        decay = min(self.decay, (1 + facts.step) / (10 + facts.step))
        trained = [value.detach() for value in self.trained.values()]
        get_ema_multi_avg_fn(decay)([*self.weights.values()], trained, facts.step)

    def end(self) -> None: ...

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the body the encoder has the average for its weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average in the place of the weights and these in its place, a tensor at a time."""
        for name, value in self.trained.items():
            before = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(before)
