"""Losses of others beside ours, and another average of the weights: what `quality.py` tries in the place of
`isoembed.training.loss.contrastive_loss` and of the moving average.

They are no options of isoembed: what loses at equal compute, or is not distinguishable from the plain loss, stays here.

Shape legend: B pairs of the batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch.nn import functional

from isoembed.recipe import Recipe
from isoembed.training.average import WeightAverage
from isoembed.training.callbacks import StepFacts
from isoembed.training.loss import contrastive_loss


def trial_loss(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    temperature: float,
    query_hash_B: torch.Tensor,
    positive_hash_B: torch.Tensor,
    *,
    same_side: bool = False,
    spread_out: float = 0.0,
    **others: object,
) -> torch.Tensor:
    """The symmetric loss with one thing more, in nats.

    same_side: a query is told apart from the other queries too, a positive from the other positives (Li et al. 2023,
    GTE, arXiv 2308.03281, section 3.3).
    spread_out: weight of the mean squared cosine of two queries and of two positives (Zhang et al. 2017, arXiv
    1708.06320).
    """
    assert others.get("negative_MD") is None, "these losses know no hard negatives"
    assert not others.get("hardness_strength"), "these losses weigh no negatives"
    assert others.get("guide") is None, "these losses leave nothing out by its score"
    query_BD, positive_BD = (functional.normalize(side.float(), dim=-1) for side in (query_BD, positive_BD))
    same_BB = (query_hash_B[:, None] == query_hash_B) | (positive_hash_B[:, None] == positive_hash_B)
    own_BB = torch.eye(len(query_BD), dtype=torch.bool)
    across_BB, queries_BB, positives_BB = query_BD @ positive_BD.T, query_BD @ query_BD.T, positive_BD @ positive_BD.T

    def logits(cosine_BB: torch.Tensor, hidden_BB: torch.Tensor) -> torch.Tensor:
        return (cosine_BB / temperature).masked_fill(hidden_BB, -torch.inf)

    rows_BB, columns_BB = logits(across_BB, same_BB & ~own_BB), logits(across_BB.T, same_BB & ~own_BB)
    if same_side:
        rows_BB = torch.cat([rows_BB, logits(queries_BB, same_BB)], dim=1)
        columns_BB = torch.cat([columns_BB, logits(positives_BB, same_BB)], dim=1)
    target_B = torch.arange(len(query_BD))
    loss = (functional.cross_entropy(rows_BB, target_B) + functional.cross_entropy(columns_BB, target_B)) / 2
    if spread_out:
        loss = loss + spread_out * (queries_BB[~own_BB].square().mean() + positives_BB[~own_BB].square().mean())
    return loss


TRIALS: dict[str, Callable[..., torch.Tensor]] = {
    "same-side negatives": partial(trial_loss, same_side=True),
    "spread-out": partial(trial_loss, spread_out=1.0),
}

#: of the steps: where the checkpoints lie that are averaged with the last step's weights
CHECKPOINTS = (0.8, 0.85, 0.9, 0.95)
LAST = f"mean of the last {len(CHECKPOINTS) + 1} checkpoints"


class LastCheckpoints(WeightAverage):
    """The plain mean of the weights at `CHECKPOINTS` of the steps (latest weight averaging; Kaddour 2022, arXiv
    2209.14981), for runs that nobody interrupts."""

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.at = [round(share * recipe.steps) for share in CHECKPOINTS]
        self.taken = 0

    def step(self, facts: StepFacts) -> None:
        if facts.step in self.at:
            self._take()

    def end(self) -> None:
        self._take()

    @torch.no_grad()
    def _take(self) -> None:
        self.taken += 1
        for name, value in self.trained.items():
            self.weights[name].lerp_(value.detach(), 1 / self.taken)


@contextmanager
def in_place(name: str) -> Iterator[None]:
    """Within, training minimises the trial loss of that name, or keeps the trial average; where none has it, what it
    does anyway."""
    average = LastCheckpoints if name == LAST else WeightAverage
    with (
        patch("isoembed.training.objective.contrastive_loss", TRIALS.get(name, contrastive_loss)),
        patch("isoembed.training.loop.WeightAverage", average),
    ):
        yield
