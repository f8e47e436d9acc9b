"""What repeated data are worth, measured: R* from runs on few unique pairs beside the same recipes in a single epoch.

1. D tokens over U unique ones stand for D' = U + U R* (1 - exp(-(D / U - 1) / R*)) unique ones (Muennighoff et al.
   2023, arXiv 2305.16264, equation 5, data term only).
2. A run that repeats is set beside the single-epoch run of the same recipe.  The law alone says what the lost
   tokens cost: ln L_repeated - ln L_single = ln L(N, D') - ln L(N, D).  Where the law stands off this recipe's level,
   both sides do, and it cancels: the level of every recipe is profiled out.
3. R* minimises the Huber sum of what is left, on a grid of ln R* with a parabola through its lowest three points.
4. Uncertainty: once for every bootstrap sample of the law, with the noise of single runs drawn anew for both
   runs of every pair.

The law itself is fitted to single-epoch runs alone.  Assumed: one R* for all sizes of a method; no term for
excess parameters.

Shapes: B bootstrap samples (row 0: the fit), R runs that repeat, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from isoembed.core import Frozen, PositiveInt
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.minimise import huber_sum
from isoembed.fitting.notes import FitNote, interval_note, known, remark
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points

#: R* of pretraining (Muennighoff et al. 2023, section 6)
PRETRAINING_R_STAR = 15.39
PRETRAINING_R_STAR_SOURCE = (
    "repeated pairs count as fewer unique ones, R* = 15.39: measured on pretraining (Muennighoff et al. 2023), not here"
)
#: epochs beyond which pairs are not repeated unless somebody says how often: past them the losses of Muennighoff et
#: al.'s runs rise, which no R* explains
MOST_EPOCHS = 40.0
#: epochs above which a run repeats its data; one epoch ends with a whole step
ONE_EPOCH = 1.01
#: an R* at these ends is none: repeated tokens are worth nothing, or as much as unique ones
LEAST, MOST = 1e-2, 1e4
_GRID_G = np.geomspace(LEAST, MOST, 140)
#: Huber 1964: 95 % efficient under normal noise
_EFFICIENT = 1.345


def effective_tokens(tokens: ArrayLike, unique: ArrayLike, r_star: ArrayLike = PRETRAINING_R_STAR) -> Floats:
    """D': unique tokens that D tokens over U unique ones are worth at R* = `r_star`; D up to one epoch."""
    tokens, unique, r_star = (np.asarray(value, dtype=np.float64) for value in (tokens, unique, r_star))
    again = np.maximum(tokens / unique - 1.0, 0.0)
    return np.asarray(np.minimum(tokens, unique) * (1.0 - r_star * np.expm1(-again / r_star)))


@dataclass(frozen=True, eq=False)
class RepeatedRuns:
    """Runs that repeat their data, each with the single-epoch runs of its recipe.  `points.run` numbers the recipes."""

    points: Points
    epochs_R: Floats
    single_epoch_loss_R: Floats
    """geometric mean over the single-epoch runs"""
    single_epoch_runs_R: Floats

    def __getitem__(self, keep: NDArray[np.int64]) -> RepeatedRuns:
        """The rows that an index array selects."""
        columns = (self.epochs_R, self.single_epoch_loss_R, self.single_epoch_runs_R)
        return RepeatedRuns(self.points[keep], *(column[keep] for column in columns))


def matched_to_single_epoch(
    points: Points, recipe_R: ArrayLike, repeated_R: NDArray[np.bool_], epochs_R: Floats
) -> RepeatedRuns | None:
    """The rows that repeat their data, `epochs_R` times, for whose recipe (any label) there is a row that does not;
    None where there are none."""
    recipe_R = np.unique(np.asarray(recipe_R), return_inverse=True)[1]
    count = np.bincount(recipe_R[~repeated_R], minlength=len(points))
    total = np.bincount(recipe_R[~repeated_R], np.log(points.loss[~repeated_R]), minlength=len(points))
    found_R = repeated_R & (count[recipe_R] > 0)
    if not found_R.any():
        return None
    at_R = recipe_R[found_R]
    found = replace(points[found_R], run=np.unique(at_R, return_inverse=True)[1])
    return RepeatedRuns(found, epochs_R[found_R], np.exp(total[at_R] / count[at_R]), count[at_R].astype(np.float64))


def repeated_note(repeated: int, alone: int) -> tuple[FitNote, ...]:
    """A note of how many runs repeat their data, and how many of them teach nothing; none where there are none."""
    if not repeated:
        return ()
    return (remark("repeated-alone", runs=repeated, alone=alone) if alone else remark("repeated", runs=repeated),)


class Repetition(Frozen):
    """R* of one method's runs: after so many epochs repeated data are worth little more."""

    r_star: Interval = Field(
        alias="worth", description="R*; high None: not identified, the repeats cost no more than noise hides"
    )
    runs: PositiveInt = Field(description="runs that repeat their data")
    recipes: PositiveInt = Field(description="recipes that they are of, each with a single-epoch run")
    epochs: tuple[float, float] = Field(alias="passes", description="fewest and most epochs over the unique pairs")
    noise: float = Field(ge=0, description="standard deviation of one run's ln loss, as the bootstrap samples had it")
    draws: tuple[float, ...] = Field((), description="R* of each of the law's bootstrap samples, within 0.01 and 10000")

    @property
    def identified(self) -> bool:
        """Whether the runs bound R* from above."""
        return self.r_star.high is not None

    @property
    def worthless(self) -> bool:
        """Whether R* stands at the least there is: repeats are worth nothing, or do harm, which the form cannot say."""
        return self.r_star.value is not None and self.r_star.value <= LEAST

    def fit_and_draws(self) -> Floats:
        """R* of the fit and of each draw (1 + B,)."""
        return np.array([MOST if self.r_star.value is None else self.r_star.value, *self.draws])

    @property
    def seen(self) -> FitNote:
        """R* with its interval, or that there is none."""
        of: dict[str, Any] = {
            "among": remark("among", runs=self.runs, recipes=self.recipes, low=self.epochs[0], high=self.epochs[1])
        }
        if not self.draws:
            return remark("r-star-alone", value=known(self.r_star.value), **of)
        if not self.identified:
            return remark("r-star-open", least=known(self.r_star.low), noise=self.noise, **of)
        code = "r-star-least" if self.worthless else "r-star"
        return remark(code, interval=interval_note(self.r_star), **of)

    def describe(self) -> str:
        """The same in words."""
        return self.seen.describe()


def measure(
    law: Law,
    theta_BP: Floats,
    repeats: RepeatedRuns,
    *,
    noise: float,
    seed_sd: float | None = None,
    tail: float | None,
) -> Repetition:
    """R* by `law` with parameters `theta_BP` (1 + B, P), the fit first and then its draws, in the user's units.

    noise, seed_sd: standard deviation of ln loss around the law, and between seeds where that is known.
    tail: as `Bootstrap.tail`; None where there are no draws.
    """
    points = repeats.points
    gap_R = np.log(points.loss) - np.log(repeats.single_epoch_loss_R)
    _, recipe_R = np.unique(points.run, return_inverse=True)
    forecast_GBR = _forecast(law, theta_BP, repeats)

    best = _lowest(forecast_GBR[:, :1], gap_R[None], noise)
    noise = _noise(gap_R - _at(forecast_GBR[:, 0], float(best[0])), repeats.single_epoch_runs_R, noise, seed_sd)

    chance, draws = np.random.default_rng(0), len(theta_BP) - 1
    own_BR = chance.normal(0.0, noise, (draws, len(points)))
    single_BR = chance.normal(0.0, noise, (draws, recipe_R.max() + 1))[:, recipe_R] / np.sqrt(
        repeats.single_epoch_runs_R
    )
    draw_B = _lowest(forecast_GBR[:, 1:], gap_R + own_BR - single_BR, noise)

    unbounded_B = np.where(draw_B >= MOST, np.inf, draw_B)
    value = None if best[0] >= MOST else float(best[0])
    return Repetition(
        r_star=Interval(value=value, low=None, high=None) if tail is None else percentile(value, unbounded_B, tail),
        runs=len(points),
        recipes=int(recipe_R.max()) + 1,
        epochs=(float(repeats.epochs_R.min()), float(repeats.epochs_R.max())),
        noise=noise,
        draws=tuple(draw_B.tolist()),
    )


def _noise(left_R: Floats, single_epoch_runs_R: Floats, noise: float, seed_sd: float | None) -> float:
    """Standard deviation of one run's ln loss: that of what R* leaves of the differences, and at least that between
    seeds.  Where no seeds were repeated the residuals of the law bound it, which hold its misfit too; below them the
    runs' own counts, widened by Student's t for their number."""
    if len(left_R) < 2:
        return noise if seed_sd is None else seed_sd
    # imported here so that a recommendation from stored draws starts without scipy
    from scipy.special import ndtri, stdtrit

    free = len(left_R) - 1
    own = float(np.sqrt(np.sum(left_R**2 / (1.0 + 1.0 / single_epoch_runs_R)) / free))
    if seed_sd is not None:
        return max(own, seed_sd)
    return max(own, min(noise, own * float(stdtrit(free, 0.975) / ndtri(0.975))))


def _forecast(law: Law, theta_BP: Floats, repeats: RepeatedRuns) -> Floats:
    """ln L(N, D') - ln L(N, D) (G, B, R) at each R* of the grid."""
    rows, tokens_R = repeats.points.rows, repeats.points.tokens

    def log_loss(r_star: float | None) -> Floats:
        unique_R = tokens_R if r_star is None else effective_tokens(tokens_R, tokens_R / repeats.epochs_R, r_star)
        loss_BR, _ = law.loss_and_gradient(theta_BP, replace(rows, log_tokens_R=np.log(unique_R)))
        return np.log(np.maximum(loss_BR, 1e-9))

    single_BR = log_loss(None)
    return np.stack([log_loss(r_star) - single_BR for r_star in _GRID_G.tolist()])


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


def _at(forecast_GR: Floats, r_star: float) -> Floats:
    """The forecast (R,) at one R*, linear in ln R* between grid points."""
    return np.array([np.interp(np.log(r_star), np.log(_GRID_G), forecast_G) for forecast_G in forecast_GR.T])
