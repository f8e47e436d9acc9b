"""The best size at a budget: surface, curve, and what is no minimum."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.fitting.isoflop import budgets, curve_minimum, surface_optimum
from isoembed.laws import Points, law_named
from tests.laws.planted import TRUTH

HOFFMANN = law_named("hoffmann")


def curve(truth: dict[str, float], flop: float = 1e18, span: float = 16.0, sizes: int = 9, at: float = 1.0) -> Points:
    """Noiseless runs of one budget, sizes spread `span` either way around `at` times the optimum."""
    best = surface_optimum(HOFFMANN, HOFFMANN.vector(truth)[None], np.array([flop])).params_BF[0, 0]
    params = best * at * np.geomspace(1 / span, span, sizes)
    tokens = flop / (6 * params)
    return Points.of(params, tokens, HOFFMANN.predict(truth, Points.of(params, tokens, np.ones(sizes))))


def test_closed_form_is_the_minimum_that_a_search_finds() -> None:
    """The embedding law with a_d = a_s = 0 is Hoffmann's, and has no closed form here."""
    t = TRUTH["hoffmann"]
    same = {
        "C": t["E"],
        "a_d": 0.0,
        "b_d": t["A"],
        "a_s": 0.0,
        "c_s": t["B"],
        "alpha": t["alpha"],
        "beta": t["beta"],
        "b_s": 1.0,
    }
    flop = np.array([1e16, 1e20])
    closed = surface_optimum(HOFFMANN, HOFFMANN.vector(t)[None], flop, flop_per_param_token=4.0)
    law = law_named("embedding")
    searched = surface_optimum(law, law.vector(same)[None], flop, flop_per_param_token=4.0)
    np.testing.assert_allclose(searched.params_BF, closed.params_BF, rtol=1e-5)
    np.testing.assert_allclose(4.0 * closed.params_BF * closed.tokens_BF, flop[None])
    assert not closed.edge_BF.any()


def test_tied_exponents_split_growth_evenly() -> None:
    law = law_named("tied")
    best = surface_optimum(law, law.vector(TRUTH["tied"])[None], np.array([1e16, 1e20])).params_BF[0]
    assert best[1] / best[0] == pytest.approx(100.0)


def test_the_multiplicative_law_ends_at_an_edge() -> None:
    law = law_named("multiplicative")
    assert surface_optimum(law, law.vector(TRUTH["multiplicative"])[None], np.array([1e18])).edge_BF.all()


@pytest.mark.parametrize("name", ["power", "rectified"])
def test_a_law_without_a_size_has_no_optimum(name: str) -> None:
    law = law_named(name)
    with pytest.raises(InputError, match="needs a law with N"):
        surface_optimum(law, law.vector(TRUTH[name])[None], np.array([1e18]))


def test_a_parabola_is_exact_at_equal_exponents_and_off_as_published_otherwise() -> None:
    """5 % in D at alpha / beta = 1.2 and 23 % at 3 over x16: N and D err alike at a fixed budget."""

    def bias(alpha: float, beta: float) -> float:
        truth = {**TRUTH["hoffmann"], "alpha": alpha, "beta": beta}
        best = surface_optimum(HOFFMANN, HOFFMANN.vector(truth)[None], np.array([1e18])).params_BF[0, 0]
        vertex = curve_minimum(curve(truth), how="parabola").params
        assert vertex is not None
        return abs(vertex / float(best) - 1.0)

    assert bias(0.35, 0.35) < 1e-3
    assert 0.01 < bias(0.30, 0.25) < 0.15
    assert bias(0.75, 0.25) > 2 * bias(0.30, 0.25)


def test_akima_finds_the_minimum_between_the_sizes() -> None:
    truth = TRUTH["hoffmann"]
    points = curve(truth, sizes=11, at=1.1)
    best = surface_optimum(HOFFMANN, HOFFMANN.vector(truth)[None], np.array([1e18])).params_BF[0, 0]
    found = curve_minimum(points)
    assert found.status == "good"
    assert found.params == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize("how", ["akima", "parabola"])
@pytest.mark.parametrize(("at", "side"), [(100.0, "smaller"), (0.01, "larger")])
def test_a_minimum_at_the_edge_is_a_status_with_advice(how: Literal["akima", "parabola"], at: float, side: str) -> None:
    found = curve_minimum(curve(TRUTH["hoffmann"], span=3.0, at=at), how=how)
    assert (found.status, found.params) == ("edge", None)
    assert f"add {side} models" in found.why


def test_a_curve_that_bends_down_is_a_status() -> None:
    size = np.geomspace(1e6, 1e8, 7)
    points = Points.of(size, 1e18 / (6 * size), np.exp(-0.1 * (np.log(size) - np.log(1e7)) ** 2))
    assert curve_minimum(points, how="parabola").status == "not-convex"


def test_too_few_sizes_is_a_status_and_repeats_do_not_help() -> None:
    points = curve(TRUTH["hoffmann"], sizes=4)
    assert curve_minimum(points[np.tile(np.arange(4), 3)]).status == "too-few-sizes"


def test_budgets_are_split_and_exponents_read_off_their_minima() -> None:
    truth = TRUTH["hoffmann"]
    parts = [curve(truth, flop=flop, sizes=15) for flop in (1e17, 1e18, 1e19)]
    points = Points.of(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("params", "tokens", "loss")))
    found = [curve_minimum(budget) for budget in budgets(points)]
    assert [round(np.log10(one.flop)) for one in found] == [17, 18, 19]
    log_flop, log_size = np.log([(one.flop, one.params) for one in found if one.params]).T
    slope, _ = np.polyfit(log_flop, log_size, 1)
    assert slope == pytest.approx(0.4 / 0.7, abs=0.01)
