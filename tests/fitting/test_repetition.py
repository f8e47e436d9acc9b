"""What repeated data are worth: planted R* comes back, the law stays that of single epochs, and ignorance is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.fitting.io.law_file import LawFile
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.repetition import MOST, Repetition, effective_tokens
from isoembed.fitting.settings import Group
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.records import Ledger, RunRecord
from tests.fitting.ledgers import runs, scarce

HOFFMANN = law_named("hoffmann")
FRESH = runs()
NANO_STUDY = Path(__file__).parents[2] / "benchmarks" / "results" / "nano_study.jsonl.gz"


def groups(records: Sequence[RunRecord]) -> list[Group]:
    return group_runs(records, [HOFFMANN])


def fitted(records: Sequence[RunRecord], draws: int = 200) -> list[LawFile]:
    return [study([HOFFMANN], group, source="planted", draws=draws, by=()) for group in groups(records)]


def repetition(law: LawFile) -> Repetition:
    assert law.repetition is not None
    return law.repetition


def scaled(run: RunRecord, factor: float) -> RunRecord:
    assert run.heldout is not None
    return run.model_copy(update={"heldout": run.heldout.model_copy(update={"loss": run.heldout.loss * factor})})


def test_worth_of_tokens_for_many_at_once() -> None:
    found = effective_tokens([50.0, 400.0], 100.0, np.array([[1e-9], [2.0], [1e9]]))
    assert found[:, 0] == pytest.approx(50.0)
    assert found[:, 1] == pytest.approx([100.0, 100 + 200 * (1 - np.exp(-1.5)), 400.0], rel=1e-6)


@pytest.mark.parametrize("worth", [0.5, 2.0, 15.0, 60.0])
def test_a_planted_worth_lies_in_its_interval(worth: float) -> None:
    for law in fitted([*FRESH, *scarce(FRESH, worth)]):
        found = repetition(law)
        low, high = found.r_star.ends
        assert low < worth < high
        assert high / low < 8
        assert found.identified
        assert (found.runs, found.recipes) == (12, 3)
        assert found.epochs == pytest.approx((3.0, 24.0), rel=0.01)
        assert np.median(found.draws) == pytest.approx(worth, rel=0.5)


def test_intervals_hold_what_they_say() -> None:
    """Thirty worlds: more than four misses would be a chance of 2 %."""
    alone = [run for run in runs(0.0) if run.recipe.method.name == "full"]
    missed = 0
    for seed in range(30):
        chance = np.random.default_rng(100 + seed)
        fresh = [scaled(run, float(np.exp(0.005 * chance.normal()))) for run in alone]
        (law,) = fitted([*fresh, *scarce(fresh, 10.0, 0.005, passes=(4.0, 12.0), seed=seed)])
        low, high = repetition(law).r_star.ends
        missed += not low < 10.0 < high
    assert missed <= 4


def test_a_recipe_off_the_laws_level_does_not_count() -> None:
    """Every recipe 5 % above or below the law, with all its runs: R* is read off differences alone."""
    chance = np.random.default_rng(3)
    level: dict[str, float] = {}
    moved = []
    for run in [*FRESH, *scarce(FRESH, 10.0)]:
        recipe = run.recipe.key_without("seed", "unique_pairs")
        moved.append(scaled(run, level.setdefault(recipe, float(np.exp(0.05 * chance.normal())))))
    for law in fitted(moved):
        assert repetition(law).r_star.value == pytest.approx(10.0, rel=0.35)


def test_the_law_is_that_of_the_fresh_runs_alone() -> None:
    """Taken as fresh tokens, the repeated ones would bend it."""
    repeated = scarce(FRESH, 1.0)
    for with_them, without in zip(groups([*FRESH, *repeated]), groups(FRESH), strict=True):
        assert with_them.points.fingerprint == without.points.fingerprint
        assert with_them.notes == (f"{len(repeated)} runs with repeated data kept apart",)
        assert without.repeats is None
    law, plain = fitted([*FRESH, *repeated])[0], fitted(FRESH)[0]
    assert law.params == plain.params
    assert law.draws == plain.draws
    assert plain.repetition is None


def test_repeats_as_good_as_fresh_data_bound_nothing() -> None:
    (law, _) = fitted([*FRESH, *scarce(FRESH, MOST, passes=(1.5, 2.0))])
    found = repetition(law)
    assert not found.identified
    assert found.r_star.high is None
    assert "not identified" in found.describe()


def test_repeats_worth_nothing_and_worse() -> None:
    """Where the loss rises with the epochs, R* is the least there is, and the misfit widens the noise."""
    nothing = repetition(fitted([*FRESH, *scarce(FRESH, 1e-6)])[0])
    assert nothing.r_star.high is not None
    assert nothing.r_star.high < 0.5
    worse = repetition(fitted([*FRESH, *(scaled(run, 1.2) for run in scarce(FRESH, 1e-6))])[0])
    assert worse.r_star.value == pytest.approx(0.01, rel=0.5)
    assert worse.noise > 10 * nothing.noise
    assert worse.worthless
    assert "do harm" in worse.describe()


def test_without_a_bootstrap_there_is_no_interval() -> None:
    law = fitted([*FRESH, *scarce(FRESH, 5.0)], draws=0)[0]
    found = repetition(law)
    assert found.r_star.value == pytest.approx(5.0, rel=0.3)
    assert (found.r_star.low, found.r_star.high, found.draws) == (None, None, ())
    assert "no bootstrap" in found.describe()


def test_runs_without_a_fresh_one_teach_nothing_and_are_counted() -> None:
    repeated = scarce(FRESH, 5.0)
    other = [run.recipe.model_copy(update={"learning_rate": 9e-3}) for run in repeated]
    lone = [run.model_copy(update={"recipe": recipe}) for run, recipe in zip(repeated, other, strict=True)]
    assert all(group.repeats is None for group in groups([*FRESH, *lone]))
    (first, _) = groups([*FRESH, *repeated, *lone[:2]])
    (note,) = first.notes
    assert note.startswith(
        f"{len(repeated) + 2} runs with repeated data kept apart, 2 of them without a single-epoch run"
    )
    with pytest.raises(InputError, match="single-epoch runs: all 24"):
        groups(repeated)


def test_a_law_without_tokens_measures_none_and_says_so() -> None:
    group, _ = group_runs([*FRESH, *scarce(FRESH, 5.0)], [law_named("power")])
    law = study([law_named("power")], group, source="planted", draws=20, by=())
    assert law.repetition is None
    assert any("reads no D" in note for note in law.notes)


def test_the_file_keeps_it_and_older_files_have_none(tmp_path: Path) -> None:
    law, _ = fitted([*FRESH, *scarce(FRESH, 5.0)], draws=50)
    law.save(tmp_path / "law.json")
    assert LawFile.load(tmp_path / "law.json") == law
    old = law.model_copy(update={"format": 1}).model_dump_json(exclude={"repetition"})
    (tmp_path / "law.json").write_text(old)
    assert LawFile.load(tmp_path / "law.json").repetition is None
    torn = repetition(law).model_copy(update={"draws": repetition(law).draws[1:]})
    law.model_copy(update={"repetition": torn}).save(tmp_path / "law.json")
    with pytest.raises(InputError, match="as many draws as the law: 50"):
        LawFile.load(tmp_path / "law.json")


def test_the_shipped_study_keeps_its_keys_and_its_points() -> None:
    records = Ledger.open(NANO_STUDY).records()
    assert all(record.recipe.key == record.key for record in records)
    assert all(record.recipe.unique_pairs is None for record in records)
    found = group_runs(records, [law_named("embedding")])
    assert sum(len(group.points) for group in found) > 100
    assert all(group.repeats is None and not any("repeat" in note for note in group.notes) for group in found)
