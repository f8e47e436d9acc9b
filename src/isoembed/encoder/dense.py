"""A learned projection: embeddings of fewer dimensions than the model's, by a linear map without bias.

It stands between pooling and normalisation, is trained with the model by the same loss, whatever the method, and is
exported as sentence-transformers' `Dense`.

At first its rows are orthonormal, drawn at random (Saxe et al. 2013, arXiv 1312.6120): it keeps cosines as well as a
random subspace can, without a look at any text.  It is the same for every run of one width and one number of
dimensions, as the base weights are: models of several seeds then lie close enough for their average.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from isoembed.encoder.embed import embed_ids
from isoembed.encoder.encoder import Encoder
from isoembed.recipe import Recipe


def encoder_of(model: nn.Module, recipe: Recipe) -> Encoder:
    """`model` with the pooling, the prompts and the untrained projection, if any, of `recipe`."""
    return projected(Encoder(model, recipe.pooling, recipe.options.prompts), recipe.options.dimensions)


def projected(encoder: Encoder, dimensions: int | None) -> Encoder:
    """`encoder`, with an untrained map of what it pools to so many dimensions; as it was where that is None."""
    if dimensions is not None:
        encoder.dense = projection(embed_ids(encoder, [np.zeros(1, np.int64)]).shape[1], dimensions)
    return encoder


def projection(width: int, dimensions: int) -> nn.Linear:
    """The untrained map from `width` to `dimensions`; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense = nn.Linear(width, dimensions, bias=False)
        nn.init.orthogonal_(dense.weight)
    return dense
