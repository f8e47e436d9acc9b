"""What a run will need, estimated before it is run.  Measured figures come with every record."""

from __future__ import annotations

from isoembed.budget import Device
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.recipe import Recipe

#: of a weight as NF4 under double quantisation: 4 bits, 8 for each 64 weights, 32 for each 256 * 64
QUANTISED_BYTES = (4 + 8 / 64 + 32 / (256 * 64)) / 8


def training_memory_bytes(recipe: Recipe, *, chunk_tokens: int = 16384, bytes_per_value: int = 2) -> float:
    """Estimate of what training `recipe` needs at least, as `memory_bytes`."""
    return memory_bytes(
        recipe.model,
        recipe.cost,
        recipe.batch_pairs,
        negatives=recipe.data.negatives,
        chunk_tokens=chunk_tokens,
        bytes_per_value=bytes_per_value,
    )


def memory_bytes(
    model: ModelSpec,
    cost: Cost,
    batch_pairs: int,
    *,
    negatives: float = 0.0,
    chunk_tokens: int = 16384,
    bytes_per_value: int = 2,
) -> float:
    """Estimate of what training needs at least, for any length: state, one chunk's activations in the blocks that
    train, and the batch's embeddings, `negatives` hard negatives a pair among them.

    State, in fp32: 4 bytes a weight (0.516 one that is kept in 4 bits, once it is: the base is read in fp32), and 12
    more (gradient, two AdamW moments) a trained parameter.  Activations: 34 bytes a token and hidden unit a block in
    16-bit values (Korthikanti et al. 2022, arXiv 2205.05198, equation 1, without the attention matrix, which fused
    attention does not keep).  Embeddings: eight copies in fp32, and six values a logit of a tile
    (`isoembed.training.loss`), never all logits.
    """
    weights = model.total_params + cost.forward - model.params - cost.quantised
    state = 4.0 * weights + QUANTISED_BYTES * cost.quantised + 12.0 * cost.trained
    activations = 17.0 * bytes_per_value * chunk_tokens * model.hidden * cost.blocks_backward
    candidates = (1 + negatives) * batch_pairs
    embeddings = 4.0 * (
        8 * (batch_pairs + candidates) * model.hidden + 6 * min(max(1 << 20, candidates), candidates**2)
    )
    return state + activations + embeddings


def training_seconds(recipe: Recipe, device: Device, *, count: int, utilisation: float) -> float:
    """Wall time at a given share of the devices' peak."""
    return recipe.flop / (device.peak_flop_per_second * count * utilisation)
