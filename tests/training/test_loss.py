"""The contrastive loss against sentence-transformers' own, and the traps of half precision and duplicates."""

import pytest
import torch
from sentence_transformers import util
from torch.nn import functional

from isoembed.training.loss import contrastive_loss


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_hand_computed() -> None:
    # logits [[1, 0], [0, 1]] / 0.5: each row and column loses log(1 + e^-2)
    eye = torch.eye(2)
    expected = torch.log1p(torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(contrastive_loss(eye, eye, 0.5), expected)


def test_equals_the_peers_symmetric_loss() -> None:
    query, positive = unit(7, 5, 0), unit(7, 5, 1)
    scores = util.cos_sim(query, positive) / 0.025
    target = torch.arange(7)
    expected = (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(query, positive, 0.025), expected)


def test_scale_of_the_embeddings_does_not_matter() -> None:
    query, positive = unit(4, 3, 0), unit(4, 3, 1)
    torch.testing.assert_close(contrastive_loss(3 * query, positive / 7, 0.1), contrastive_loss(query, positive, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_stay_finite(dtype: torch.dtype) -> None:
    """Trap 4: at tau = 0.025 a half-precision softmax of identical pairs overflows or gives zero."""
    query = unit(8, 16, 0).to(dtype).requires_grad_()
    loss = contrastive_loss(query, query.detach().clone(), 0.025)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.dtype == torch.float32
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_temperature_changes_the_loss() -> None:
    query, positive = unit(6, 4, 0), unit(6, 4, 1)
    assert contrastive_loss(query, positive, 0.025) != contrastive_loss(query, positive, 0.05)


@pytest.mark.parametrize("side", ["query", "positive"])
def test_same_text_is_no_negative(side: str) -> None:
    """Trap 20: pairs 0 and 2 share a text; the loss is that of the batch in which they never meet."""
    query, positive = unit(4, 3, 0), unit(4, 3, 1)
    shared = torch.tensor([9, 1, 9, 3])
    distinct = torch.arange(4)
    hashes = (shared, distinct) if side == "query" else (distinct, shared)
    scores = query @ positive.T / 0.1
    scores[0, 2] = scores[2, 0] = float("-inf")
    expected = (functional.cross_entropy(scores, distinct) + functional.cross_entropy(scores.T, distinct)) / 2
    torch.testing.assert_close(contrastive_loss(query, positive, 0.1, *hashes), expected)
    assert contrastive_loss(query, positive, 0.1) > expected


def test_a_batch_of_one_text_only_has_no_negatives() -> None:
    query, positive = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1)
    loss = contrastive_loss(query, positive, 0.025, torch.zeros(3), torch.zeros(3))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()
