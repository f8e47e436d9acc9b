"""The average of models: its weights, its vectors, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from isoembed.core import InputError
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.load import load_base
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.workflows.certify import certify
from isoembed.workflows.job import train
from isoembed.workflows.merge import merge

TEXTS = ["how to open file 7", "opens the file 7 and reads it"]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    setup = Setup(batch_pairs=8, context_tokens=32)
    return solve(2e8, NANO.model("nano-28k"), Full(), 5e-3, setup, DataStats.assumed(32), family="nano")


@pytest.fixture(scope="module")
def models(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one recipe that differ in their seeds."""
    place = tmp_path_factory.mktemp("merge")
    pairs = [(f"how to open file {n}", f"opens the file {n} and reads it") for n in range(300)]
    for seed in (0, 1):
        train(recipe.model_copy(update={"seed": seed}), pairs, str(place / f"seed-{seed}"))
    return [place / f"seed-{seed}" for seed in (0, 1)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_weights_are_the_weighted_mean_and_the_folder_is_a_model(models: list[Path], tmp_path: Path) -> None:
    found = merge(models, tmp_path / "mean", shares=[3, 1])
    assert [part.share for part in found.parts] == [0.75, 0.25]
    one, two, mean = (weights(folder) for folder in (*models, tmp_path / "mean"))
    for name, value in mean.items():
        assert not torch.equal(one[name], two[name])
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * two[name], rtol=1e-6, atol=1e-7)
    own, theirs = Embedder.load(tmp_path / "mean"), SentenceTransformer(str(tmp_path / "mean"), device="cpu")
    torch.testing.assert_close(torch.tensor(own.embed(TEXTS)), torch.tensor(theirs.encode(TEXTS)), rtol=0, atol=1e-5)
    assert certify(tmp_path / "mean").passed
    card = (tmp_path / "mean" / "README.md").read_text()
    assert all(part.weights_hash in card for part in found.parts)
    assert str(tmp_path) not in card


def test_a_model_and_a_share_of_its_base(models: list[Path], recipe: Recipe, tmp_path: Path) -> None:
    merge(models[:1], tmp_path / "mean", base=0.4)
    base: Any = load_base(recipe)
    trained, mean = weights(models[0]), weights(tmp_path / "mean")
    for name, value in base.state_dict().items():
        if name in mean:
            torch.testing.assert_close(mean[name], 0.4 * value + 0.6 * trained[name], rtol=1e-6, atol=1e-7)


def test_a_mean_of_equals_is_that_model(models: list[Path], tmp_path: Path) -> None:
    """Fails where sums are in fp32 and a third of a weight is rounded three times."""
    merge([models[0]] * 3, tmp_path / "mean")
    one = weights(models[0])
    for name, value in weights(tmp_path / "mean").items():
        assert torch.equal(value, one[name]), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": 1}, "two models"),
        ({"shares": [1.0]}, "for each of the 2 models"),
        ({"shares": [1.0, -1.0]}, "above 0"),
        ({"base": 1.0}, "between 0 and 1"),
        ({"out": "seed-0"}, "another folder"),
    ],
)
def test_what_is_no_average_is_refused(models: list[Path], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folders = models[: change.pop("models", 2)]
    out = models[0] if change.pop("out", None) else tmp_path / "mean"
    before = weights(models[0])
    with pytest.raises(InputError, match=words):
        merge(folders, out, **change)
    assert not (tmp_path / "mean").exists()
    assert all(torch.equal(value, before[name]) for name, value in weights(models[0]).items())


def test_models_that_read_texts_otherwise_are_refused(models: list[Path], recipe: Recipe, tmp_path: Path) -> None:
    """A mean of weights under another pooling or of another width is no model that anybody trained."""
    pairs = [(f"how to open file {n}", f"opens the file {n}") for n in range(400)]
    train(recipe.model_copy(update={"pooling": "last"}), pairs, str(tmp_path / "last"))
    with pytest.raises(InputError, match=r"one pooling.*mean and last"):
        merge([models[0], tmp_path / "last"], tmp_path / "mean")
    wider = solve(
        4e8, NANO.model("nano-51k"), Full(), 5e-3, Setup(batch_pairs=8, context_tokens=32), DataStats.assumed(32),
        family="nano",
    )  # fmt: skip
    train(wider, pairs, str(tmp_path / "wider"))
    with pytest.raises(InputError, match="same tensors"):
        merge([models[0], tmp_path / "wider"], tmp_path / "mean")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no sentence-transformers model"):
        merge([models[0], tmp_path / "empty"], tmp_path / "mean")
