"""Planted laws are recovered; the answer hangs on nothing but the data; what is wrong is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from isoembed.core import InputError
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.fit import MOST_ERROR, Solver, fit, outliers
from isoembed.fitting.minimise import _descend, huber_sum, minimise
from isoembed.laws import LAWS, Law, Points, law_named
from tests.laws.planted import TRUTH, planted

HOFFMANN = law_named("hoffmann")
each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


@each_law
def test_a_noiseless_planted_law_is_recovered_from_nearly_every_start(law: Law) -> None:
    found = fit(law, planted(law.name), delta=1e-3)
    for name, value in TRUTH[law.name].items():
        assert found.params[name] == pytest.approx(value, rel=1e-5), name
    assert found.objective < 1e-15


@each_law
def test_a_noisy_planted_law_is_recovered_within_a_few_percent(law: Law) -> None:
    points = planted(law.name, rows=300, noise=0.003)
    found = fit(law, points)
    predicted, true = law.predict(found.params, points), law.predict(TRUTH[law.name], points)
    assert np.max(np.abs(np.log(predicted / true))) < 0.004
    assert found.noise == pytest.approx(0.003, rel=0.25)
    assert found.delta == pytest.approx(1.345 * 0.003, rel=0.25)
    assert found.starts_agreeing > 0.8


def test_shares_of_one_fit_the_embedding_law_with_six_parameters() -> None:
    points = planted("embedding", rows=60)
    full = Points.of(points.params, points.tokens, law_named("embedding").predict(TRUTH["embedding"], Points.of(
        points.params, points.tokens, points.loss)))  # fmt: skip
    found = fit(law_named("embedding"), full, delta=1e-3)
    assert found.held == {"a_s": 0.0, "b_s": 1.0}
    assert found.status == "good"
    assert found.params["c_s"] == pytest.approx(TRUTH["embedding"]["c_s"], rel=1e-5)


@pytest.mark.parametrize("factor", [1 / 60, 1000.0])
def test_the_answer_does_not_change_with_the_objectives_scale(factor: float) -> None:
    """A mean in place of a sum, under absolute tolerances, stops early: Hoffmann's own mistake."""
    points = planted("hoffmann", noise=0.005)
    scaled = Points.of(points.params, points.tokens, points.loss, weight=np.full(60, factor))
    one, other = fit(HOFFMANN, points, delta=1e-3), fit(HOFFMANN, scaled, delta=1e-3)
    assert other.objective == pytest.approx(one.objective * factor, rel=1e-9)
    assert other.params == pytest.approx(one.params, rel=1e-5)


def test_no_quasi_newton_method_finds_a_lower_objective() -> None:
    points = planted("hoffmann", noise=0.01)
    solver = Solver(HOFFMANN, points)
    best = solver.run(solver.starts(points.weight), points.weight, 1e-3)
    lowest = best.objective_B.min()
    problem = solver.problem

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        residual, jacobian = problem.residuals(theta[None])
        value = huber_sum(residual, points.weight, 1e-3)[0]
        return 1e4 * value, 1e4 * jacobian[0] @ np.clip(residual[0], -1e-3, 1e-3)

    bounds = list(zip(problem.low_P, problem.high_P, strict=True))
    for start in solver.starts(points.weight)[::9]:
        other = minimize(objective, start, jac=True, bounds=bounds, options={"maxiter": 1000, "ftol": 1e-15})
        assert lowest <= other.fun / 1e4 * (1 + 1e-9)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size_unit=st.sampled_from([1e-6, 1e3]), token_unit=st.sampled_from([1e-9, 10.0]))
def test_order_units_and_duplicates_change_nothing(seed: int, size_unit: float, token_unit: float) -> None:
    points = planted("hoffmann", rows=40, noise=0.01)
    one = fit(HOFFMANN, points, delta=1e-2)
    order = np.random.default_rng(seed).permutation(40)
    shuffled = fit(HOFFMANN, points[order], delta=1e-2)
    assert shuffled.params == pytest.approx(one.params, rel=1e-6)
    twice = fit(HOFFMANN, points[np.concatenate([order, order])], delta=1e-2)
    assert twice.params == pytest.approx(one.params, rel=1e-6)
    assert twice.objective == pytest.approx(2 * one.objective, rel=1e-9)
    other_units = fit(
        HOFFMANN, Points.of(points.params * size_unit, points.tokens * token_unit, points.loss), delta=1e-2
    )
    assert other_units.params["alpha"] == pytest.approx(one.params["alpha"], rel=1e-6)
    assert other_units.params["A"] == pytest.approx(one.params["A"] * size_unit ** one.params["alpha"], rel=1e-6)
    assert other_units.objective == pytest.approx(one.objective, rel=1e-9)


def test_a_weight_of_two_is_a_row_twice() -> None:
    points = planted("hoffmann", rows=30, noise=0.01)
    weight = np.ones(30)
    weight[4] = 2.0
    weighted = fit(HOFFMANN, Points.of(points.params, points.tokens, points.loss, weight=weight), delta=1e-2)
    doubled = fit(HOFFMANN, points[np.array([*range(30), 4])], delta=1e-2)
    assert weighted.params == pytest.approx(doubled.params, rel=1e-6)


def test_outliers_are_named_and_move_a_robust_fit_little() -> None:
    points = planted("hoffmann", rows=80, noise=0.003)
    loss = points.loss.copy()
    loss[[3, 17]] *= 1.5
    spoiled = Points.of(points.params, points.tokens, loss)
    found = fit(HOFFMANN, spoiled)
    assert np.flatnonzero(outliers(HOFFMANN, spoiled, found)).tolist() == [3, 17]
    assert found.n_points == 80
    assert found.params["beta"] == pytest.approx(0.4, rel=0.1)


def test_few_points_are_a_status_with_words() -> None:
    found = fit(law_named("embedding"), planted("embedding", rows=8))
    assert found.status == "too-few-points"
    assert "8 different settings for 8 parameters" in found.describe()


def test_repeated_settings_count_once() -> None:
    points = planted("hoffmann", rows=6)
    found = fit(HOFFMANN, points[np.repeat(np.arange(6), 10)])
    assert found.status == "too-few-points"


def test_two_sizes_cannot_tell_a_power_from_its_constant() -> None:
    points = planted("hoffmann", rows=40, noise=0.002)
    two = Points.of(np.resize([1e7, 1e8], 40), points.tokens, points.loss)
    found = fit(HOFFMANN, two)
    assert any("2 values of params cannot tell" in why for why in found.why)
    assert found.status != "good"


def test_a_parameter_at_its_bound_is_said() -> None:
    """A planted floor below zero is no loss: E lands on zero."""
    points = planted("multiplicative", truth={**TRUTH["multiplicative"], "E": -0.1})
    found = fit(law_named("multiplicative"), points)
    assert found.params["E"] == 0.0
    assert "E stands at the lowest value allowed" in found.describe()


def test_an_exponent_lost_in_noise_is_said() -> None:
    found = fit(HOFFMANN, planted("hoffmann", rows=20, noise=0.5, seed=4))
    assert found.status in ("weakly-identified", "at-bound", "few-starts-agree")
    assert found.why


def test_a_solver_that_never_moved_is_stuck() -> None:
    """One published fit is its own starting point: the promise of one more step must give that away."""
    points = planted("hoffmann", noise=0.01)
    solver = Solver(HOFFMANN, points)
    start, weight = solver.starts(points.weight)[:1], points.weight[None]
    ended = minimise(solver.problem, start, weight, 1e-3)
    assert ended.predicted_decrease_B[0] < 1e-6
    _, _, promise = _descend(solver.problem, start, weight, np.array([1e-3]), done=1e-12, most=1)
    assert promise[0] > 1e-6


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_delta_must_be_positive(delta: float) -> None:
    with pytest.raises(InputError, match="`delta` must be positive"):
        fit(HOFFMANN, planted("hoffmann"), delta=delta)
    with pytest.raises(InputError, match="`delta` must be positive"):
        bootstrap(HOFFMANN, planted("hoffmann"), delta=delta)


def test_huber_is_quadratic_inside_and_linear_outside() -> None:
    residual, weight = np.array([[0.5, -2.0]]), np.array([[1.0, 3.0]])
    assert huber_sum(residual, weight, 1.0)[0] == pytest.approx(0.125 + 3.0 * 1.5)
    assert huber_sum(residual, weight, np.inf)[0] == pytest.approx(0.125 + 3.0 * 2.0)


def test_a_fit_that_misses_its_runs_is_not_good() -> None:
    """Its parameters are known and its starts agree, but a third column moves the loss by a fifth."""
    points = planted("hoffmann", rows=200)
    off = np.exp(0.22 * np.sign(np.random.default_rng(0).normal(size=200)))
    found = fit(HOFFMANN, replace(points, loss=points.loss * off))
    assert found.error is not None
    assert found.error > MOST_ERROR
    assert found.status != "good"
    assert any("around the law, root mean square; 5% is the most" in words for words in found.why)
    assert fit(HOFFMANN, planted("hoffmann", rows=200, noise=0.01)).status == "good"


def test_a_misfit_of_many_times_the_seeds_noise_is_poor() -> None:
    points = planted("hoffmann", rows=60, noise=0.03)
    params, tokens = (np.concatenate([column, column]) for column in (points.params, points.tokens))
    losses = np.concatenate([points.loss, points.loss * 1.001])
    found = fit(HOFFMANN, Points.of(params, tokens, losses))
    assert any("times what seeds lie apart" in words for words in found.why)


@pytest.mark.parametrize(
    ("truth", "absent"), [({"E": 0.0}, {"E"}), ({"A": 0.0}, {"A"}), ({"E": 0.0, "A": 0.0}, {"E", "A"}), ({}, set())]
)
def test_terms_that_runs_do_not_tell_from_zero_are_held(truth: dict[str, float], absent: set[str]) -> None:
    """Left free, a term of nothing takes an exponent of its own and bends the forecast."""
    law = law_named("interaction-odds")
    points = planted("interaction-odds", noise=0.005, truth={**TRUTH["interaction-odds"], "E": 0.01} | truth)
    found = fit(law, points)
    assert {name for name in ("E", "A") if found.held.get(name) == 0.0} == absent
    assert all(name in found.simplified for name in absent)
    assert bool(found.simplified) == bool(absent)
