"""The contrastive loss against sentence-transformers' own, and the traps of half precision and duplicates."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn import functional

import isoembed.training.loss as loss_module
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


def with_every_logit(
    query: torch.Tensor,
    positive: torch.Tensor,
    temperature: float,
    *hashes: torch.Tensor,
    negative: torch.Tensor | None = None,
    no_negative: torch.Tensor | None = None,
    hardness: float = 0.0,
) -> torch.Tensor:
    """The loss as everybody writes it, from the whole matrix; `no_negative` (B, M) says which hard negatives are none
    of a query."""
    query, positive = functional.normalize(query, dim=-1), functional.normalize(positive, dim=-1)
    cosine = query @ positive.T
    scores = cosine / temperature + hardness * cosine.detach().masked_fill(torch.eye(len(query)).bool(), 0.0)
    same = torch.zeros_like(scores, dtype=torch.bool)
    for texts in hashes:
        same |= texts[:, None] == texts[None, :]
    scores = scores.masked_fill(same.fill_diagonal_(False), float("-inf"))
    target = torch.arange(len(scores))
    rows = scores
    if negative is not None:
        cosine = query @ functional.normalize(negative, dim=-1).T
        hard = cosine / temperature + hardness * cosine.detach()
        hard = hard if no_negative is None else hard.masked_fill(no_negative, float("-inf"))
        rows = torch.cat([scores, hard], 1)
    return (functional.cross_entropy(rows, target) + functional.cross_entropy(scores.T, target)) / 2


def with_gradients(loss_of: Callable[..., torch.Tensor], *sides: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    leaves = [side.clone().requires_grad_() for side in sides]
    loss = loss_of(*leaves)
    loss.backward()
    return loss.item(), [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("tile_logits", [1, 37 * 5, 37 * 36, 1 << 20], ids=["a row", "ragged", "one left", "all"])
@pytest.mark.parametrize("duplicates", [False, True])
def test_tiles_give_the_gradient_of_the_whole(tile_logits: int, duplicates: bool) -> None:
    """Value and gradient, to 1e-6, whatever the tiles; embeddings of any length."""
    query, positive = (3 * unit(37, 16, seed) + unit(37, 16, 9) for seed in (0, 1))
    hashes = (torch.arange(37) % 30, torch.arange(37) // 2) if duplicates else ()
    expected, slopes = with_gradients(lambda q, p: with_every_logit(q, p, 0.025, *hashes), query, positive)
    found, tiled = with_gradients(
        lambda q, p: contrastive_loss(q, p, 0.025, *hashes, tile_logits=tile_logits), query, positive
    )
    assert found == pytest.approx(expected, rel=1e-6)
    for left, right in zip(slopes, tiled, strict=True):
        assert float(left.abs().max()) > 1e-3
        torch.testing.assert_close(right, left, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hardness", [0.0, 5.0])
@pytest.mark.parametrize("tile_logits", [1, 60 * 5, 1 << 20], ids=["a row", "ragged", "all"])
def test_hard_negatives_give_the_gradient_of_the_whole(tile_logits: int, hardness: float) -> None:
    """37 pairs with 23 hard negatives, of which some are texts of a query, its own positive, or another positive of the
    same query."""
    query, positive = (3 * unit(37, 16, seed) + unit(37, 16, 9) for seed in (0, 1))
    negative = query[:23] + 2 * unit(23, 16, 2)
    queries, positives = torch.arange(37) % 30, 100 + torch.arange(37)
    negatives = 200 + torch.arange(23)
    negatives[:4] = torch.tensor([5, 105, 132, 136])  # query 5 and 35; positives of pairs 5, 32 and 36
    left_out = torch.zeros(37, 23, dtype=torch.bool)
    for row, column in ((5, 0), (35, 0), (5, 1), (35, 1), (2, 2), (32, 2), (6, 3), (36, 3)):
        left_out[row, column] = True
    expected, slopes = with_gradients(
        lambda q, p, n: with_every_logit(
            q, p, 0.05, queries, positives, negative=n, no_negative=left_out, hardness=hardness
        ),
        query,
        positive,
        negative,
    )
    found, tiled = with_gradients(
        lambda q, p, n: contrastive_loss(
            q,
            p,
            0.05,
            queries,
            positives,
            negative_MD=n,
            negative_hash_M=negatives,
            hardness_strength=hardness,
            tile_logits=tile_logits,
        ),
        query,
        positive,
        negative,
    )
    assert found == pytest.approx(expected, rel=1e-6)
    for left, right in zip(slopes, tiled, strict=True):
        assert float(left.abs().max()) > 1e-3
        torch.testing.assert_close(right, left, rtol=0, atol=1e-6)


def test_equals_the_peers_loss_with_hard_negatives() -> None:
    """Two a pair: sentence-transformers' loss over all documents for the queries, and over the queries for the
    positives, computed by its own class."""
    sides = [unit(6, 5, seed) for seed in range(4)]
    peer = MultipleNegativesRankingLoss(
        torch.nn.Module(),  # type: ignore[arg-type]
        scale=20.0,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    expected = peer.compute_loss_from_embeddings(sides, torch.empty(0))
    found = contrastive_loss(sides[0], sides[1], 0.05, negative_MD=torch.cat(sides[2:]))
    torch.testing.assert_close(found, expected)


def test_equals_the_peers_loss_with_hardness() -> None:
    """Its class weighs the documents of a query alone: each direction is asked of it apart."""
    query, positive, negative = unit(6, 5, 0), unit(6, 5, 1), unit(6, 5, 2)

    def peer(*sides: torch.Tensor) -> torch.Tensor:
        loss = MultipleNegativesRankingLoss(
            torch.nn.Module(),  # type: ignore[arg-type]
            scale=20.0,
            hardness_mode="all_negatives",
            hardness_strength=9.0,
        )
        return loss.compute_loss_from_embeddings(list(sides), torch.empty(0))

    found = contrastive_loss(query, positive, 0.05, negative_MD=negative, hardness_strength=9.0)
    torch.testing.assert_close(found, (peer(query, positive, negative) + peer(positive, query)) / 2)


def test_hardness_pushes_the_nearest_negative_the_most() -> None:
    """Two negatives of one query, at cosines .8 and .2: what is pushed at the first grows, at the second it shrinks."""
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.19**0.5]])
    negative = torch.tensor([[0.8, 0.6], [0.2, 0.96**0.5]])

    def pushed(hardness: float) -> list[float]:
        leaf = negative.clone().requires_grad_()
        contrastive_loss(query, positive, 0.1, negative_MD=leaf, hardness_strength=hardness).backward()
        assert leaf.grad is not None
        return [float(norm) for norm in leaf.grad.norm(dim=1)]

    (near, far), (weighed_near, weighed_far) = pushed(0.0), pushed(9.0)
    assert weighed_near > 2 * near
    assert weighed_far / weighed_near < 0.1 * far / near


def test_gradient_carries_what_flows_in_from_above() -> None:
    query, positive = unit(5, 4, 0), unit(5, 4, 1)
    _, once = with_gradients(lambda q, p: contrastive_loss(q, p, 0.5), query, positive)
    _, thrice = with_gradients(lambda q, p: 3 * contrastive_loss(q, p, 0.5), query, positive)
    for left, right in zip(once, thrice, strict=True):
        torch.testing.assert_close(right, 3 * left)


def test_as_exact_as_log_softmax() -> None:
    """Where pairs are easily told apart, a loss of 1e-3 is the difference of two numbers near 30."""
    query = unit(64, 32, 0)
    positive = functional.normalize(query + unit(64, 32, 1), dim=-1)
    exact = with_every_logit(query.double(), positive.double(), 0.025).item()
    assert 1e-4 < exact < 1e-2
    assert contrastive_loss(query, positive, 0.025).item() == pytest.approx(exact, rel=1e-4)


def test_logits_are_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 pairs: no tensor that autograd keeps, or that is alive in the backward pass, is as large as B x B."""
    sizes: list[int] = []
    tiles = loss_module._tiles

    def watched(*arguments: Any) -> Iterator[tuple[slice, torch.Tensor]]:
        for rows, logits in tiles(*arguments):
            sizes.extend(value.numel() for value in gc.get_objects() if type(value) is torch.Tensor)
            yield rows, logits

    monkeypatch.setattr(loss_module, "_tiles", watched)
    query, positive = (unit(4096, 8, seed).requires_grad_() for seed in (0, 1))
    contrastive_loss(query, positive, 0.05, torch.arange(4096)).backward()
    assert query.grad is not None
    assert max(sizes) == 1 << 20


@pytest.mark.parametrize("tile", [1 << 20, 12])
def test_a_guide_judges_in_place_of_the_model(tile: int) -> None:
    """GISTEmbed: another model's similarities say what is left out, of rows and of columns; hard negatives stay."""
    query, positive, negative = unit(6, 16, 0), unit(6, 16, 1), unit(3, 16, 2)
    guide = unit(6, 4, 3), unit(6, 4, 4)
    query.requires_grad_()
    score = functional.normalize(guide[0], dim=1) @ functional.normalize(guide[1], dim=1).T
    own = score.diagonal()
    logits = functional.normalize(query, dim=1) @ functional.normalize(torch.cat([positive, negative]), dim=1).T / 0.1
    row, column = logits.clone(), logits[:, :6].clone()
    row[:, :6] = row[:, :6].masked_fill((score > own[:, None]), -torch.inf)
    column = column.masked_fill((score > own[None, :]), -torch.inf)
    assert (row == -torch.inf).any()
    assert (column == -torch.inf).any()
    target = torch.arange(6)
    expected = (functional.cross_entropy(row, target) + functional.cross_entropy(column.T, target)) / 2
    (expected_grad,) = torch.autograd.grad(expected, query)
    found = contrastive_loss(query, positive, 0.1, negative_MD=negative, guide=guide, tile_logits=tile)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, query)[0], expected_grad)
