"""The loss that laws are fitted to: contrastive, on fixed pairs in fixed blocks, whatever the training batch was.

Shape legend: B pairs of a block, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

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
    3. The fingerprint covers the texts used, the blocks and the temperature: losses compare where it is equal.
    """
    total, blocks, candidates = 0.0, 0, min(candidates, len(data.heldout))
    digest = _digest(candidates, temperature)
    for batch in _blocks(data, candidates):
        digest.update(_hashes(batch))
        total += _block_loss(encoder, batch, temperature, batch_tokens, bf16)
        blocks += 1
    if not blocks:
        return None
    return Heldout(
        loss=total / blocks,
        pairs=blocks * candidates,
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


def _block_loss(encoder: Encoder, batch: Batch, temperature: float, batch_tokens: int | None, bf16: bool) -> float:
    sides = zip((batch.query_ids, batch.positive_ids), batch.prompt_tokens, strict=True)
    query_BD, positive_BD = (
        embed_ids(encoder, ids, prompt=prompt, batch_tokens=batch_tokens, bf16=bf16) for ids, prompt in sides
    )
    query_hash_B, positive_hash_B = (
        torch.from_numpy(hash_B.view(np.int64)) for hash_B in (batch.query_hash_B, batch.positive_hash_B)
    )
    return contrastive_loss(query_BD, positive_BD, temperature, query_hash_B, positive_hash_B).item()
