"""A law moved to other pairs by two or three runs there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.fitting.drift import LEVEL_DRIFT
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.tables import read_groups
from isoembed.fitting.level import levelled
from isoembed.fitting.settings import Group, Settings
from isoembed.fitting.study import study
from isoembed.laws import Points, law_named
from isoembed.laws.candidates import among
from isoembed.recommendation.recommend import LAWS_FOLDER
from tests.laws.planted import TRUTH, planted

FORM = law_named("interaction-odds")
DOCSTRINGS = Path(__file__).parents[2] / "benchmarks" / "results" / "nano_docstrings.csv"


def moved_runs(rows: int, factor: float, *, noise: float = 0.003, seed: int = 1, method: str | None = None) -> Group:
    """Runs of the planted law where e^L - 1 is `factor` times as large."""
    points = planted(FORM.name, rows=rows, seed=seed)
    loss = np.log1p(factor * np.expm1(points.loss)) * np.exp(np.random.default_rng(seed).normal(0, noise, rows))
    return Group(method, replace(points, loss=loss), tuple(range(1, rows + 1)))


def one_budget(group: Group) -> Group:
    """The runs, all said to have cost the same."""
    return replace(group, points=replace(group.points, flop=np.full(len(group.points), 1e16)))


@pytest.fixture(scope="module")
def laws() -> LawSet:
    group = Group(None, planted(FORM.name, rows=60, noise=0.003), tuple(range(1, 61)), settings=Settings(family="nano"))
    return LawSet(laws=(study([FORM], group, source="planted", draws=200, by=()),))


def test_a_levelled_law_with_hold_outs_is_read_back(tmp_path: Path) -> None:
    """Its hold-outs were of a law of another name than its own, and the file was refused."""
    shipped = LawSet.load(LAWS_FOLDER / "nano.json")
    assert all(law.holdout for law in shipped.laws)
    forms = [law_named(name) for name in dict.fromkeys(law.law for law in shipped.laws)]
    found = levelled(shipped, read_groups(DOCSTRINGS, forms, {}, "method", 1024), "docstrings")
    found.save(tmp_path / "law.json")
    assert [law.holdout.keys() for law in LawSet.load(tmp_path / "law.json").laws] == [
        law.holdout.keys() for law in shipped.laws
    ]
    by_method = {law.method: law.compute_optimum() for law in found.laws}
    assert by_method["full"] is not None
    assert by_method["bias"] is None, "S is .04 at most; of models trained whole its loss was below zero"


def test_three_runs_give_the_losses_of_all_others_there(laws: LawSet, tmp_path: Path) -> None:
    """Without the level every forecast would be off by a third; the file is read back as any law's."""
    found = levelled(laws, [moved_runs(3, 4.5)], "three runs")
    found.save(tmp_path / "law.json")
    law = LawSet.load(tmp_path / "law.json").laws[0]
    others = moved_runs(40, 4.5, seed=2).points
    error = np.log(others.loss / law_named(law.law).predict(law.fit.params, others))
    assert np.sqrt(np.mean(error**2)) < 0.01
    assert abs(np.log(others.loss / FORM.predict(TRUTH[FORM.name], others))).mean() > 0.25
    ends = [interval.ends for interval in law.bootstrap().loss_intervals(others, noise=True)]
    inside = np.mean([low <= seen <= high for (low, high), seen in zip(ends, others.loss, strict=True)])
    assert inside > 0.9
    assert law.status == laws.laws[0].status
    assert "3 runs of three runs" in law.notes[-2]
    assert (law.settings.family, law.range["params"]) == ("nano", laws.laws[0].range["params"])


def test_away_from_the_runs_that_set_it_a_level_is_less_sure(laws: LawSet, tmp_path: Path) -> None:
    """Preregistered runs refuted the one factor: it is no better known than the budgets it was seen at."""
    group = moved_runs(3, 4.5)
    levelled(laws, [group], "three runs").save(tmp_path / "law.json")
    law = LawSet.load(tmp_path / "law.json").laws[0]
    low, high = group.points.flop.min(), group.points.flop.max()
    assert law.level_flop == (low, high)
    assert law.run_noise_at(high) == law.run_noise
    for flop in (low / np.e, high * np.e):
        assert law.run_noise_at(flop) >= np.hypot(law.run_noise, LEVEL_DRIFT) * (1 - 1e-9)
    assert "widened by 8.5% of ln loss" in law.notes[-1]
    assert laws.laws[0].level_flop is None


def test_losses_among_few_candidates_are_told_among_more() -> None:
    """ln z1024 = .16 + 1.27 ln z32; from 512 on z stays; half as far in ln K, half of both; else refused."""
    loss = np.array([0.5, 1.5])
    log_z = np.log(np.expm1(loss) / 31)
    found, error = among(loss, 32, 1024)
    assert np.log(np.expm1(found) / 1023) == pytest.approx(0.16 + 1.27 * log_z)
    assert error == pytest.approx(0.076)
    found, error = among(loss, 512, 4096)
    assert np.expm1(found) / 4095 == pytest.approx(np.expm1(loss) / 511)
    assert error == 0.0
    assert among(loss, 181, 1024)[1] == pytest.approx(0.038, abs=1e-4)
    assert among(loss, 16, 16)[0] is loss
    for few, many in ((16, 1024), (1024, 32)):
        with pytest.raises(InputError, match="cannot be told among"):
            among(loss, few, many)


def test_a_level_from_a_small_held_out_set_is_that_of_the_laws_candidates(laws: LawSet) -> None:
    """Unconverted, losses among 32 would put the level at a fraction of what it is."""
    group = moved_runs(3, 1.0)
    log_z = (np.log(np.expm1(group.points.loss) / 1023) - 0.16) / 1.27
    few = replace(group, points=replace(group.points, loss=np.log1p(31 * np.exp(log_z)), candidates=32))
    c = levelled(laws, [few], "there").laws[0].params["c"]
    assert c.value == pytest.approx(1.0, abs=0.03)
    own = levelled(laws, [group], "there").laws[0].params["c"]
    assert c.ends[1] - c.ends[0] > 1.5 * (own.ends[1] - own.ends[0])


def test_a_level_again_is_a_level(laws: LawSet) -> None:
    """From pairs to other pairs: one factor, of the law's own losses."""
    once = levelled(laws, [moved_runs(3, 4.5)], "there")
    back = levelled(once, [moved_runs(3, 1.0)], "here").laws[0]
    assert back.law == "interaction-odds-level"
    assert back.fit.params["c"] == pytest.approx(1.0, abs=0.03)


def test_runs_of_another_shape_are_said(laws: LawSet) -> None:
    apart = moved_runs(4, 4.5)
    apart = replace(apart, points=replace(apart.points, loss=apart.points.loss * np.array([0.8, 1.2, 0.9, 1.1])))
    law = levelled(laws, [apart], "there").laws[0]
    assert law.status == "biased"
    assert "times their noise" in law.describe()


@pytest.mark.parametrize(
    ("group", "complaint"),
    [
        (moved_runs(1, 2.0), "takes 2 runs"),
        (moved_runs(3, 2.0, method="lora"), "got runs of lora"),
        (one_budget(moved_runs(3, 2.0)), "at two budgets or more"),
        (replace(moved_runs(3, 2.0), settings=Settings(family="pythia")), "family nano there, pythia here"),
    ],
)
def test_runs_that_set_no_level_are_refused(laws: LawSet, group: Group, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        levelled(laws, [group], "there")


def test_the_derivatives_are_those_of_the_loss(laws: LawSet) -> None:
    law = law_named("hoffmann-level")
    theta, rows = law.vector({**TRUTH["hoffmann"], "c": 3.0}), planted("hoffmann", rows=5).rows
    _, gradient = law.loss_and_gradient(theta[None], rows)
    for index, value in enumerate(theta):
        step = np.zeros_like(theta)
        step[index] = 1e-6 * value
        ends = law.loss_and_gradient(np.stack([theta - step, theta + step]), rows)[0]
        np.testing.assert_allclose(gradient[0, index], (ends[1] - ends[0]) / (2e-6 * value), rtol=1e-5)
    with pytest.raises(InputError, match="level_from"):
        law.check(Points.of([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]))


def test_the_nano_study_at_the_level_of_three_docstring_runs() -> None:
    """Measured, not planted: the other 13 LoRA runs on docstrings, whose losses the study's law has at half."""
    from isoembed.fitting.io.ledger import read_ledger
    from tests.laws.test_odds import LEDGER

    lora = next(group for group in read_ledger(LEDGER, [FORM]) if group.method == "lora")
    laws = LawSet(laws=(study([FORM], lora, source="nano", draws=50, by=()),))
    there = next(group for group in read_groups(DOCSTRINGS, [FORM], {}, "method", 1024) if group.method == "lora")
    law = levelled(laws, [replace(there, points=there.points[np.array([0, 3, 9])])], "docstrings").laws[0]
    error = np.log(there.points.loss / law_named(law.law).predict(law.fit.params, there.points))
    assert np.sqrt(np.mean(error**2)) < 0.015
    assert 1.4 < np.log(law.fit.params["c"]) < 1.6
