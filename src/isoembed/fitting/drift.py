"""How far forecasts leave a law beyond its budgets, from back-tests: each held-out budget forecast from those below.

1. Back-test i lies x_i = ln(C_held / C_fitted) beyond its fit and has the bias b_i = mean ln(observed / forecast), with
   a standard error s_i (the fit's bootstrap and the noise of runs).
2. Bias for each factor e: rate = sum b_i x_i / sum x_i^2, and its standard error from the s_i, widened by Birge's ratio
   where the back-tests differ by more (as the Particle Data Group averages).
3. The rate has a sign where it is more than `SIGN` standard errors from 0 in two back-tests or more.  Then it shifts
   forecasts; else it is 0 and all of the bias is uncertainty.
4. What is left of the bias is the same for all sizes of a method (`spread`); what runs of one budget lie apart beyond
   their noise goes with their size (`apart`).  Both are standard deviations of ln loss for each factor e.
5. Below the smallest budget nothing is back-tested.  Forecasts leave the law there as fast as above the largest, with
   no sign: the shift counts as spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoembed.fitting.holdout import Holdout
from isoembed.laws.points import Floats

#: standard errors from 0 beyond which the bias of back-tests has a sign
SIGN = 2.0
#: of ln loss, for each factor e of C from the runs that set a law's level on other pairs: the root mean square of six
#: runs, forecast before they were made, at 4 and 16 times them; one source (docs/lab-notes/laws.md, 2026-11-28)
LEVEL_DRIFT = 0.085
#: half a 95 % interval in standard errors
_HALF = 1.96


@dataclass(frozen=True)
class Drift:
    """Of ln loss, for each factor e of C beyond the fitted budgets."""

    tests: int = 0
    rate: float = 0.0
    """mean of ln(observed / forecast)"""
    error: float = math.inf
    """its standard error"""
    spread: float = 0.0
    apart: float = 0.0

    @classmethod
    def of(cls, backtests: Sequence[Holdout], noise: float) -> Drift:
        """From back-tests of single budgets; noise: standard deviation of one run's ln loss."""
        rows = [
            (math.log(each.beyond), each.bias.value, _error(each), each.held_error or abs(each.bias.value))
            for each in backtests
            if each.bias is not None and each.bias.value is not None and each.forecasts_beyond and each.beyond
        ]
        if not rows:
            return cls()
        x_I, bias_I, error_I, held_I = (np.array(column) for column in zip(*rows, strict=True))
        square = float(np.sum(x_I**2))
        rate = float(np.sum(bias_I * x_I)) / square
        error = float(np.sqrt(np.sum((x_I * error_I) ** 2))) / square
        if len(rows) > 1 and np.isfinite(error):
            chi2 = float(np.sum(((bias_I - rate * x_I) / np.maximum(error_I, 1e-9)) ** 2))
            error *= math.sqrt(max(1.0, chi2 / (len(rows) - 1)))
        signed = _signed(len(rows), rate, error)
        left_I = bias_I - rate * x_I if signed else bias_I
        spread = math.sqrt(float(np.sum(left_I**2)) / square)
        apart_I = np.maximum(held_I**2 - bias_I**2 - noise**2, 0.0)
        apart = math.sqrt(float(np.sum(apart_I)) / square)
        return cls(len(rows), rate, error, math.hypot(spread, error) if signed else spread, apart)

    @property
    def shift(self) -> float:
        """By how much forecasts are moved; 0 where the bias has no sign."""
        return self.rate if _signed(self.tests, self.rate, self.error) else 0.0

    @property
    def unsigned(self) -> float:
        """`spread` below the fitted budgets, where the bias has no known sign."""
        return math.hypot(self.spread, self.shift)

    def describe(self) -> str:
        """What the back-tests saw and what is done about it."""
        if not self.tests:
            return "no budget could be forecast from those below it: beyond the fitted budgets nothing is known of it"
        error = "" if math.isinf(self.error) else f" +- {self.error:.2%}"
        use = (
            "recommendations are shifted by it and widened"
            if self.shift
            else "no sign: recommendations are widened, not shifted"
            if self.tests > 1
            else "one back-test has no sign: recommendations are widened, not shifted"
        )
        return (
            f"bias {self.rate:+.2%}{error} of ln loss for each factor e beyond the fitted budgets, "
            f"{self.tests} back-test{'s' if self.tests > 1 else ''}; {use} "
            f"(by {self.spread:.2%} for a method, {self.apart:.2%} between sizes)"
        )


def _signed(tests: int, rate: float, error: float) -> bool:
    return tests > 1 and abs(rate) > SIGN * error


def beyond(flop: float | Floats, most: float) -> Floats:
    """x: ln of budgets over the largest fitted one; 0 inside."""
    return np.asarray(np.log(np.maximum(1.0, np.asarray(flop) / most)))


def below(flop: float | Floats, least: float) -> Floats:
    """ln of the smallest fitted budget over budgets; 0 inside."""
    return np.asarray(np.log(np.maximum(1.0, least / np.asarray(flop))))


def away(flop: float | Floats, budgets: tuple[float, float] | None) -> Floats:
    """Standard deviation of ln loss that a level set at `budgets` (lowest, highest) has there; 0 without a level."""
    at = np.asarray(flop, dtype=np.float64)
    if budgets is None:
        return np.zeros_like(at)
    low, high = budgets
    return np.asarray(LEVEL_DRIFT * np.log(np.maximum(1.0, np.maximum(low / at, at / high))))


def _error(test: Holdout) -> float:
    """Standard error of a back-test's bias: from where it would fall if the law were right."""
    low, high = test.bias.ends if test.bias is not None else (-math.inf, math.inf)
    return (high - low) / (2 * _HALF)
