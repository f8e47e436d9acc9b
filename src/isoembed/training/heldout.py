"""The loss that laws are fitted to: contrastive, on fixed pairs in fixed blocks, whatever the training batch was.

Shape legend: B pairs of a block, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from isoembed.data.batches import Batch, heldout_batch
from isoembed.data.dataset import BLOCK_PAIRS, PairData
from isoembed.encoder.embed import embed_ids
from isoembed.encoder.encoder import Encoder
from isoembed.records import Heldout
from isoembed.training.loss import contrastive_loss


def heldout_loss(
    encoder: Encoder,
    data: PairData,
    *,
    temperature: float,
    candidates: int = BLOCK_PAIRS,
    batch_tokens: int | None = None,
    bf16: bool = False,
) -> Heldout | None:
    """Mean symmetric InfoNCE over the held-out pairs, in nats; None where fewer than two pairs are held out.

    1. The pairs, in their fixed order, are cut into blocks of `candidates`; the last ones that fill no block are left
       out, because a loss among fewer candidates is lower.  Fewer than `candidates` in all are one smaller block.
    2. A block's loss is that of training (fp32, equal queries and equal positives are no negatives of each other); its
       value does not depend on `batch_tokens`, which bounds memory.  With `bf16` the products of the model are in bf16.
    3. Beside it the mean reciprocal rank (MRR) of each query's positive among the block's: what ranks as high as the
       positive counts before it, and equal texts are left out as in the loss.
    4. The fingerprint covers the texts used, the blocks and the temperature: losses compare where it is equal.
    """
    losses: list[float] = []
    ranks: list[torch.Tensor] = []
    candidates = min(candidates, len(data.heldout))
    digest = _digest(candidates, temperature)
    for batch in _blocks(data, candidates):
        digest.update(_hashes(batch))
        query_BD, positive_BD = _embedded(encoder, batch, batch_tokens, bf16)
        hashes = [torch.from_numpy(hash_B.view(np.int64)) for hash_B in (batch.query_hash_B, batch.positive_hash_B)]
        losses.append(contrastive_loss(query_BD, positive_BD, temperature, *hashes).item())
        ranks.append(rank_of_positive(query_BD, positive_BD, hashes))
    if not losses:
        return None
    return Heldout(
        loss=sum(losses) / len(losses),
        mrr=(1 / torch.cat(ranks)).mean().item(),
        pairs=len(losses) * candidates,
        candidates=candidates,
        fingerprint=digest.hexdigest()[:16],
    )


def heldout_fingerprint(data: PairData, *, temperature: float, candidates: int = BLOCK_PAIRS) -> str | None:
    """Of the losses that `heldout_loss` gives; None where it gives none."""
    if len(data.heldout) < 2:
        return None
    candidates = min(candidates, len(data.heldout))
    digest = _digest(candidates, temperature)
    for batch in _blocks(data, candidates):
        digest.update(_hashes(batch))
    return digest.hexdigest()[:16]


def _blocks(data: PairData, candidates: int) -> Iterator[Batch]:
    """The held-out pairs in blocks of `candidates`, the last ones that fill none left out; none of a single pair."""
    if candidates > 1:
        for first in range(0, len(data.heldout) - candidates + 1, candidates):
            yield heldout_batch(data, first, first + candidates)


def _digest(candidates: int, temperature: float) -> hashlib._Hash:
    return hashlib.sha256(f"{candidates} {temperature!r}\n".encode())


def _hashes(batch: Batch) -> bytes:
    return batch.query_hash_B.tobytes() + batch.positive_hash_B.tobytes()


def rank_of_positive(query_BD: torch.Tensor, positive_BD: torch.Tensor, hashes: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B,) the rank of each query's positive by cosine, from 1; pairs equal in one of `hashes`, (B,) each, do not
    compete."""
    cosine_BB = functional.normalize(query_BD.float(), dim=-1) @ functional.normalize(positive_BD.float(), dim=-1).T
    before_BB = ~(cosine_BB < cosine_BB.diagonal()[:, None])  # what is no number is before all
    for hash_B in hashes:
        before_BB &= (hash_B[:, None] != hash_B[None, :]).to(before_BB.device)
    return 1 + before_BB.sum(1)


def _embedded(
    encoder: Encoder, batch: Batch, batch_tokens: int | None, bf16: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, D) each: the queries, the positives."""
    before, behind, _ = batch.prompt_tokens or (0, 0, 0)
    query_BD, positive_BD = (
        embed_ids(encoder, ids, prompt=prompt, batch_tokens=batch_tokens, bf16=bf16)
        for ids, prompt in ((batch.query_ids, before), (batch.positive_ids, behind))
    )
    return query_BD, positive_BD
