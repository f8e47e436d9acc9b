"""Back-tests of all held-out budgets: a bias with its error, a shift where it has a sign, else a spread."""

from __future__ import annotations

import numpy as np
import pytest

from isoembed.fitting.drift import Drift, beyond
from isoembed.fitting.holdout import MOST_BACKTESTS, Holdout, backtests, holdout
from isoembed.fitting.intervals import Interval
from isoembed.laws import Points, law_named
from tests.laws.planted import TRUTH, table

HOFFMANN = law_named("hoffmann")


def backtest(bias: float, *, error: float = 0.005, held: float | None = None, beyond: float = np.e) -> Holdout:
    """One budget `beyond` those it was forecast from."""
    return Holdout(
        by="largest-budget", law="hoffmann", verdict="good", n_fitted=9, n_held=3,
        bias=Interval(value=bias, low=-1.96 * error, high=1.96 * error), held_error=held, beyond=beyond,
    )  # fmt: skip


def test_the_bias_is_a_shift_only_where_it_has_a_sign() -> None:
    """A rule that took |bias| would widen where all back-tests agree, and one back-test would shift by chance."""
    agree = Drift.of([backtest(-0.03), backtest(-0.032), backtest(-0.028)], 0.005)
    assert agree.shift == pytest.approx(-0.03)
    assert agree.spread < 0.01
    assert "shifted" in agree.describe()
    apart = Drift.of([backtest(-0.03), backtest(0.03), backtest(-0.03)], 0.005)
    assert (apart.shift, apart.tests) == (0.0, 3)
    assert apart.spread == pytest.approx(0.03)
    alone = Drift.of([backtest(-0.03)], 0.005)
    assert alone.shift == 0.0
    assert alone.spread == pytest.approx(0.03)
    assert "one back-test has no sign" in alone.describe()


def test_back_tests_count_by_how_far_they_reach() -> None:
    found = Drift.of([backtest(-0.06, beyond=np.e**2), backtest(-0.03)], 0.005)
    assert found.rate == pytest.approx(-0.03)
    assert Drift.of([backtest(-0.1, beyond=1.0)], 0.005) == Drift()
    assert Drift().describe().startswith("no budget could be forecast")


def test_what_lies_apart_beyond_noise_and_bias_goes_with_size() -> None:
    assert Drift.of([backtest(0.03, held=0.05)], 0.01).apart == pytest.approx(np.sqrt(0.05**2 - 0.03**2 - 0.01**2))
    assert Drift.of([backtest(0.03, held=0.031)], 0.02).apart == 0.0


def test_all_budgets_are_held_out_one_after_another() -> None:
    """Of losses that bend down in ln C every back-test is too high, and the bias has a sign."""
    params, flop = (each.ravel() for each in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e15, 4**6 * 1e15, 7)))
    noise = 0.002 * np.random.default_rng(0).normal(size=len(params))
    points = table(HOFFMANN, TRUTH["hoffmann"], params, flop / (6 * params), np.ones_like(params), noise)
    bent = Points.of(points.params, points.tokens, points.loss * np.exp(-0.01 * np.log(flop / 1e15) ** 2))
    largest = holdout(HOFFMANN, bent, "largest-budget", draws=40)
    others = backtests(HOFFMANN, bent, largest)
    assert len(others) == MOST_BACKTESTS - 1
    assert [each.n_fitted for each in (largest, *others)] == [30, 25, 20, 15]
    assert Drift.of([largest, *others], 0.002).shift < -0.01
    straight = holdout(HOFFMANN, points, "largest-budget", draws=40)
    assert Drift.of([straight, *backtests(HOFFMANN, points, straight)], 0.002).shift == 0.0


def test_inside_the_fitted_budgets_nothing_drifts() -> None:
    assert beyond(np.array([1e10, 1e12, np.e * 1e12]), 1e12) == pytest.approx([0, 0, 1])
