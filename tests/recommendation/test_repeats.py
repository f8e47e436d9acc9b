"""Pairs that are gone through more than once: asked for, paid for, weighed and warned of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.repetition import MOST_EPOCHS, effective_tokens
from isoembed.methods import LoRA
from isoembed.recipe import DataStats
from isoembed.recommendation import recommend as module
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import recommend

FEW = DataStats(pairs=5_000, fingerprint="few")


@pytest.fixture(params=["by law", "by rule"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """With the law that ships, and without any."""
    if request.param == "by rule":
        monkeypatch.setattr(module, "LAWS_FOLDER", tmp_path)
    return str(request.param)


@pytest.mark.parametrize("epochs", [0.5, 3.0])
@pytest.mark.parametrize("method", [None, LoRA(rank=64)])
def test_epochs_alone_are_a_budget(epochs: float, method: LoRA | None, way: str) -> None:
    """For a method that costs more than full fine-tuning too: the budget is no FLOP of another method."""
    if method is not None and way == "by law":
        pytest.skip("no such runs in the law that ships")
    found = recommend(Budget.from_epochs(epochs), NANO, model="nano-28k", data=FEW, method=method)
    assert found.recipe.epochs == pytest.approx(epochs, rel=1e-6)
    assert found.budget.flop == found.recipe.flop
    assert f"{epochs:g} epoch" in found.budget.stated
    assert not any("ends first" in line or "end first" in line for line in found.warnings)
    assert any("gone through 3 times" in line for line in found.warnings) == (epochs > 1)


def test_epochs_alone_need_a_model_and_pairs() -> None:
    spend = Budget.from_epochs(3)
    for family in (None, NANO):
        with pytest.raises(InputError, match="Name `model`"):
            recommend(spend, family, data=FEW)
    with pytest.raises(InputError, match="give `pairs`"):
        recommend(spend, NANO, model="nano-28k")
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="`epochs`"):
            Budget.from_epochs(wrong)


def test_a_budget_for_more_pairs_than_there_are_names_what_would_spend_it(way: str) -> None:
    """One epoch by default; the epochs that the warning names are spent, and more are not offered."""
    spend = Budget.parse("3e12")
    once = recommend(spend, NANO, model="nano-51k", data=FEW)
    assert once.recipe.epochs == pytest.approx(1.0, abs=0.01)
    (line,) = [line for line in once.warnings if "stays unspent" in line]
    named = re.search(r"\(`epochs=(\d+)` would repeat them\)", line)
    assert named is not None
    epochs = int(named[1])
    assert 1 < epochs < MOST_EPOCHS
    again = recommend(spend, NANO, model="nano-51k", data=FEW, constraints=Constraints(epochs=epochs))
    assert again.recipe.epochs == pytest.approx(epochs, rel=1e-3)
    assert again.recipe.flop <= 3e12 * 1.0001
    worth = float(effective_tokens(epochs, 1.0))
    assert any(f"worth {worth:.3g} epochs of unique pairs" in line for line in again.warnings)
    beyond = recommend(spend, NANO, model="nano-51k", data=FEW, constraints=Constraints(epochs=1000))
    assert any(f"it pays for {beyond.recipe.epochs:.2f} of 1,000 epochs" in line for line in beyond.warnings)


def test_repeats_end_where_more_of_them_do_harm(way: str) -> None:
    tiny = FEW.model_copy(update={"pairs": 500})
    repeated = Constraints(repeats="muennighoff")
    found = recommend(Budget.parse("1e13"), NANO, model="nano-28k", data=tiny, constraints=repeated)
    assert found.recipe.epochs == pytest.approx(MOST_EPOCHS, rel=1e-3)
    assert any("Muennighoff" in line for line in found.warnings)
    (line,) = [line for line in found.warnings if "stays unspent" in line]
    assert "would repeat" not in line


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match="which `repeats=none` forbids"):
        Constraints(epochs=2, repeats="none")
    assert Constraints(epochs=1, repeats="none").most_epochs == 1
