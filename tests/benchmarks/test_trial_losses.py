"""What is tried beside the contrastive loss differs from it in the one thing that its name says."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from isoembed.training import objective
from isoembed.training.loss import contrastive_loss

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEMPERATURE = 0.1


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("trial_losses")


def dot(left: list[float], right: list[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


def batch() -> tuple[torch.Tensor, ...]:
    """Eight pairs, of which two have the same query."""
    torch.manual_seed(0)
    query, positive = (functional.normalize(torch.randn(8, 5), dim=1) for _ in range(2))
    return query, positive, torch.tensor([0, 0, 2, 3, 4, 5, 6, 7]), torch.arange(10, 18)


def one_by_one() -> float:
    """The loss with negatives of the same side from its sums, term by term."""
    query, positive, query_hash, positive_hash = (side.tolist() for side in batch())
    total = 0.0
    for left, right in ((query, positive), (positive, query)):
        for i in range(8):
            others = [j for j in range(8) if query_hash[i] != query_hash[j] and positive_hash[i] != positive_hash[j]]
            negatives = [dot(left[i], right[j]) for j in others]
            negatives += [dot(left[i], left[j]) for j in others]
            own = dot(left[i], right[i]) / TEMPERATURE
            rest = sum(math.exp(cosine / TEMPERATURE) for cosine in negatives)
            total += math.log(math.exp(own) + rest) - own
    return total / 16


def test_with_nothing_more_it_is_our_loss(trials: ModuleType) -> None:
    query, positive, *hashes = batch()
    ours = contrastive_loss(query, positive, TEMPERATURE, *hashes)
    assert trials.trial_loss(query, positive, TEMPERATURE, *hashes).item() == pytest.approx(ours.item(), abs=1e-6)


def test_negatives_are_added_as_the_formula_says(trials: ModuleType) -> None:
    query, positive, *hashes = batch()
    found = trials.trial_loss(query, positive, TEMPERATURE, *hashes, same_side=True)
    assert found.item() == pytest.approx(one_by_one(), rel=1e-5)


def test_spreading_out_adds_the_mean_squared_cosine_of_each_side(trials: ModuleType) -> None:
    query, positive, *hashes = batch()
    plain, spread = (
        trials.trial_loss(query, positive, TEMPERATURE, *hashes, spread_out=weight) for weight in (0.0, 2.0)
    )
    apart = ~torch.eye(8, dtype=torch.bool)
    expected = sum((side @ side.T)[apart].square().mean().item() for side in (query, positive))
    assert (spread - plain).item() == pytest.approx(2 * expected, rel=1e-4)


def test_it_stands_in_for_the_loss_only_within(trials: ModuleType) -> None:
    with trials.in_place("spread-out"):
        assert vars(objective)["contrastive_loss"] is trials.TRIALS["spread-out"]
    assert vars(objective)["contrastive_loss"] is contrastive_loss
