"""What a recipe's options make of the loss of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isoembed.core import InputError
from isoembed.data.batches import Batch
from isoembed.methods import Full
from isoembed.options import Options, Teacher
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.training.loss import contrastive_loss
from isoembed.training.objective import Objective
from tests.training.small import MODEL

CPU = torch.device("cpu")


def embeddings(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


def batch(pairs: int, negatives: int) -> Batch:
    """Only the hashes matter here; pairs 0 and 1 share a positive."""
    texts = np.arange(2 * pairs + negatives).astype(np.uint64)
    texts[pairs + 1] = texts[pairs]
    return Batch([], [], texts[:pairs], texts[pairs : 2 * pairs], [], texts[2 * pairs :])


def test_matryoshka_is_the_mean_over_the_whole_and_its_prefixes() -> None:
    query, positive, negative = embeddings(6, 0), embeddings(6, 1), embeddings(5, 2)
    hashes = torch.arange(6), torch.tensor([6, 6, 8, 9, 10, 11])
    expected = torch.stack(
        [
            contrastive_loss(query[:, :dim], positive[:, :dim], 0.1, *hashes, negative_MD=negative[:, :dim])
            for dim in (16, 8, 4)
        ]
    ).mean()
    found = Objective(0.1, Options(matryoshka=(4, 8))).of(batch(6, 5), CPU)(query, positive, negative)
    torch.testing.assert_close(found, expected)
    assert found != pytest.approx(Objective(0.1).of(batch(6, 5), CPU)(query, positive, negative).item(), rel=1e-3)


def test_the_hardness_that_is_asked_for_weighs_the_negatives() -> None:
    query, positive, negative = embeddings(6, 0), embeddings(6, 1), embeddings(5, 2)
    hashes = torch.arange(6), torch.tensor([6, 6, 8, 9, 10, 11])
    found = Objective(0.1, Options(hardness_strength=5)).of(batch(6, 5), CPU)(query, positive, negative)
    expected = contrastive_loss(query, positive, 0.1, *hashes, negative_MD=negative, hardness_strength=5)
    torch.testing.assert_close(found, expected)
    assert found.item() != pytest.approx(
        Objective(0.1).of(batch(6, 5), CPU)(query, positive, negative).item(), rel=0.01
    )


@pytest.mark.parametrize("strength", [-1, 101, float("nan")])
def test_a_hardness_that_no_run_can_have_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match="`hardness_strength` must be from 0 to 100"):
        Options(hardness_strength=strength)
    with pytest.raises(InputError, match="has no part at `teacher_weight` 1"):
        Options(hardness_strength=5, teacher=Teacher(source="t", weights="0", params=1, width=8, context=8))


def test_fillers_behind_the_negatives_do_not_count() -> None:
    """A rank with fewer hard negatives than the others embeds one twice."""
    query, positive, negative = embeddings(6, 0), embeddings(6, 1), embeddings(5, 2)
    loss = Objective(0.1).of(batch(6, 5), CPU)
    torch.testing.assert_close(
        loss(query, positive, torch.cat([negative, negative[:1]])), loss(query, positive, negative)
    )


def planned(*dims: int) -> Recipe:
    return solve(
        1e10,
        family="nano",
        model=MODEL,
        method=Full(),
        data=DataStats(),
        setup=Setup(batch_pairs=16, context_tokens=32, options=Options(matryoshka=dims)),
        learning_rate=1e-3,
    )


def test_dimensions_are_part_of_the_key_whatever_their_order() -> None:
    assert planned(8, 16).key == planned(16, 8, 8).key != planned(8).key != planned().key
    with pytest.raises(InputError, match="matryoshka"):
        planned(8, MODEL.hidden)
