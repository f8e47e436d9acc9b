"""The learning rate as a function of progress, counted in tokens and not in steps."""

from __future__ import annotations

import math


def rate_at(progress: float, *, peak: float, warmup: float, end_fraction: float) -> float:
    """Learning rate when the share `progress` of the run's tokens has been spent.

    Rises linearly to `peak` over the share `warmup`, then falls along half a cosine to `end_fraction * peak`, where it
    stays past the end.  The paper's main text ends at a tenth of the peak, its appendix E.1 at zero.  A step asks at
    the middle of the tokens that it is about to spend, so no step has rate zero (unless the run ends there) and a run
    of one step is well defined.
    """
    if progress < warmup:
        return peak * progress / warmup
    share = min(1.0, (progress - warmup) / (1.0 - warmup))
    return peak * (end_fraction + (1.0 - end_fraction) * 0.5 * (1.0 + math.cos(math.pi * share)))
