"""Symmetric in-batch contrastive loss (Ziarko et al. 2024, section 3.3; InfoNCE of van den Oord et al. 2018).

Shape legend: B pairs of the global batch, D embedding width.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def contrastive_loss(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    temperature: float,
    query_hash_B: torch.Tensor | None = None,
    positive_hash_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the batch of (cross-entropy over rows + cross-entropy over columns) / 2, in nats, computed in fp32.

    1. logits[i, j] = cos(query_i, positive_j) / temperature; both sides are L2-normalised here, so that the loss does
       not depend on whether the caller did.
    2. A pair j whose positive, or whose query, is the same text as pair i's is no negative of i: its logit is left out
       of both sums.  The hashes (int64, equal where the texts are equal) say so; None masks nothing.
    3. The target of row i and of column i is i.
    """
    query_BD = functional.normalize(query_BD.float(), dim=-1)
    positive_BD = functional.normalize(positive_BD.float(), dim=-1)
    logits_BB = query_BD @ positive_BD.T / temperature
    same_BB = torch.zeros_like(logits_BB, dtype=torch.bool)
    for hash_B in (query_hash_B, positive_hash_B):
        if hash_B is not None:
            same_BB |= hash_B[:, None] == hash_B[None, :]
    logits_BB = logits_BB.masked_fill(same_BB.fill_diagonal_(False), float("-inf"))
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, target_B) + functional.cross_entropy(logits_BB.T, target_B)) / 2
