"""What must not matter, for every law: the order of rows, their units, copies of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoembed.core import InputError
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.fit import fit
from isoembed.fitting.intervals import expanded_tail, percentile
from isoembed.laws import LAWS, Law, Points
from tests.laws.planted import planted

each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
#: on noisy tables two optima of one objective may differ in a flat direction: predictions may not
SAME = 1e-5


def predictions(law: Law, fitted_to: Points, at: Points) -> np.ndarray:
    return np.log(law.predict(fit(law, fitted_to, delta=1e-2).params, at))


@each_law
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_rows_and_copies_of_all_of_them_change_nothing(law: Law, seed: int) -> None:
    points = planted(law.name, rows=40, noise=0.005)
    order = np.random.default_rng(seed).permutation(40)
    expected = predictions(law, points, points)
    np.testing.assert_allclose(predictions(law, points[order], points), expected, atol=SAME)
    np.testing.assert_allclose(predictions(law, points[np.tile(order, 3)], points), expected, atol=SAME)


@each_law
@pytest.mark.parametrize(("size", "token", "loss"), [(1e-6, 1.0, 1.0), (1.0, 1e-9, 1.0), (1e3, 10.0, 1 / np.log(2))])
def test_units_change_nothing_but_the_coefficients(law: Law, size: float, token: float, loss: float) -> None:
    """N in millions, D in billions, losses in bits: but for laws of the odds, whose chance is in nats."""
    loss = 1.0 if law.own_units else loss
    points = planted(law.name, rows=40, noise=0.005)
    columns = {"flop": points.flop * size * token, "fraction": points.fraction}
    other = Points.of(
        points.params * size, points.tokens * token, points.loss * loss, **columns, candidates=points.candidates
    )
    expected = predictions(law, points, points) + np.log(loss)
    np.testing.assert_allclose(predictions(law, other, other), expected, atol=SAME)


@each_law
def test_a_column_with_one_value_and_equal_losses_are_refused_by_fit_and_bootstrap(law: Law) -> None:
    points = planted(law.name, rows=20)
    columns = {name: np.array(points.column(name)) for name in ("params", "tokens", "loss", "flop", "fraction")}
    equal = Points.of(**(columns | {"loss": np.full(20, 2.0)}), candidates=1024)
    one = Points.of(**(columns | {law.varies[0]: np.full(20, 1e8)}), candidates=1024)
    for run in (fit, bootstrap):
        with pytest.raises(InputError, match="`loss` must differ"):
            run(law, equal)
        with pytest.raises(InputError, match=f"differ in `{law.varies[0]}`"):
            run(law, one)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(draws=st.integers(20, 2000), runs=st.integers(4, 500))
def test_an_interval_is_two_order_statistics_and_never_narrower_than_its_level(draws: int, runs: int) -> None:
    """Between order statistics number a and B + 1 - a of B lie (B + 1 - 2 a) / (B + 1) of the mass."""
    tail = expanded_tail(runs)
    found = percentile(0.0, np.random.default_rng(0).permutation(draws).astype(float), tail)
    low, high = found.ends
    assert low + high == draws - 1
    if (draws + 1) * tail >= 1:
        assert (high - low) / (draws + 1) >= 1 - 2 * tail
    else:
        assert (low, high) == (0.0, draws - 1.0)
