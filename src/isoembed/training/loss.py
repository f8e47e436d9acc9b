"""Symmetric in-batch contrastive loss (Ziarko et al. 2024, section 3.3; InfoNCE of van den Oord et al. 2018), with hard
negatives where the data bring some.

The logits are never there as a whole: at 16,384 pairs they would be 1 GiB, and autograd would keep several.  They are
made a tile of rows at a time, and again in the backward pass: a product that is small beside the model's.

Shape legend: B pairs of the global batch, M hard negatives of all its pairs, C = B + M candidates of a query, R rows of
a tile, D embedding width, E pairs of equal texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from isoembed.estimates import TILE_LOGITS


def contrastive_loss(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    temperature: float,
    query_hash_B: torch.Tensor | None = None,
    positive_hash_B: torch.Tensor | None = None,
    *,
    negative_MD: torch.Tensor | None = None,
    negative_hash_M: torch.Tensor | None = None,
    guide: tuple[torch.Tensor, torch.Tensor] | None = None,
    hardness_strength: float = 0.0,
    tile_logits: int = TILE_LOGITS,
) -> torch.Tensor:
    """Mean over the batch of (cross-entropy over rows + cross-entropy over columns) / 2, in nats, computed in fp32.

    1. logits[i, j] = cos(query_i, candidate_j) / temperature; all are L2-normalised here, so that the loss does not
       depend on whether the caller did.  The candidates are the B positives and, behind them, the M hard negatives of
       all pairs: each is a negative of every query (Karpukhin et al. 2020, DPR, section 3.2).  Columns are those of the
       positives alone: a hard negative has no query of its own to be told apart.
    2. A pair j whose positive, or whose query, is the same text as pair i's is no negative of i: its logit is left out
       of both sums.  A hard negative is none of query i where it is the same text as that query or as a positive that
       it has in this batch.  The hashes (int64, equal where the texts are equal) say so; None masks nothing.
    3. With `guide`, vectors (B, W) of the queries and the positives by another model, a positive that this finds more
       similar (in cosine) to query i than i's own is taken for a false negative and left out of row i, and a query
       that it finds more similar to positive j than j's own out of column j; hard negatives stay: GISTEmbed (Solatorio
       2024, arXiv 2402.16829).
    4. With `hardness_strength` h a negative counts exp(h cos) times in the sums of its row and column, and this weight
       has no gradient: the nearer a negative, the more it is pushed away (Lan et al. 2025, LLaVE, arXiv 2503.04812,
       equation 5; of hard negatives alone EmbeddingGemma, arXiv 2509.20354, section 2.2).
    5. The target of row i and of column i is i.

    `tile_logits` bounds the memory of a tile and changes the result by no more than rounding.  The gradient is itself
    not differentiable.
    """
    query_BD, positive_BD = (functional.normalize(side.float(), dim=-1) for side in (query_BD, positive_BD))
    candidate_CD = positive_BD
    if negative_MD is not None:
        candidate_CD = torch.cat([positive_BD, functional.normalize(negative_MD.float(), dim=-1)])
    known = None
    if not (negative_MD is None or negative_hash_M is None or query_hash_B is None or positive_hash_B is None):
        known = _no_negatives(query_hash_B, positive_hash_B, negative_hash_M)
    if guide is not None:
        guide = (functional.normalize(guide[0].float(), dim=-1), functional.normalize(guide[1].float(), dim=-1))
    hashes = tuple(hash_B for hash_B in (query_hash_B, positive_hash_B) if hash_B is not None)
    left_out = _LeftOut(hashes, known, guide)
    scores = _Scores(temperature, hardness_strength, tile_logits)
    loss: torch.Tensor = _SymmetricCrossEntropy.apply(query_BD, candidate_CD, scores, left_out)  # type: ignore[no-untyped-call]
    return loss


@dataclass(frozen=True)
class _Scores:
    """How logits come of cosines, and how many there are at a time."""

    temperature: float
    hardness_strength: float
    tile_logits: int

    @property
    def lowest(self) -> float:
        """No logit is lower."""
        return -1 / self.temperature - self.hardness_strength

    def of(self, rows: slice, query_BD: torch.Tensor, candidate_CD: torch.Tensor) -> torch.Tensor:
        """Those of `rows` against every candidate, the weights of the negatives in them."""
        logits_RC = query_BD[rows] @ candidate_CD.T / self.temperature
        if self.hardness_strength:
            own_R = logits_RC[:, rows].diagonal().clone()
            logits_RC.mul_(1 + self.hardness_strength * self.temperature)
            logits_RC[:, rows].diagonal().copy_(own_R)
        return logits_RC


@dataclass(frozen=True)
class _LeftOut:
    """Whose logits are left out of the sums: pairs that share a text; (query, hard negative) by their numbers; and what
    is nearer than a pair's own by the unit vectors of `guide`."""

    hashes: tuple[torch.Tensor, ...]
    known: tuple[torch.Tensor, torch.Tensor] | None
    guide: tuple[torch.Tensor, torch.Tensor] | None

    def by_text(self, logits_RC: torch.Tensor, rows: slice, pairs: int) -> None:
        """In place, in both directions."""
        if self.hashes:
            same_RB = torch.zeros(len(logits_RC), pairs, dtype=torch.bool, device=logits_RC.device)
            for hash_B in self.hashes:
                same_RB |= hash_B[rows, None] == hash_B[None, :]
            same_RB[:, rows].fill_diagonal_(False)
            logits_RC[:, :pairs].masked_fill_(same_RB, -torch.inf)
        if self.known is not None:
            row_E, negative_E = self.known
            here_E = (row_E >= rows.start) & (row_E < rows.stop)
            logits_RC[row_E[here_E] - rows.start, pairs + negative_E[here_E]] = -torch.inf

    def by_score(self, logits_RC: torch.Tensor, rows: slice, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits of the rows' sums, logits of the columns'): the same memory where scores leave nothing out."""
        logits_RB = logits_RC[:, :pairs]
        if self.guide is None:
            return logits_RC, logits_RB
        query_BW, positive_BW = self.guide
        cosine_RB, own_B = query_BW[rows] @ positive_BW.T, (query_BW * positive_BW).sum(1)
        cosine_RB[:, rows].fill_diagonal_(-torch.inf)
        row_RC = logits_RC.clone()
        row_RC[:, :pairs].masked_fill_(cosine_RB > own_B[rows, None], -torch.inf)
        return row_RC, logits_RB.masked_fill(cosine_RB > own_B, -torch.inf)


def _no_negatives(
    query_hash_B: torch.Tensor, positive_hash_B: torch.Tensor, negative_hash_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(query, hard negative) by their numbers where the one's text is the other's, or that of a positive of the query
    in this batch.  As lists, because there are few and a B x M mask would be large."""
    pair_E, negative_E = _equal(positive_hash_B, negative_hash_M)
    which_E, query_E = _equal(query_hash_B[pair_E], query_hash_B)
    itself_E, copy_E = _equal(query_hash_B, negative_hash_M)
    return torch.cat([query_E, itself_E]), torch.cat([negative_E[which_E], copy_E])


def _equal(left_N: torch.Tensor, right_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every (n, k) with left[n] == right[k], by sorting."""
    ordered_K, order_K = right_K.sort()
    first_N, end_N = (torch.searchsorted(ordered_K, left_N, right=right) for right in (False, True))
    count_N = end_N - first_N
    left_E = torch.arange(len(left_N), device=left_N.device).repeat_interleave(count_N)
    place_E = torch.arange(len(left_E), device=left_N.device) - (count_N.cumsum(0) - count_N)[left_E]
    return left_E, order_K[first_N[left_E] + place_E]


class _SymmetricCrossEntropy(torch.autograd.Function):
    """Steps 2 to 5 on unit vectors.  With S the logits, those of negatives with their weights, and the sum of
    exponentials of row i (r_i, over all candidates) and of column j (c_j, over all queries; j a positive), each without
    what is left out of it:

    loss        = mean_i (ln r_i + ln c_i - 2 S_ii) / 2
    dloss/dS_ij = (exp(S_ij) / r_i + [j <= B] exp(S_ij) / c_j) / 2B - [i = j] / B
    dS/dcos     = 1 / temperature, for the weights have no gradient

    Largest logits and logarithms of sums are held apart: at temperature 0.025 their total would lose two digits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: torch.Tensor,
        candidate_CD: torch.Tensor,
        scores: _Scores,
        left_out: _LeftOut,
    ) -> torch.Tensor:
        pairs = len(query_BD)
        row_top_B, row_sum_B, right_B = (query_BD.new_empty(pairs) for _ in range(3))
        # a column of which all has been masked so far has a finite start
        column_top_B, column_sum_B = query_BD.new_full((pairs,), scores.lowest), query_BD.new_zeros(pairs)
        for rows, logits_RC in _tiles(query_BD, candidate_CD, scores, left_out):
            row_RC, column_RB = left_out.by_score(logits_RC, rows, pairs)
            row_top_B[rows] = row_RC.amax(1)
            row_sum_B[rows] = (row_RC - row_top_B[rows, None]).exp_().sum(1)
            before_B, column_top_B = column_top_B, torch.maximum(column_top_B, column_RB.amax(0))
            column_sum_B = column_sum_B * (before_B - column_top_B).exp() + (column_RB - column_top_B).exp_().sum(0)
            right_B[rows] = logits_RC[:, rows].diagonal()
        row_log_B, column_log_B = row_sum_B.log_(), column_sum_B.log_()
        ctx.save_for_backward(query_BD, candidate_CD, row_top_B, row_log_B, column_top_B, column_log_B)
        ctx.settings = (scores, left_out)
        return ((row_log_B - (right_B - row_top_B)) + (column_log_B - (right_B - column_top_B))).mean() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BD, candidate_CD, row_top_B, row_log_B, column_top_B, column_log_B = ctx.saved_tensors
        scores, left_out = ctx.settings
        pairs = len(query_BD)
        scale = upstream / (scores.temperature * pairs)
        query_grad_BD, candidate_grad_CD = torch.empty_like(query_BD), torch.zeros_like(candidate_CD)
        for rows, logits_RC in _tiles(query_BD, candidate_CD, scores, left_out):
            row_RC, column_RB = left_out.by_score(logits_RC, rows, pairs)
            by_column_RB = (column_RB - column_top_B).sub_(column_log_B).exp_()
            slope_RC = row_RC.sub_(row_top_B[rows, None]).sub_(row_log_B[rows, None]).exp_()
            slope_RC[:, :pairs].add_(by_column_RB)
            slope_RC.mul_(0.5)
            slope_RC[:, rows].diagonal().sub_(1.0)
            slope_RC.mul_(scale)
            query_grad_BD[rows] = slope_RC @ candidate_CD
            candidate_grad_CD.addmm_(slope_RC.T, query_BD[rows])
        return query_grad_BD, candidate_grad_CD, None, None


def _tiles(
    query_BD: torch.Tensor, candidate_CD: torch.Tensor, scores: _Scores, left_out: _LeftOut
) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, their logits against every candidate), top to bottom; what is no negative by its text is -inf."""
    pairs = len(query_BD)
    size = max(1, scores.tile_logits // len(candidate_CD))
    for start in range(0, pairs, size):
        rows = slice(start, min(start + size, pairs))
        logits_RC = scores.of(rows, query_BD, candidate_CD)
        left_out.by_text(logits_RC, rows, pairs)
        yield rows, logits_RC
