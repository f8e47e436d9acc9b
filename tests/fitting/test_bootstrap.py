"""Intervals come from resampled runs, and an unbounded end is said to be one."""

from __future__ import annotations

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.fitting.bootstrap import Bootstrap, bootstrap, crossover, resample
from isoembed.fitting.fit import fit
from isoembed.fitting.intervals import Interval, expanded_tail, percentile
from isoembed.fitting.isoflop import surface_optimum
from isoembed.laws import Points, law_named
from tests.laws.planted import TRUTH, planted

HOFFMANN = law_named("hoffmann")


def width(interval: Interval) -> float:
    low, high = interval.ends
    return high - low


@pytest.fixture(scope="module")
def boot() -> Bootstrap:
    return bootstrap(HOFFMANN, planted("hoffmann", rows=60, noise=0.01), draws=200, seed=1)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    points = planted("hoffmann", rows=30, noise=0.01)
    one, same, other = (bootstrap(HOFFMANN, points, draws=20, seed=seed).theta_BP for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_a_draw_is_the_fit_of_its_resample_from_every_start() -> None:
    """Warm starts must not leave a draw in the full table's basin."""
    points = planted("hoffmann", rows=60, noise=0.01)
    boot = bootstrap(HOFFMANN, points, draws=8, seed=3, delta=1e-2)
    weight = resample(points, 8, 3)
    for row in range(8):
        again = fit(HOFFMANN, Points.of(points.params, points.tokens, points.loss, weight=weight[row]), delta=1e-2)
        assert dict(zip(HOFFMANN.names, boot.theta_BP[row], strict=True)) == pytest.approx(again.params, rel=1e-5)


def test_intervals_hold_the_planted_values_and_narrow_with_the_noise(boot: Bootstrap) -> None:
    wide = boot.intervals()
    narrow = bootstrap(HOFFMANN, planted("hoffmann", rows=60, noise=0.001), draws=200).intervals()
    for name, value in TRUTH["hoffmann"].items():
        low, high = wide[name].ends
        assert low < value < high
        assert width(narrow[name]) < 0.2 * width(wide[name])


def test_rows_of_one_run_are_drawn_together() -> None:
    points = planted("hoffmann", rows=12)
    clustered = Points.of(points.params, points.tokens, points.loss, run=np.repeat(["a", "b", "c", "d"], 3))
    weight = resample(clustered, 50, 0).reshape(50, 4, 3)
    assert (weight == weight[:, :, :1]).all()
    assert (weight[:, :, 0].sum(axis=1) == 4).all()


def test_copies_of_a_run_narrow_the_interval_unless_clustered() -> None:
    points = planted("hoffmann", rows=40, noise=0.01)
    copies = np.repeat(np.arange(40), 4)
    apart = bootstrap(HOFFMANN, points[np.tile(np.arange(40), 4)], draws=100)  # run ids are shared: clustered
    naive_points = Points.of(points.params[copies], points.tokens[copies], points.loss[copies])
    naive = bootstrap(HOFFMANN, naive_points, draws=100)

    assert width(naive.intervals()["beta"]) < 0.7 * width(apart.intervals()["beta"])


def test_too_few_runs_are_refused() -> None:
    points = planted("hoffmann", rows=12)
    three = Points.of(points.params, points.tokens, points.loss, run=np.repeat([0, 1, 2], 4))
    with pytest.raises(InputError, match="at least 4 runs"):
        bootstrap(HOFFMANN, three)


def test_held_parameters_have_no_interval() -> None:
    points = planted("embedding", rows=40, noise=0.005)
    full = Points.of(points.params, points.tokens, points.loss, fraction=np.ones(40))
    found = bootstrap(law_named("embedding"), full, draws=20).intervals()
    assert (found["b_s"].value, found["b_s"].low, found["b_s"].high) == (1.0, None, None)


def test_prediction_intervals_for_a_run_are_wider_than_for_the_law(boot: Bootstrap) -> None:
    at = planted("hoffmann", rows=5, seed=9)
    for law, run in zip(boot.loss_intervals(at), boot.loss_intervals(at, noise=True), strict=True):
        assert run.ends[0] < law.ends[0]
        assert law.ends[1] < run.ends[1]


def test_best_sizes_hold_the_planted_optimum_and_say_how_far_out_they_are(boot: Bootstrap) -> None:
    flop = boot.fit.range["flop"][1] * np.array([0.1, 10.0])
    for best, beyond in zip(boot.compute_optimum(flop).sizes, (0.1, 10.0), strict=True):
        theta = HOFFMANN.vector(TRUTH["hoffmann"])[None]
        true = surface_optimum(HOFFMANN, theta, np.array([best.flop])).params_BF[0, 0]
        low, high = best.params.ends
        assert low < true < high
        assert best.params.value is not None
        assert best.tokens.value is not None
        assert best.params.value * best.tokens.value * 6 == pytest.approx(best.flop)
        assert best.beyond == pytest.approx(beyond)


def test_a_law_without_an_optimum_has_no_best_size() -> None:
    found = bootstrap(law_named("multiplicative"), planted("multiplicative", noise=0.005), draws=20)
    best = found.compute_optimum(np.array([1e18, 2e18])).sizes[0]
    assert (best.params.value, best.params.low, best.params.high) == (None, None, None)


def lines(slope: float, at: float, flop: np.ndarray) -> np.ndarray:
    return np.exp(1.0 + slope * np.log(flop / at))


def test_power_lines_cross_where_they_were_planted_to() -> None:
    flop = np.geomspace(1e12, 1e20, 30)
    first = np.stack([lines(-0.2, 3e16, flop)] * 101)
    second = np.stack([lines(-0.21 - 0.001 * (row % 5), 3e16, flop) for row in range(101)])
    found = crossover(first, second, flop, tail=expanded_tail(50))
    assert found.flop.value == pytest.approx(3e16, rel=1e-6)
    assert found.flop.low == pytest.approx(3e16, rel=1e-6)
    assert (found.never, found.always) == (0.0, 0.0)


def test_a_crossover_that_may_never_come_is_unbounded() -> None:
    flop = np.geomspace(1e12, 1e20, 30)
    first = np.stack([lines(-0.2, 3e16, flop)] * 101)
    second = np.stack([lines(-0.21 if row % 2 == 0 else -0.19, 3e16, flop) for row in range(101)])
    found = crossover(first, second, flop, tail=expanded_tail(50))
    assert found.flop.high is None
    assert "unbounded above" in found.flop.describe()
    assert found.never == pytest.approx(0.5)
    always = crossover(first, 0.9 * np.stack([first[0]] * 101), flop, tail=expanded_tail(50))
    assert (always.always, always.flop.value, always.flop.low) == (1.0, None, None)


def test_frontiers_of_a_power_law_are_its_line() -> None:
    found = bootstrap(law_named("power"), planted("power", noise=0.002), draws=10)
    flop = np.array([1e15, 1e18])
    expected = np.exp(found.fit.params["a"] + found.fit.params["b"] * np.log(flop))
    np.testing.assert_allclose(found.frontier(flop)[0], expected)
    assert found.frontier(flop).shape == (11, 2)


def test_few_runs_expand_the_percentiles() -> None:
    draws = np.linspace(0.0, 1.0, 10_001)
    few, many = (percentile(0.5, draws, expanded_tail(runs)) for runs in (10, 10_000))
    assert many.low == pytest.approx(0.025, abs=2e-4)
    assert few.ends[0] < 0.01
    assert few.ends[1] > 0.99


def test_the_fit_in_the_users_units_has_the_objective_it_states() -> None:
    points = planted("hoffmann", rows=30, noise=0.01)
    boot = bootstrap(HOFFMANN, points, draws=5, delta=1e-2)
    residual = np.log(boot.law.predict(boot.fit.params, points) / points.loss)
    inside = np.minimum(np.abs(residual), 1e-2)
    assert np.sum(inside * (np.abs(residual) - inside / 2)) == pytest.approx(boot.fit.objective, rel=1e-9)


def test_twenty_noisy_points_do_not_pin_down_eight_parameters() -> None:
    """Every start agrees and the residuals look fine: only the resamples tell."""
    law = law_named("embedding")
    found = bootstrap(law, planted("embedding", rows=20, noise=0.03, seed=5), draws=60).fit
    assert found.status == "weakly-identified"
    assert "known no better than to its own size" in found.describe()
    assert bootstrap(law, planted("embedding", rows=200, noise=0.003), draws=60).fit.status == "good"


def test_a_floor_that_may_be_zero_has_an_interval_from_zero_and_not_an_unbounded_one() -> None:
    truth = {**TRUTH["multiplicative"], "E": 0.0}
    floor = bootstrap(law_named("multiplicative"), planted("multiplicative", noise=0.02, truth=truth), draws=100)
    low, high = floor.intervals()["E"].ends
    assert low == 0.0
    assert high > 0.0
