"""What a student is held against its teacher by: losses of its embeddings beside the teacher's vectors of its texts.

    cosine   1 - cos(P s, t), mean over texts
    mse      |P s - t|^2, summed over dimensions, mean over texts
    kl       KL of the student's in-batch scores from the teacher's, cos / temperature, by rows and by columns

s and t have length 1.  P is a linear map to the teacher's width, trained beside the model and dropped with the run;
where the widths are equal there is none, and mse is twice cosine.  The scores of `kl` need no map.

Shape legend: B pairs of the batch, R rows of a tile, D embedding width, W width of the teacher's vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from isoembed.encoder.embed import embed_ids
from isoembed.encoder.encoder import Encoder
from isoembed.estimates import TILE_LOGITS
from isoembed.options import TeacherLoss
from isoembed.recipe import Recipe

#: embeddings, or vectors, of the queries and of the positives of a batch
BothSides = tuple[torch.Tensor, torch.Tensor]


def projection_of(recipe: Recipe, encoder: Encoder) -> nn.Linear | None:
    """P for the encoder of `recipe`, orthogonal at first; None where there is nothing to map."""
    teacher = recipe.options.teacher
    if teacher is None or teacher.loss == "kl" or teacher.weight == 0:
        return None
    width = embed_ids(encoder, [np.zeros(1, np.int64)]).shape[1]
    if width == teacher.width:
        return None
    projection = nn.Linear(width, teacher.width, bias=False)
    nn.init.orthogonal_(projection.weight)
    return projection


def distillation_loss(
    student: BothSides,
    teacher: BothSides,
    loss: TeacherLoss,
    *,
    temperature: float,
    projection: nn.Module | None = None,
    tile_logits: int = TILE_LOGITS,
) -> torch.Tensor:
    """The loss named `loss`, in fp32; `temperature` is of `kl` alone, and `tile_logits` bounds its memory."""
    query_BD, positive_BD = (functional.normalize(side.float(), dim=-1) for side in student)
    query_BW, positive_BW = (functional.normalize(side.float(), dim=-1) for side in teacher)
    if loss == "kl":
        by_row = _divergence(query_BD, positive_BD, query_BW, positive_BW, temperature, tile_logits)
        by_column = _divergence(positive_BD, query_BD, positive_BW, query_BW, temperature, tile_logits)
        return (by_row + by_column) / 2
    student_NW, teacher_NW = torch.cat([query_BD, positive_BD]), torch.cat([query_BW, positive_BW])
    if projection is not None:
        student_NW = projection(student_NW)
    if loss == "mse":
        return (student_NW - teacher_NW).square().sum(1).mean()
    return (1 - functional.cosine_similarity(student_NW, teacher_NW, dim=1)).mean()


def _divergence(
    left_BD: torch.Tensor,
    right_BD: torch.Tensor,
    left_BW: torch.Tensor,
    right_BW: torch.Tensor,
    temperature: float,
    tile_logits: int,
) -> torch.Tensor:
    """Mean over rows of KL(teacher's scores of all of `right` || student's), in nats; a tile of rows at a time, and
    again in the backward pass, as `contrastive_loss`."""

    def tile(left_RD: torch.Tensor, right_BD: torch.Tensor, left_RW: torch.Tensor) -> torch.Tensor:
        student_RB = functional.log_softmax(left_RD @ right_BD.T / temperature, dim=1)
        teacher_RB = functional.log_softmax(left_RW @ right_BW.T / temperature, dim=1)
        return functional.kl_div(student_RB, teacher_RB, reduction="sum", log_target=True)

    pairs = len(left_BD)
    rows = max(1, tile_logits // pairs)
    tiles = zip(left_BD.split(rows), left_BW.split(rows), strict=True)
    parts = [checkpoint(tile, left_RD, right_BD, left_RW, use_reentrant=False) for left_RD, left_RW in tiles]
    return torch.stack(parts).sum() / pairs
