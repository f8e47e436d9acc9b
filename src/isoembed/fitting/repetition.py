"""What repeated data are worth, measured: R* from runs on few unique pairs beside the same recipes on fresh data.

1. D tokens over U unique ones stand for D' = U + U R* (1 - exp(-(D / U - 1) / R*)) fresh ones (Muennighoff et al. 2023,
   arXiv 2305.16264, equation 5, data term only).
2. A run that repeats is set beside the fresh run of the same recipe.  The law alone says what the tokens lost cost:
   ln L_repeated - ln L_fresh = ln L(N, D') - ln L(N, D).  Where the law stands off this recipe's level, both sides do,
   and it cancels: the level of every recipe is profiled out.
3. R* minimises the Huber sum of what is left, on a grid of ln R* with a parabola through its lowest three points.
4. Doubt: once for every draw of the law, with the scatter of single runs drawn anew for both runs of every pair.

The law itself is fitted to fresh data alone.  Assumed: one R* for all sizes of a method; no term for excess parameters.

Shapes: B draws (row 0: the fit), R runs that repeat, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from isoembed.core import Frozen, Some, number_of
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.minimise import huber_sum
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points

#: R* of pretraining (Muennighoff et al. 2023, section 6)
REPEAT_WORTH = 15.39
REPEAT_SOURCE = (
    "repeated pairs count as fewer fresh ones, R* = 15.39: measured on pretraining (Muennighoff et al. 2023), not here"
)
#: epochs beyond which pairs are not repeated unless somebody says how often: past them the losses of Muennighoff et
#: al.'s runs rise, which no worth of repeated data explains
MOST_EPOCHS = 40.0
#: passes above which a run repeats its data; one pass ends with a whole step
ONE_PASS = 1.01
#: an R* at these ends is none: repeated tokens are worth nothing, or as much as fresh ones
LEAST, MOST = 1e-2, 1e4
_GRID_G = np.geomspace(LEAST, MOST, 140)
#: Huber 1964: 95 % efficient under normal noise
_EFFICIENT = 1.345


def effective_tokens(tokens: ArrayLike, unique: ArrayLike, worth: ArrayLike = REPEAT_WORTH) -> Floats:
    """D': fresh tokens that D tokens over U unique ones are worth at R* = `worth`; D up to one pass."""
    tokens, unique, worth = (np.asarray(value, dtype=np.float64) for value in (tokens, unique, worth))
    again = np.maximum(tokens / unique - 1.0, 0.0)
    return np.asarray(np.minimum(tokens, unique) * (1.0 - worth * np.expm1(-again / worth)))


@dataclass(frozen=True, eq=False)
class Repeats:
    """Runs that repeat their data, each with the fresh runs of the same recipe.  `points.run` numbers the recipes."""

    points: Points
    passes_R: Floats
    fresh_loss_R: Floats
    """geometric mean over the fresh runs"""
    fresh_runs_R: Floats

    def __getitem__(self, keep: NDArray[np.int64]) -> Repeats:
        """The rows that an index array selects."""
        columns = (self.passes_R, self.fresh_loss_R, self.fresh_runs_R)
        return Repeats(self.points[keep], *(column[keep] for column in columns))


def beside(points: Points, recipe_R: ArrayLike, repeated_R: NDArray[np.bool_], passes_R: Floats) -> Repeats | None:
    """The rows that repeat their data, `passes_R` times, for whose recipe (any label) there is a row that does not;
    None where there are none."""
    recipe_R = np.unique(np.asarray(recipe_R), return_inverse=True)[1]
    count = np.bincount(recipe_R[~repeated_R], minlength=len(points))
    total = np.bincount(recipe_R[~repeated_R], np.log(points.loss[~repeated_R]), minlength=len(points))
    found_R = repeated_R & (count[recipe_R] > 0)
    if not found_R.any():
        return None
    at_R = recipe_R[found_R]
    found = replace(points[found_R], run=np.unique(at_R, return_inverse=True)[1])
    return Repeats(found, passes_R[found_R], np.exp(total[at_R] / count[at_R]), count[at_R].astype(np.float64))


def kept_apart(repeated: int, alone: int) -> tuple[str, ...]:
    """A note of how many runs repeat their data, and how many of them teach nothing; none where there are none."""
    unused = f", {alone} of them without a fresh run of the same recipe" if alone else ""
    return (f"{number_of(repeated, 'run')} with repeated data kept apart{unused}",) if repeated else ()


class Repetition(Frozen):
    """R* of one method's runs: after so many passes repeated data are worth little more."""

    worth: Interval = Field(description="R*; high None: not identified, the repeats cost no more than scatter hides")
    runs: Some = Field(description="runs that repeat their data")
    recipes: Some = Field(description="recipes that they are of, each with a fresh run")
    passes: tuple[float, float] = Field(description="fewest and most passes over the unique pairs")
    noise: float = Field(ge=0, description="standard deviation of one run's ln loss, as the draws had it")
    draws: tuple[float, ...] = Field((), description="R* of each of the law's draws, within 0.01 and 10000")

    @property
    def identified(self) -> bool:
        """Whether the runs bound R* from above."""
        return self.worth.high is not None

    @property
    def worthless(self) -> bool:
        """Whether R* stands at the least there is: repeats are worth nothing, or do harm, which the form cannot say."""
        return self.worth.value is not None and self.worth.value <= LEAST

    def fit_and_draws(self) -> Floats:
        """R* of the fit and of each draw (1 + B,)."""
        return np.array([MOST if self.worth.value is None else self.worth.value, *self.draws])

    def says(self) -> str:
        """R* with its interval, or that there is none, in words."""
        low, high = self.passes
        among = f"{number_of(self.runs, 'run')} of {number_of(self.recipes, 'recipe')}, {low:.1f} to {high:.1f} passes"
        if not self.draws:
            value = "no bound" if self.worth.value is None else f"{self.worth.value:.3g}"
            return f"R* = {value}, without an interval (no bootstrap), from {among}"
        if not self.identified:
            least = "" if self.worth.low is None else f", {self.worth.low:.3g} or more"
            return f"R* is not identified{least}: what {among}, cost is within a scatter of {self.noise:.2g} in ln loss"
        harm = (
            "; the least there is: repeats are worth nothing, or do harm, which no R* can say" if self.worthless else ""
        )
        return f"R* = {self.worth.says()}, from {among}{harm}"


def measure(
    law: Law,
    theta_BP: Floats,
    repeats: Repeats,
    *,
    noise: float,
    seed_sd: float | None = None,
    tail: float | None,
    seed: int = 0,
) -> Repetition:
    """R* by `law` with parameters `theta_BP` (1 + B, P), the fit first and then its draws, in the user's units.

    noise, seed_sd: standard deviation of ln loss around the law, and between seeds where that is known.
    tail: as `Bootstrap.tail`; None where there are no draws.
    """
    points = repeats.points
    gap_R = np.log(points.loss) - np.log(repeats.fresh_loss_R)
    _, recipe_R = np.unique(points.run, return_inverse=True)
    forecast_GBR = _forecast(law, theta_BP, repeats)

    best = _lowest(forecast_GBR[:, :1], gap_R[None], noise)
    noise = _noise(gap_R - _at(forecast_GBR[:, 0], float(best[0])), repeats.fresh_runs_R, noise, seed_sd)

    chance, draws = np.random.default_rng(seed), len(theta_BP) - 1
    own_BR = chance.normal(0.0, noise, (draws, len(points)))
    fresh_BR = chance.normal(0.0, noise, (draws, recipe_R.max() + 1))[:, recipe_R] / np.sqrt(repeats.fresh_runs_R)
    draw_B = _lowest(forecast_GBR[:, 1:], gap_R + own_BR - fresh_BR, noise)

    unbounded_B = np.where(draw_B >= MOST, np.inf, draw_B)
    value = None if best[0] >= MOST else float(best[0])
    return Repetition(
        worth=Interval(value=value, low=None, high=None) if tail is None else percentile(value, unbounded_B, tail),
        runs=len(points),
        recipes=int(recipe_R.max()) + 1,
        passes=(float(repeats.passes_R.min()), float(repeats.passes_R.max())),
        noise=noise,
        draws=tuple(draw_B.tolist()),
    )


def _noise(left_R: Floats, fresh_runs_R: Floats, noise: float, seed_sd: float | None) -> float:
    """Standard deviation of one run's ln loss: that of what R* leaves of the differences, and at least that between
    seeds.  Where no seeds were repeated the residuals of the law bound it, which hold its misfit too; below them the
    runs' own counts, widened by Student's t for their number."""
    if len(left_R) < 2:
        return noise if seed_sd is None else seed_sd
    # imported here so that a recommendation from stored draws starts without scipy
    from scipy.special import ndtri, stdtrit

    free = len(left_R) - 1
    own = float(np.sqrt(np.sum(left_R**2 / (1.0 + 1.0 / fresh_runs_R)) / free))
    if seed_sd is not None:
        return max(own, seed_sd)
    return max(own, min(noise, own * float(stdtrit(free, 0.975) / ndtri(0.975))))


def _forecast(law: Law, theta_BP: Floats, repeats: Repeats) -> Floats:
    """ln L(N, D') - ln L(N, D) (G, B, R) at each R* of the grid."""
    rows, tokens_R = repeats.points.rows, repeats.points.tokens

    def log_loss(worth: float | None) -> Floats:
        worth_R = tokens_R if worth is None else effective_tokens(tokens_R, tokens_R / repeats.passes_R, worth)
        loss_BR, _ = law.loss_and_gradient(theta_BP, replace(rows, log_tokens_R=np.log(worth_R)))
        return np.log(np.maximum(loss_BR, 1e-9))

    fresh_BR = log_loss(None)
    return np.stack([log_loss(worth) - fresh_BR for worth in _GRID_G.tolist()])


def _lowest(forecast_GBR: Floats, gap_BR: Floats, noise: float) -> Floats:
    """R* (B,) of least Huber sum; an end of the grid where that is lowest there."""
    delta = max(_EFFICIENT * noise, 1e-6)
    sum_GB = huber_sum(gap_BR - forecast_GBR, np.ones(gap_BR.shape[-1]), delta)
    at_B = np.argmin(sum_GB, axis=0)
    inner_B = np.clip(at_B, 1, len(_GRID_G) - 2)
    before, here, after = (np.take_along_axis(sum_GB, inner_B[None] + step, axis=0)[0] for step in (-1, 0, 1))
    bend = before - 2.0 * here + after
    shift_B = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    step = np.log(_GRID_G[1] / _GRID_G[0])
    found_B = np.exp(np.log(_GRID_G[inner_B]) + step * np.clip(shift_B, -1.0, 1.0))
    return np.asarray(np.where(at_B == inner_B, found_B, _GRID_G[at_B]))


def _at(forecast_GR: Floats, worth: float) -> Floats:
    """The forecast (R,) at one R*, linear in ln R* between grid points."""
    return np.array([np.interp(np.log(worth), np.log(_GRID_G), forecast_G) for forecast_G in forecast_GR.T])
