"""Percentile intervals of bootstrap samples.  Reading one from a file needs no scipy: the tail is stored with them.

Few runs make plain percentiles too narrow, so their tails are expanded by Student's t (Hesterberg 2015,
arXiv 1411.5279), which from 100 runs on changes next to nothing.  The ends are order statistics number (B + 1) p,
rounded outwards: between numbers B p of 200 draws lie 94.5 % of the mass, not 95 %.
"""

from __future__ import annotations

import numpy as np

from isoembed.core import Frozen
from isoembed.laws.points import Floats

LEVEL = 0.95


class Interval(Frozen):
    """A 95 % percentile interval around a value.  None: no finite answer, or unbounded on that side."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high, infinite where unbounded."""
        return -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high

    def describe(self) -> str:
        """The interval in words, with what is unbounded said."""
        value = "none" if self.value is None else f"{self.value:.4g}"
        low = "unbounded below" if self.low is None else f"{self.low:.4g}"
        high = "unbounded above" if self.high is None else f"{self.high:.4g}"
        return f"{value} [{low}, {high}]"


def expanded_tail(runs: int) -> float:
    """Probability left out on each side for an interval at LEVEL from `runs` independent runs."""
    # imported here so that a recommendation from stored draws starts without scipy
    from scipy.special import ndtr, stdtrit

    return float(ndtr(stdtrit(runs - 1, (1 - LEVEL) / 2) * np.sqrt(runs / (runs - 1))))


def percentile(value: float | None, draw_B: Floats, tail: float) -> Interval:
    """The interval of draws that may be infinite, with `tail` left out on each side: an infinite end is None."""
    draws = len(draw_B)
    low = max(int(np.floor((draws + 1) * tail)), 1) - 1
    ordered_B = np.partition(draw_B, (low, draws - 1 - low))
    return Interval(value=value, low=finite(ordered_B[low]), high=finite(ordered_B[draws - 1 - low]))


def finite(value: float) -> float | None:
    """`value`, or None where it is infinite or not a number."""
    return float(value) if np.isfinite(value) else None


def tamed(loss_BK: Floats) -> Floats:
    """Draws of a loss (B, K) with the outliers of each column at four robust standard deviations of ln loss: those of a
    few runs can be wild, and a mean must not go by them."""
    log_BK = np.log(np.maximum(loss_BK, 1e-9))
    middle_K = np.median(log_BK, axis=0)
    reach_K = 4 * 1.4826 * np.median(np.abs(log_BK - middle_K), axis=0)
    return np.asarray(np.exp(np.clip(log_BK, middle_K - reach_K, middle_K + reach_K)))
