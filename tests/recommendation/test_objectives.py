"""What `recipe` says of options that gained by task scores, where the loss shows nothing."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from isoembed import recommend
from isoembed.cli import app
from isoembed.options import Options, Teacher
from isoembed.recipe import PartialSetup, Recipe
from isoembed.recommendation import objectives
from isoembed.recommendation.objectives import Verdict, objective_notes, verdicts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quality")


def recipe(flop: float, **options: object) -> Recipe:
    setup = PartialSetup(options=Options.model_validate(options))
    return recommend(flop, "nano", model="nano-113k", method="full", setup=setup).recipe


def verdict(flop: float, gain: float, **fields: object) -> Verdict:
    known = {
        "options": {"hardness_strength": 5.0},
        "model": "m",
        "method": "full",
        "seeds": 3,
        "tasks": 6,
        "half": 0.01,
    }
    return Verdict.model_validate({**known, "flop": flop, "gain": gain, **fields})


def test_what_ships_is_what_the_benchmark_found(quality: Any) -> None:
    assert verdicts() == quality.winners(json.loads((BENCHMARKS / "results" / "quality.json").read_bytes()))
    assert verdicts()


def test_winners_are_told_from_plain_by_three_seeds(quality: Any) -> None:
    def rows(variant: str, *scores: float) -> list[dict[str, Any]]:
        place = {"model": "m", "method": "full", "budget": 1e12, "variant": variant}
        return [
            {**place, "seed": seed, "scores": dict.fromkeys(quality.TASKS, score)} for seed, score in enumerate(scores)
        ]

    plain = rows("plain", 0.5, 0.52, 0.51)
    sure, unsure, few = (
        rows("hardness weights", 0.55, 0.57, 0.57),
        rows("one source a batch", 0.5, 0.6, 0.51),
        rows("average, decay .98", 0.6, 0.62),
    )
    (won,) = quality.winners([*plain, *sure, *unsure, *few, *rows(quality.LAST, 0.9, 0.92, 0.91)])
    assert (won.options, won.seeds, won.flop) == ({"hardness_strength": 5.0}, 3, 1e12)
    assert won.gain == pytest.approx(0.16 / 3, abs=1e-4)


def test_the_nearest_budget_speaks_and_there_the_models_own_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        verdict(1e10, 0.3),
        verdict(2e11, 0.05),
        verdict(2e11, 0.02, model="nano-113k", options={"batch_by": "source"}),
    ]
    monkeypatch.setattr(objectives, "verdicts", lambda: tuple(found))
    (said,) = objective_notes(recipe(1e11))
    assert (said.code, said.kind) == ("objective-of-sources", "known")
    assert "`batch_by=source` gained 0.020 ± 0.010 of the mean of 6 task scores" in str(said)
    assert "on nano-113k, 2e+11 FLOP, 3 seeds" in str(said)
    assert objective_notes(recipe(1e11, batch_by="source")) == []
    (far,) = objective_notes(recipe(1e10))
    assert "gained 0.300" in str(far)
    assert objective_notes(recipe(2e11 * 31)) == []


def test_who_has_as_much_is_told_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had taken the advice of one budget was told to take a weaker one at another, or other clusters."""
    many = {"batch_by": "cluster", "clusters": 64}
    found = (verdict(1e11, 0.07, options=many), verdict(4e11, 0.05, options={"batch_by": "source"}))
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    assert objective_notes(recipe(1e11, batch_by="cluster", clusters=7)) == []
    assert objective_notes(recipe(4e11, batch_by="cluster", clusters=64)) == []
    assert len(objective_notes(recipe(1e11, batch_by="source"))) == 1
    assert objectives.gained(Options(batch_by="cluster", clusters=7))
    assert not objectives.gained(Options(batch_by="cluster", clusters=7, ema_decay=0.9))


def test_what_was_judged_elsewhere_does_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """One source a batch on another model, at another budget, had gained more than both options here, and they were not
    advised; within the noise of the same runs nothing is advised."""
    source, both = {"batch_by": "source"}, {"batch_by": "source", "hardness_strength": 5.0}
    found = (
        verdict(1e11, 0.028, options=source, half=0.001),
        verdict(1e11, 0.038, options=both, half=0.001),
        verdict(2e11, 0.039, model="nano-113k", options=source),
        verdict(3e11, 0.035, options=source, half=0.004),
        verdict(3e11, 0.038, options=both, half=0.004),
    )
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    (said,) = objective_notes(recipe(1e11, batch_by="source"))
    assert "`hardness_strength=5`" in str(said)
    assert objective_notes(recipe(3e11, batch_by="source")) == []


def test_advice_that_would_be_refused_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardness weights beside a teacher alone, which has no negatives; a guide where there is no teacher."""
    found = (verdict(1e11, 0.07, options={"mask_by": "teacher"}), verdict(1e11, 0.05))
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    taught = Teacher(source="t", weights="w", params=1, width=8, context=75, weight=1.0)
    assert objective_notes(recipe(1e11, teacher=taught)) == []
    (said,) = objective_notes(recipe(1e11))
    assert "gained 0.050" in str(said)


def test_clusters_are_advised_of_several_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were judged against mixed batches of a mixture; a cluster lies within a source."""
    found = (verdict(1e11, 0.07, options={"batch_by": "cluster", "clusters": 64}),)
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    (said,) = objective_notes(recipe(1e11))
    assert "where data are of several sources, `batch_by=cluster` and `clusters=64` gained" in str(said)


def test_prefixes_keep_their_share_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 of 24 are half of any width; who has any has the advice; narrower vectors than were judged get none."""
    found = (verdict(1e11, 0.07, options={"matryoshka": [12, 6]}, width=24),)
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    hidden = recipe(1e11).model.hidden
    (said,) = objective_notes(recipe(1e11))
    assert f"`matryoshka={hidden // 2},{hidden // 4}` gained" in str(said)
    (projected,) = objective_notes(recipe(1e11, dimensions=32))
    assert "`matryoshka=16,8` gained" in str(projected)
    assert objective_notes(recipe(1e11, dimensions=8)) == []
    assert objective_notes(recipe(1e11, matryoshka=(hidden // 2,))) == []
    assert objectives.gained(Options(matryoshka=(16,)))
    told = CliRunner().invoke(app, ["recipe", "--budget", "1e11"], env={"COLUMNS": "400"}).stdout
    assert re.search(r"`--matryoshka \d+,\d+` gained", told)


def test_a_recommendation_says_it() -> None:
    assert any(each.code == "objective-of-sources" for each in recommend(4e12, "nano").notes)


def test_a_flag_that_gained_is_named_as_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--bidirectional True` is no option."""
    found = (verdict(1e12, 0.3, options={"bidirectional": True, "batch_by": "source"}),)
    monkeypatch.setattr(objectives, "verdicts", lambda: found)
    said = CliRunner().invoke(app, ["recipe", "--budget", "1e12"], env={"COLUMNS": "400"}).stdout
    assert "`--bidirectional` and `--batch-by source` gained 0.300" in said
