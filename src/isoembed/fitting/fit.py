"""Fit a law: points in, `Fit` out.  Sum of Huber on log residuals, many starts, everything that went wrong in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import InputError, Summarised
from isoembed.fitting.minimise import Minimum, Problem, minimise
from isoembed.fitting.notes import FitNote, reason, remark
from isoembed.laws.base import Law, Units
from isoembed.laws.points import Floats, Points
from isoembed.notes import Noted

#: from `good` to worst; a fit carries the worst that applies and all reasons
Status = Literal["good", "few-starts-agree", "at-bound", "poor-fit", "weakly-identified", "too-few-points", "stuck"]
_ORDER: tuple[Status, ...] = (
    "good", "few-starts-agree", "at-bound", "poor-fit", "weakly-identified", "too-few-points", "stuck",
)  # fmt: skip

#: a fit whose ln residuals are larger, root mean square over all its runs, describes them poorly; and so does one over
#: `MOST_ERROR_OF_SEEDS` times the noise between seeds where there were repeats, if it is over `LEAST_ERROR` too
MOST_ERROR, MOST_ERROR_OF_SEEDS, LEAST_ERROR = 0.05, 5.0, 0.02

#: starts whose objective lies within this share of the lowest one agree with it
_AGREE = 1e-6
#: another minimum within this factor of the lowest objective may win in a resample
_RIVAL = 1.5
#: delta of the pilot fit that measures the noise, and the least delta it may set
PILOT_DELTA = 1e-3
_LEAST_DELTA = 1e-6
#: robust standard deviations beyond which a run is called an outlier
_OUTLIER = 5.0
#: fewer points do not tell whether a term is there
_LEAST_POINTS = 12
#: residuals of ln loss below this are rounding
_ROUNDING = 1e-9
#: Huber 1964: 95 % efficient under normal noise
_EFFICIENT = 1.345


class Fit(Summarised, Noted):
    """One fitted law.  Parameters are in the user's units."""

    noted: ClassVar = "facts"
    described: ClassVar = {"why": "reason", "simplified": "held"}

    law: str
    params: dict[str, float]
    held: dict[str, float] = Field(description="parameters that the points cannot identify, and where they were held")
    objective: float = Field(description="weighted sum over points of Huber(delta)")
    delta: float | None = Field(description="width of the Huber zone in ln loss; None for plain squares")
    noise: float = Field(
        ge=0, description="robust standard deviation of the log residuals: 1.4826 median |r|, see `Solver.noise`"
    )
    error: float | None = Field(
        None, ge=0, description="root mean square of all ln residuals, outliers among them; None in older files"
    )
    n_points: int
    n_starts: int
    starts_agreeing: float = Field(description="share of starts that reached the lowest objective to 1e-6")
    condition: float | None = Field(description="of the Jacobian with unit columns; None where singular")
    range: dict[str, tuple[float, float]] = Field(description="lowest and highest value of each column that was fitted")
    status: Status
    facts: tuple[FitNote, ...] = Field((), description="every reason behind a status other than good; what was held")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why(self) -> tuple[str, ...]:
        """Every reason behind a status other than good, in words."""
        return self._sentences("reason")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def simplified(self) -> str:
        """Parameters held, for nothing distinguishes them from zero, and by what; or none."""
        return "".join(self._sentences("held"))

    def with_reasons(self, status: Status, reasons: Sequence[FitNote]) -> Fit:
        """The fit with further reasons against it; itself where there are none."""
        if not reasons:
            return self
        worst = max(self.status, status, key=_ORDER.index)
        return self.model_copy(update={"status": worst, "facts": (*self.facts, *reasons)})

    def summary(self) -> dict[str, str]:
        """The law, its parameters and how the fit went."""
        params = {name: f"{value:.6g}" for name, value in self.params.items()}
        return {"law": self.law, "points": f"{self.n_points}", **params, "status": self.describe()}

    @property
    def reasons(self) -> tuple[FitNote, ...]:
        """Every reason behind a status other than good."""
        return tuple(each for each in self.facts if each.kind == "reason")

    @property
    def standing(self) -> FitNote:
        """The status with every reason behind it."""
        return remark("standing", status=self.status if self.reasons else "good", why=self.reasons)

    def describe(self) -> str:
        """The status as a sentence."""
        return self.standing.describe()


#: no parameter
_NONE: Mapping[str, float] = MappingProxyType({})


class Solver:
    """A law on its points in working units: what `fit` and the bootstrap share."""

    def __init__(self, law: Law, points: Points, *, raw: bool = False, absent: Mapping[str, float] = _NONE) -> None:
        law.check(points)
        self.law, self.points, self.absent = law, points, absent
        self.units = Units.of(points, loss=not (raw or law.own_units))
        self.held = {**law.held(points), **absent}
        low_P = np.array([self.held.get(p.name, p.low) for p in law.parameters])
        high_P = np.array([self.held.get(p.name, p.high) for p in law.parameters])
        loss_R = points.loss / np.exp(self.units.log_loss)
        self.problem = Problem(law, self.units.centre(points.rows), loss_R, low_P, high_P, raw)

    @property
    def free(self) -> list[int]:
        """Indices of the parameters that are fitted."""
        return [index for index, name in enumerate(self.law.names) if name not in self.held]

    def starts(self, weight_R: Floats) -> Floats:
        """Start values (B, P): exponents on a grid, the linear parameters solved by weighted least squares on
        relative residuals (variable projection), then moved inside their bounds."""
        problem, parameters = self.problem, self.law.parameters
        theta_BP = np.clip(self.law.start_grid(), problem.low_P, problem.high_P)
        theta_BP = np.unique(theta_BP, axis=0)
        linear = [i for i in self.free if parameters[i].linear]
        if not linear:
            return theta_BP
        level_BR, feature_BPR, target_BR, slope_BR = self.law.level(theta_BP, problem.rows, problem.loss_R)
        relative_BR = np.sqrt(weight_R) * slope_BR / (1.0 if problem.raw else problem.loss_R)
        feature_BRK = (feature_BPR[:, linear] * relative_BR[:, None]).swapaxes(1, 2)
        missing_BR = (target_BR - level_BR) * relative_BR
        solved_BK = np.matmul(np.linalg.pinv(feature_BRK, rcond=1e-10), missing_BR[..., None])[..., 0]
        scale = float(np.exp(np.mean(np.log(target_BR)))) if self.law.own_units else 1.0
        floor_K = problem.low_P[linear] + 1e-3 * scale
        theta_BP[:, linear] = np.maximum(solved_BK, floor_K)
        return theta_BP

    def run(self, theta_BP: Floats, weight_BR: Floats, delta: float) -> Minimum:
        """Minimise from `theta_BP`, in working units."""
        return minimise(self.problem, theta_BP, np.broadcast_to(weight_BR, (len(theta_BP), len(self.points))), delta)

    def noise(self, theta_P: Floats, weight_R: Floats) -> float:
        """1.4826 times the weighted median of |residual|, the P - 1 smallest left out: a robust fit runs through nearly
        as many points as it has parameters, and they tell nothing of the noise (DuMouchel and O'Brien 1989)."""
        size_R = np.abs(self.problem.residuals(theta_P[None])[0][0])
        order = np.argsort(size_R)[min(len(self.free) - 1, len(size_R) - 1) :]
        share = np.cumsum(weight_R[order]) / np.sum(weight_R[order])
        return float(1.4826 * size_R[order][np.searchsorted(share, 0.5)])


def fit(law: Law, points: Points, *, delta: float | None = None, residual: Literal["log", "raw"] = "log") -> Fit:
    """Fit `law` to `points`.

    delta: width of the Huber zone (infinite for squares).  None ties it to the noise: 1.345 times the residuals' robust
    standard deviation in a pilot fit at 1e-3, where it acts as least absolute deviations.
    residual: of ln loss, or of the loss itself in its own units.
    """
    return solve(Solver(law, points, raw=residual == "raw"), delta)[1]


def outliers(law: Law, points: Points, fitted: Fit) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows whose log residual exceeds five times the noise: never dropped, but a second fit without them is due.  An
    exact fit has a noise of nothing and residuals of rounding, which are no outliers."""
    residual_R = np.log(points.loss) - np.log(law.predict(fitted.params, points))
    return np.asarray(np.abs(residual_R) > max(_OUTLIER * fitted.noise, _ROUNDING))


def solve(solver: Solver, delta: float | None) -> tuple[Solver, Fit, Floats]:
    """The fit, and the minima from which a bootstrap starts: its own and its closest rival, in working units; with the
    solver that it is of.

    Terms that a law may lack (`Law.may_lack`) are left out, and their parameters held, where the runs do not tell them
    from zero: where AICc, of the summed Huber loss at one width, is not better with them.
    """
    fitted, minima = _solved(solver, delta)
    simpler = solver.law.may_lack if not solver.problem.raw else ()
    if not simpler or len(solver.points) < _LEAST_POINTS:
        return solver, fitted, minima
    best, best_value = (solver, fitted, minima), _aicc(solver, fitted)
    full_value = best_value
    for absent in simpler:
        less = Solver(solver.law, solver.points, absent=absent)
        found, its_minima = _solved(less, fitted.delta or np.inf)
        if (value := _aicc(less, found)) < best_value:
            best, best_value = (less, found, its_minima), value
    less, found, its_minima = best
    if not less.absent:
        return best
    zeros = tuple(name for name, value in less.absent.items() if value == 0 and solver.law.is_linear(name))
    others = tuple(name for name in less.absent if not solver.law.is_linear(name))
    # infinite where the full law has too many parameters for the points
    change = best_value - full_value if math.isfinite(full_value) else ()
    known = {"zeros": zeros, "change": change, "runs": len(solver.points)}
    with_them = {"others": others} if others else {}
    held = FitNote(kind="held", code="zero-with" if others else "zero", fields=known | with_them)
    return less, found.model_copy(update={"facts": (held, *found.facts)}), its_minima


def _aicc(solver: Solver, fitted: Fit) -> float:
    """Akaike's criterion for few points, of the objective; infinite with too few of them."""
    points, free = len(solver.points), len(solver.free)
    if points <= free + 2:
        return np.inf
    misfit = points * np.log(fitted.objective / points + 1e-18)
    return float(misfit + 2 * free + 2 * free * (free + 1) / (points - free - 1))


def _solved(solver: Solver, delta: float | None) -> tuple[Fit, Floats]:
    """The fit with the parameters that `solver` leaves free, and its minima."""
    if delta is not None and not (0 < delta <= 10 or delta == np.inf):  # infinite for squares
        raise InputError(
            f"`delta` must be positive, a width in ln loss up to 10; got {delta:g}. Leave it out for the noise."
        )
    law, points = solver.law, solver.points
    start_BP = solver.starts(points.weight)
    if delta is None:
        pilot = solver.run(start_BP, points.weight, PILOT_DELTA)
        best_P = pilot.theta_BP[np.argmin(pilot.objective_B)]
        delta = max(_EFFICIENT * solver.noise(best_P, points.weight), _LEAST_DELTA)
    end = solver.run(start_BP, points.weight, delta)
    order_B = np.argsort(end.objective_B)
    best = order_B[0]
    theta_P, lowest = end.theta_BP[best], float(end.objective_B[best])
    agree_B = end.objective_B <= lowest * (1 + _AGREE) + 1e-18
    params = dict(zip(law.names, law.physical(theta_P[None], solver.units)[0].tolist(), strict=True))
    noise = solver.noise(theta_P, points.weight)
    error = float(np.sqrt(np.mean(solver.problem.residuals(theta_P[None])[0][0] ** 2)))
    found, condition = _diagnose(solver, theta_P, noise)
    found += [] if solver.problem.raw else _misfit(error, points.seed_sd())
    if end.predicted_decrease_B[best] > 1e-6:
        found.append(("stuck", reason("stuck")))
    if (share := float(np.mean(agree_B))) < 0.5:
        found.append(("few-starts-agree", reason("few-starts", share=share, starts=len(agree_B))))
    fitted = Fit(
        law=law.name,
        params=params,
        held=solver.held,
        objective=lowest,
        delta=None if np.isinf(delta) else delta,
        noise=noise,
        error=None if solver.problem.raw else error,
        n_points=len(points),
        n_starts=len(agree_B),
        starts_agreeing=share,
        condition=condition,
        range={name: _range(points, name) for name in ("params", "tokens", "flop", "fraction", "loss")},
        status=max((status for status, _ in found), key=_ORDER.index, default="good"),
        facts=tuple(fact for _, fact in found),
    )
    rival_B = [b for b in order_B if not agree_B[b] and end.objective_B[b] < _RIVAL * lowest]
    return fitted, end.theta_BP[[best, *rival_B[:1]]]


def _misfit(error: float, seed_sd: float | None) -> list[tuple[Status, FitNote]]:
    """Why residuals of root mean square `error` make a poor fit; none where they are small."""
    if error > MOST_ERROR:
        return [("poor-fit", reason("far-off", error=error, most=MOST_ERROR))]
    if seed_sd and error > max(MOST_ERROR_OF_SEEDS * seed_sd, LEAST_ERROR):
        return [("poor-fit", reason("far-off-for-seeds", error=error, times=error / seed_sd))]
    return []


def _range(points: Points, column: str) -> tuple[float, float]:
    values_R = points.column(column)
    return float(values_R.min()), float(values_R.max())


def _diagnose(solver: Solver, theta_P: Floats, noise: float) -> tuple[list[tuple[Status, FitNote]], float | None]:
    """What the points leave open at the optimum, and the condition of the Jacobian with unit columns."""
    problem, law, free = solver.problem, solver.law, solver.free
    found: list[tuple[Status, FitNote]] = []
    settings = solver.points.distinct("params", "tokens", "flop", "fraction")
    if settings < len(free) + 2:
        few = reason("few-settings", settings=settings, parameters=len(free), least=len(free) + 2)
        found.append(("too-few-points", few))
    for index in free:
        parameter, value = law.parameters[index], theta_P[index]
        if value <= problem.low_P[index] or value >= problem.high_P[index]:
            edge = "lowest" if value <= problem.low_P[index] else "highest"
            found.append(("at-bound", reason("at-bound", parameter=parameter.name, edge=edge)))
    found += [
        ("weakly-identified", reason("few-values", values=values, column=column))
        for column in law.varies
        if law.name != "power" and (values := solver.points.distinct(column)) < 3
    ]
    jacobian_RP = problem.residuals(theta_P[None])[1][0, free].T
    length_P = np.linalg.norm(jacobian_RP, axis=0)
    _, singular, right_KP = np.linalg.svd(jacobian_RP / np.where(length_P > 0, length_P, 1.0), full_matrices=False)
    if len(singular) < len(free) or not singular[-1] > 1e-9 * singular[0]:
        found.append(("weakly-identified", reason("flat")))
        return found, None
    # a rough standard error, to tell whether an exponent is known at all: never reported as an interval
    spread_P = np.linalg.norm(right_KP / singular[:, None], axis=0) / length_P
    for position, index in enumerate(free):
        parameter = law.parameters[index]
        if not parameter.linear and parameter.low > 0 and 2 * noise * spread_P[position] > theta_P[index]:
            near_zero = reason("exponent-near-zero", parameter=parameter.name, value=float(theta_P[index]))
            found.append(("weakly-identified", near_zero))
    return found, float(singular[0] / singular[-1])
