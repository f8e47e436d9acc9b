"""Symmetric in-batch contrastive loss (Ziarko et al. 2024, section 3.3; InfoNCE of van den Oord et al. 2018).

The B x B logits are never there as a whole: at 16,384 pairs they would be 1 GiB, and autograd would keep several.
They are made a tile of rows at a time, and again in the backward pass: a product that is small beside the model's.

Shape legend: B pairs of the global batch, R rows of a tile, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: logits of one tile at most: 4 MiB in fp32, so that a batch of 1,024 is one tile
TILE_LOGITS = 1 << 20


def contrastive_loss(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    temperature: float,
    query_hash_B: torch.Tensor | None = None,
    positive_hash_B: torch.Tensor | None = None,
    *,
    tile_logits: int = TILE_LOGITS,
) -> torch.Tensor:
    """Mean over the batch of (cross-entropy over rows + cross-entropy over columns) / 2, in nats, computed in fp32.

    1. logits[i, j] = cos(query_i, positive_j) / temperature; both sides are L2-normalised here, so that the loss does
       not depend on whether the caller did.
    2. A pair j whose positive, or whose query, is the same text as pair i's is no negative of i: its logit is left out
       of both sums.  The hashes (int64, equal where the texts are equal) say so; None masks nothing.
    3. The target of row i and of column i is i.

    `tile_logits` bounds the memory of a tile and changes the result by no more than rounding.  The gradient is itself
    not differentiable.
    """
    query_BD = functional.normalize(query_BD.float(), dim=-1)
    positive_BD = functional.normalize(positive_BD.float(), dim=-1)
    hashes = tuple(hash_B for hash_B in (query_hash_B, positive_hash_B) if hash_B is not None)
    loss: torch.Tensor = _SymmetricCrossEntropy.apply(query_BD, positive_BD, temperature, hashes, tile_logits)  # type: ignore[no-untyped-call]
    return loss


class _SymmetricCrossEntropy(torch.autograd.Function):
    """Step 2 and 3 on unit vectors.  With S the logits, and the sum of exponentials of row i (r_i) and column j (c_j):

    loss        = mean_i (ln r_i + ln c_i - 2 S_ii) / 2
    dloss/dS_ij = (exp(S_ij) / r_i + exp(S_ij) / c_j) / 2B - [i = j] / B

    Largest logits and logarithms of sums are held apart: at temperature 0.025 their total would lose two digits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: torch.Tensor,
        positive_BD: torch.Tensor,
        temperature: float,
        hashes: tuple[torch.Tensor, ...],
        tile_logits: int,
    ) -> torch.Tensor:
        pairs = len(query_BD)
        row_top_B, row_sum_B, right_B = (query_BD.new_empty(pairs) for _ in range(3))
        # no logit is lower, and a column of which all has been masked so far has a finite start
        column_top_B, column_sum_B = query_BD.new_full((pairs,), -1 / temperature), query_BD.new_zeros(pairs)
        for rows, logits_RB in _tiles(query_BD, positive_BD, temperature, hashes, tile_logits):
            row_top_B[rows] = logits_RB.amax(1)
            row_sum_B[rows] = (logits_RB - row_top_B[rows, None]).exp_().sum(1)
            before_B, column_top_B = column_top_B, torch.maximum(column_top_B, logits_RB.amax(0))
            column_sum_B = column_sum_B * (before_B - column_top_B).exp() + (logits_RB - column_top_B).exp_().sum(0)
            right_B[rows] = logits_RB[:, rows].diagonal()
        row_log_B, column_log_B = row_sum_B.log_(), column_sum_B.log_()
        ctx.save_for_backward(query_BD, positive_BD, row_top_B, row_log_B, column_top_B, column_log_B, *hashes)
        ctx.settings = (temperature, tile_logits)
        return ((row_log_B - (right_B - row_top_B)) + (column_log_B - (right_B - column_top_B))).mean() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BD, positive_BD, row_top_B, row_log_B, column_top_B, column_log_B, *hashes = ctx.saved_tensors
        temperature, tile_logits = ctx.settings
        scale = upstream / (temperature * len(query_BD))
        query_grad_BD, positive_grad_BD = torch.empty_like(query_BD), torch.zeros_like(positive_BD)
        for rows, logits_RB in _tiles(query_BD, positive_BD, temperature, hashes, tile_logits):
            by_column_RB = (logits_RB - column_top_B).sub_(column_log_B).exp_()
            slope_RB = logits_RB.sub_(row_top_B[rows, None]).sub_(row_log_B[rows, None]).exp_()
            slope_RB.add_(by_column_RB).mul_(0.5)
            slope_RB[:, rows].diagonal().sub_(1.0)
            slope_RB.mul_(scale)
            query_grad_BD[rows] = slope_RB @ positive_BD
            positive_grad_BD.addmm_(slope_RB.T, query_BD[rows])
        return query_grad_BD, positive_grad_BD, None, None, None


def _tiles(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    temperature: float,
    hashes: tuple[torch.Tensor, ...] | list[torch.Tensor],
    tile_logits: int,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, their logits against every positive), top to bottom; what is no negative is -inf."""
    pairs = len(query_BD)
    size = max(1, tile_logits // pairs)
    for start in range(0, pairs, size):
        rows = slice(start, min(start + size, pairs))
        logits_RB = query_BD[rows] @ positive_BD.T / temperature
        if hashes:
            same_RB = torch.zeros_like(logits_RB, dtype=torch.bool)
            for hash_B in hashes:
                same_RB |= hash_B[rows, None] == hash_B[None, :]
            same_RB[:, rows].fill_diagonal_(False)
            logits_RB.masked_fill_(same_RB, -torch.inf)
        yield rows, logits_RB
