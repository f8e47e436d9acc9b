"""Every law keeps the contract: gradient, units, what cannot be identified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoembed import laws
from isoembed.core import InputError
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.settings import Group
from isoembed.fitting.study import study
from isoembed.laws import LAWS, Law, Points, law_named, laws_named
from isoembed.laws.base import Units
from isoembed.laws.embedding import share_power
from tests.laws.planted import TRUTH, planted

each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


def working_theta(law: Law) -> np.ndarray:
    """A point inside the bounds, of order one."""
    chance = np.random.default_rng(1)
    theta = np.clip(chance.uniform(0.3, 1.2, (3, len(law.parameters))), 0.05, 3.0)
    if "K" in law.names:
        theta[:, law.names.index("K")] = 1024.0
    return theta


@each_law
def test_gradient_is_the_derivative_of_the_loss(law: Law) -> None:
    points = planted(law.name, rows=7)
    rows = Units.of(points).centre(points.rows)
    theta = working_theta(law)
    _, gradient = law.loss_and_gradient(theta, rows)
    for index in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, index] = 1e-6
        slope = (law.loss_and_gradient(theta + step, rows)[0] - law.loss_and_gradient(theta - step, rows)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, index], slope, rtol=1e-6, atol=1e-7, err_msg=law.names[index])


@each_law
def test_linear_parameters_multiply_features_that_depend_on_no_linear_parameter(law: Law) -> None:
    points = planted(law.name, rows=7)
    rows = Units.of(points).centre(points.rows)
    theta, other = working_theta(law), working_theta(law)
    linear = [index for index, parameter in enumerate(law.parameters) if parameter.linear]
    other[:, linear] *= 3.0
    np.testing.assert_array_equal(
        law.level(theta, rows, points.loss)[1][:, linear], law.level(other, rows, points.loss)[1][:, linear]
    )


@each_law
def test_physical_parameters_predict_what_working_ones_do(law: Law) -> None:
    points = planted(law.name, rows=9)
    units = Units.of(points, loss=not law.own_units)
    theta = working_theta(law)
    working, _ = law.loss_and_gradient(theta, units.centre(points.rows))
    physical, _ = law.loss_and_gradient(law.physical(theta, units), points.rows)
    np.testing.assert_allclose(physical, working * np.exp(units.log_loss), rtol=1e-11)


def test_zero_to_the_power_b_is_zero_at_full_training_and_so_is_its_derivative() -> None:
    power, slope = share_power(np.array([0.0, 0.25]), np.array([[0.5]]))
    assert power.tolist() == [[0.0, 0.5]]
    assert slope[0, 0] == 0.0
    assert np.isfinite(slope).all()


def test_full_training_reads_the_embedding_law_without_its_share_term() -> None:
    at = Points.of([1e8], [1e9], [1.0], fraction=[1.0])
    truth = TRUTH["embedding"]
    by_hand = 0.3 + (0.5 * np.log(1e9) + 20.0) / 1e8**0.3 + 300.0 / 1e9**0.35
    assert law_named("embedding").predict(truth, at)[0] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("shares", "held", "fitted"),
    [([1.0], {"a_s": 0.0, "b_s": 1.0}, 6), ([0.5, 1.0], {"b_s": 1.0}, 7), ([0.1, 0.5, 1.0], {}, 8)],
)
def test_embedding_law_counts_only_what_the_shares_identify(
    shares: list[float], held: dict[str, float], fitted: int
) -> None:
    points = planted("embedding", rows=30)
    fraction = np.resize(shares, 30)
    law = law_named("embedding")
    found = law.held(Points.of(points.params, points.tokens, points.loss, fraction=fraction))
    assert found == held
    assert len(law.parameters) - len(found) == fitted


@each_law
def test_a_column_that_does_not_vary_is_an_error_naming_it(law: Law) -> None:
    points = planted(law.name, rows=20)
    columns = {name: np.array(points.column(name)) for name in ("params", "tokens", "loss", "flop", "fraction")}
    columns[law.varies[0]][:] = 1e8
    with pytest.raises(InputError, match=f"differ in `{law.varies[0]}`"):
        law.check(Points.of(**columns, candidates=1024))


@each_law
def test_equal_losses_are_an_error(law: Law) -> None:
    points = planted(law.name, rows=20)
    with pytest.raises(InputError, match="`loss` must differ"):
        law.check(Points.of(points.params, points.tokens, np.full(20, 2.0), candidates=1024))


def test_unknown_law_is_an_error_listing_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"hoffmann, tied, embedding.*chinchilla"):
        law_named("chinchilla")


def test_laws_need_no_torch() -> None:
    import subprocess
    import sys

    modules = "isoembed.laws, isoembed.fitting.io.law_file, isoembed.fitting.holdout"
    block = f"import sys; sys.modules['torch'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", block], check=True)


def test_a_law_of_ones_own_is_a_file_and_its_name_in_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fitted, kept in a file and found again: nothing else in the house knows laws by their names."""

    class Toy(type(law_named("multiplicative"))):  # type: ignore[misc] # a class of its own
        name = "toy"

    toy: Law = Toy()
    monkeypatch.setitem(laws._NAMED, toy.name, toy)
    assert laws_named("toy,hoffmann")[0] is toy
    group = Group(None, planted("multiplicative", rows=30, noise=0.005), tuple(range(1, 31)))
    LawSet(laws=(study([toy], group, source="planted", draws=20, by=()),)).save(tmp_path / "law.json")
    found = LawSet.load(tmp_path / "law.json").laws[0]
    assert found.law == "toy"
    assert np.isfinite(found.bootstrap().loss(group.points)).all()
