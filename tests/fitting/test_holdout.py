"""A law is called good only where it forecasts what it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from isoembed.fitting.holdout import By, held_rows, holdout
from isoembed.laws import Law, Points, law_named
from tests.laws.planted import TRUTH, table

HOFFMANN = law_named("hoffmann")


def grid(law: Law, truth: dict[str, float], noise: float, seed: int = 0) -> Points:
    """6 sizes x 6 budgets."""
    params, flop = np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e15, 1e17, 6))
    error = noise * np.random.default_rng(seed).normal(size=36)
    return table(law, truth, params.ravel(), (flop / (6 * params)).ravel(), np.ones(36), error)


@pytest.mark.parametrize("by", ["largest-size", "largest-budget"])
def test_the_planted_law_is_good_and_mostly_so_over_seeds(by: By) -> None:
    verdicts = [
        holdout(HOFFMANN, grid(HOFFMANN, TRUTH["hoffmann"], 0.01, seed), by, draws=60, seed=seed).verdict
        for seed in range(12)
    ]
    assert verdicts.count("good") >= 10


def test_a_law_that_misses_the_held_out_part_is_refused_with_numbers() -> None:
    points = grid(HOFFMANN, TRUTH["hoffmann"], 0.002)
    largest = points.params == points.params.max()
    worse = Points.of(points.params, points.tokens, points.loss * np.where(largest, 1.1, 1.0))
    found = holdout(HOFFMANN, worse, "largest-size", draws=60)
    assert found.verdict == "biased"
    assert "above the forecast" in found.why
    assert found.bias is not None
    assert found.bias.value == pytest.approx(np.log(1.1), abs=0.02)
    assert found.held_error is not None
    assert found.held_error > 0.08


def test_held_rows_are_the_largest_size_or_budget_or_the_top_tenth() -> None:
    points = grid(HOFFMANN, TRUTH["hoffmann"], 0.0)
    assert held_rows(points, "largest-size").sum() == 6
    assert set(points.params[held_rows(points, "largest-size")]) == {points.params.max()}
    assert held_rows(points, "largest-budget").sum() == 6
    chance = np.random.default_rng(0)
    scattered = Points.of(10 ** chance.uniform(6, 8, 50), 10 ** chance.uniform(7, 9, 50), chance.uniform(1, 2, 50))
    held = held_rows(scattered, "largest-budget")
    assert held.sum() == 5
    assert scattered.flop[held].min() > scattered.flop[~held].max()


def test_runs_of_one_budget_that_cost_not_quite_the_same_are_held_out_together() -> None:
    budgets = np.repeat([1e12, 4e12, 16e12], 6) * (1 + 1e-4 * np.arange(18))
    params = np.tile(np.geomspace(1e5, 1e7, 6), 3)
    points = Points.of(params, budgets / (6 * params), np.linspace(4, 2, 18))
    assert held_rows(points, "largest-budget").tolist() == [False] * 12 + [True] * 6


def test_the_error_in_range_does_not_tell_which_law_forecasts() -> None:
    """The embedding law contains Hoffmann's and fits this table closer; it forecasts it worse."""
    points = grid(HOFFMANN, TRUTH["hoffmann"], 0.01, seed=6)
    hoffmann, embedding, multiplicative = (
        holdout(law_named(name), points, "largest-budget", draws=40)
        for name in ("hoffmann", "embedding", "multiplicative")
    )
    assert (hoffmann.held_error or 0.0) < (embedding.held_error or 0.0) < (multiplicative.held_error or 0.0)
    assert (embedding.in_range_error or 0.0) < (hoffmann.in_range_error or 0.0)


def test_nothing_left_to_fit_is_untested_and_never_good() -> None:
    points = grid(HOFFMANN, TRUTH["hoffmann"], 0.0)
    two_sizes = points[points.params <= np.unique(points.params)[1]]
    found = holdout(HOFFMANN, two_sizes, "largest-size")
    assert found.verdict == "untested"
    assert "differ in `params`" in found.why
    one = points[points.params == points.params.max()]
    assert holdout(HOFFMANN, one, "largest-size").verdict == "untested"


def test_a_negative_forecast_is_an_error_of_a_size_that_can_be_told() -> None:
    """A straight line in ln D turns negative far out; that is biased, not a crash."""
    law = law_named("embedding")
    truth = {**TRUTH["embedding"], "C": 0.0, "a_d": -20.0, "b_d": 420.0, "c_s": 1.0, "a_s": 0.0}
    params, tokens = np.meshgrid(np.geomspace(1e6, 1e7, 5), np.append(np.geomspace(1e6, 1e8, 8), 1e9))
    exact = Points.of(params.ravel(), tokens.ravel(), np.ones(45))
    loss = np.maximum(law.predict(truth, exact), 0.05)
    found = holdout(law, Points.of(exact.params, exact.tokens, loss), "largest-budget", draws=20)
    assert found.verdict in ("biased", "untested", "good")
    assert found.held_error is None or np.isfinite(found.held_error)
