"""The loss of one batch as a function of its embeddings, with what a recipe says of it.

Shape legend: B pairs of the global batch, M hard negatives of all its pairs, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from isoembed.data.batches import Batch
from isoembed.encoder.encoder import to_device
from isoembed.options import PLAIN, Options
from isoembed.training.distillation import distillation_loss
from isoembed.training.gradients import LossOf
from isoembed.training.loss import contrastive_loss


@dataclass(frozen=True)
class Objective:
    """What is minimised: `contrastive_loss`, or with Matryoshka dimensions the mean of that of the whole embeddings and
    those of their first dimensions, each of unit length (Kusupati et al. 2022, arXiv 2205.13147, equation 1, with equal
    weights).  With a teacher of weight w it is 1 - w of that and w of `distillation_loss` of the whole embeddings,
    through `projection` where there is one."""

    temperature: float
    options: Options = PLAIN
    projection: nn.Module | None = None

    def of(self, batch: Batch, device: torch.device) -> LossOf:
        """The loss of `batch`, whose texts' hashes wait on `device`.

        Rows of negatives behind the batch's own (`distributed.own_share`) are nobody's and left out.
        """
        query_hash_B, positive_hash_B, negative_hash_M = (
            to_device(torch.from_numpy(hashes.view(np.int64)), device)
            for hashes in (batch.query_hash_B, batch.positive_hash_B, batch.negative_hash_M)
        )

        taught = None if batch.teacher is None else tuple(to_device(torch.from_numpy(v), device) for v in batch.teacher)
        vectors = None if taught is None else (taught[0], taught[1])
        guide = vectors if self.options.mask_by == "teacher" else None

        def contrastive(
            query_BD: torch.Tensor, positive_BD: torch.Tensor, negative_MD: torch.Tensor | None = None
        ) -> torch.Tensor:
            negative_MD = None if negative_MD is None else negative_MD[: len(negative_hash_M)]
            losses = [
                contrastive_loss(
                    query_BD[:, :dim],
                    positive_BD[:, :dim],
                    self.temperature,
                    query_hash_B,
                    positive_hash_B,
                    negative_MD=None if negative_MD is None else negative_MD[:, :dim],
                    negative_hash_M=negative_hash_M,
                    guide=guide,
                    hardness_strength=self.options.hardness_strength,
                )
                for dim in (None, *self.options.matryoshka)
            ]
            return torch.stack(losses).mean()

        teacher = self.options.teacher
        if teacher is None or teacher.weight == 0:
            return contrastive
        assert vectors is not None

        def distilled(*sides: torch.Tensor) -> torch.Tensor:
            loss = distillation_loss(
                (sides[0], sides[1]),
                vectors,
                teacher.loss,
                temperature=self.temperature,
                projection=self.projection,
            )
            return loss if teacher.weight == 1 else teacher.weight * loss + (1 - teacher.weight) * contrastive(*sides)

        return distilled
