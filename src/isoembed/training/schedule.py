"""The learning rate as a function of progress, counted in tokens and not in steps."""

from __future__ import annotations

import math

from isoembed.recipe import Recipe


def rate_at(tokens: float, recipe: Recipe) -> float:
    """Learning rate when so many tokens of the run have been spent.

    A step asks at the middle of the tokens that it is about to spend, so no step has rate zero (unless the run ends
    there) and a run of one step is well defined.
    """
    peak, end, whole = recipe.learning_rate, recipe.end_fraction, recipe.train_tokens
    if recipe.trunk_tokens is None:
        return cosine(tokens / whole, peak=peak, warmup=recipe.warmup_share, end_fraction=end)
    spans = recipe.whole_warmup_tokens, recipe.trunk_tokens, whole
    return wsd(tokens, *spans, peak=peak, end_fraction=end)


def cosine(progress: float, *, peak: float, warmup: float, end_fraction: float) -> float:
    """Rises linearly to `peak` over the share `warmup` of the tokens, then falls along half a cosine to
    `end_fraction * peak`, where it stays past the end.  The paper's main text ends at a tenth of the peak, its appendix
    E.1 at zero."""
    if progress < warmup:
        return peak * progress / warmup
    share = min(1.0, (progress - warmup) / (1.0 - warmup))
    return peak * (end_fraction + (1.0 - end_fraction) * 0.5 * (1.0 + math.cos(math.pi * share)))


def wsd(tokens: float, warmup: int, trunk: int, whole: int, *, peak: float, end_fraction: float) -> float:
    """Rises linearly to `peak` over `warmup` tokens, stays there until `trunk` tokens, then falls as 1 - sqrt to
    `end_fraction * peak` at the `whole`, where it stays (warm-up, stable, decay: Hägele et al. 2024, arXiv 2405.18392).

    Up to `trunk` it does not depend on what comes after, to the last bit: a longer run has the same trunk.
    """
    if tokens < warmup:
        return peak * tokens / warmup
    share = min(1.0, max(0.0, tokens - trunk) / (whole - trunk))
    return peak * (end_fraction + (1.0 - end_fraction) * (1.0 - math.sqrt(share)))
