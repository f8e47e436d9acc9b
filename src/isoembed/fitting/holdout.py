"""Does a law forecast?  Fit without the largest size, or without the largest budget, and look at what was left out.

A lower objective is no sign of it: laws are compared, and called good, on the held-out part alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from isoembed.core import InputError
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.notes import Judged, off, reason
from isoembed.laws.base import Law
from isoembed.laws.points import Floats, Points
from isoembed.notes import refusal_of

By = Literal["largest-size", "largest-budget"]
#: rows this close to the largest value belong to it
_NEAR = 0.9
#: budgets that are held out one after another, from the largest down
MOST_BACKTESTS = 4


class Holdout(Judged):
    """One law, one hold-out.  Errors are of ln loss: 0.01 is 1 %.

    `bias` is the mean of ln(observed / predicted) over the held-out rows, and its interval is where it would fall if
    the law were right: the bootstrap's spread of the forecast and the noise of the runs.
    """

    by: By
    law: str
    verdict: Literal["good", "biased", "untested"]
    n_fitted: int
    n_held: int
    in_range_error: float | None = Field(None, description="root mean square of ln residuals where fitted")
    held_error: float | None = Field(None, description="root mean square of ln residuals where held out")
    bias: Interval | None = None
    beyond: float | None = Field(None, description="mean held-out budget over the largest fitted one")

    @property
    def forecasts_beyond(self) -> bool:
        """Whether what it held out lies beyond the fitted budgets."""
        return self.beyond is not None and self.beyond > 1 / _NEAR


def held_rows(points: Points, by: By) -> NDArray[np.bool_]:
    """The rows within 10 % of the largest size, or budget; where most rows have one of their own and these are few, the
    top tenth of the rows and three at least."""
    column = "params" if by == "largest-size" else "flop"
    values_R = points.column(column)
    near_R = values_R >= _NEAR * values_R.max()
    least = min(max(3, len(points) // 10), len(points))
    # runs of one budget seldom cost the same to the last FLOP: steps and pairs are whole
    if points.distinct(column) <= len(points) / 2 or near_R.sum() >= least:
        return np.asarray(near_R)
    return np.asarray(values_R >= np.sort(values_R)[-least])


def holdout(
    law: Law, points: Points, by: By, *, draws: int = 200, seed: int = 0, delta: float | None = None
) -> Holdout:
    """Fit `law` without the held-out rows and judge its forecast of them."""
    held = held_rows(points, by)
    kept, left_out = points[~held], points[held]
    counts = {"n_fitted": len(kept), "n_held": len(left_out)}
    try:
        boot = bootstrap(law, kept, draws=draws, seed=seed, delta=delta) if len(kept) else None
    except InputError as error:
        return Holdout(
            by=by, law=law.name, verdict="untested", facts=(reason("not-fitted", error=refusal_of(error)),), **counts
        )
    if boot is None or boot.fit.status in ("too-few-points", "stuck"):
        why = [each for each in boot.fit.facts if each.kind == "reason"] if boot else [reason("nothing-left")]
        return Holdout(by=by, law=law.name, verdict="untested", facts=tuple(why), **counts)

    def log_errors(at: Points) -> Floats:
        return np.log(at.loss) - log_loss(law.predict(boot.fit.params, at))

    inside_R, outside_R = log_errors(kept), log_errors(left_out)
    forecast_B = np.mean(log_loss(boot.loss(left_out)) - log_loss(law.predict(boot.fit.params, left_out)), axis=1)
    free = len(law.parameters) - len(boot.fit.held)
    # residuals of a fit are too small by its degrees of freedom
    noise_R = inside_R * np.sqrt(len(kept) / max(1, len(kept) - free))
    runs = len(np.unique(left_out.run))
    noise_B = np.random.default_rng(seed).choice(noise_R, (len(forecast_B), runs)).mean(axis=1)
    bias = float(np.mean(outside_R))
    interval = percentile(bias, noise_B - forecast_B, boot.tail)
    low, high = interval.ends
    good = low <= bias <= high
    largest = by.replace("-", " ")
    return Holdout(
        by=by,
        law=law.name,
        verdict="good" if good else "biased",
        facts=() if good else (off("biased", bias, interval, largest=largest),),
        in_range_error=float(np.sqrt(np.mean(inside_R**2))),
        held_error=float(np.sqrt(np.mean(outside_R**2))),
        bias=interval,
        beyond=float(np.exp(np.mean(np.log(left_out.flop))) / kept.flop.max()),
        **counts,
    )


def backtests(law: Law, points: Points, first: Holdout, *, delta: float | None = None) -> list[Holdout]:
    """Each further budget below the largest one, forecast from those below it, down to `MOST_BACKTESTS` with `first`,
    which held out the largest; fewer where the runs below allow no fit."""
    found: list[Holdout] = []
    while first.verdict != "untested" and len(found) < MOST_BACKTESTS - 1:
        points = points[~held_rows(points, "largest-budget")]
        first = holdout(law, points, "largest-budget", delta=delta)
        if first.verdict != "untested":
            found.append(first)
    return found


def log_loss(loss: Floats) -> Floats:
    """ln of a forecast; one at or below zero, which some laws make far out, is as wrong as 1e-9."""
    return np.asarray(np.log(np.maximum(loss, 1e-9)))
