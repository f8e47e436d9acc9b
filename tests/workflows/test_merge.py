"""The average of models: its weights, its vectors, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from isoembed.core import InputError
from isoembed.encoder.config import resolve
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.load import load_base
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.records import RECORD
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


def test_the_base_may_lie_beside_the_models(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `certify`, `eval` and `train --recipe` find it: a record names no places."""
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    shutil.copytree(resolve(recipe.model.source), there / "base")
    elsewhere.mkdir()
    pairs = [(f"how to open file {n}", f"opens the file {n} and reads it") for n in range(300)]
    monkeypatch.chdir(there)
    own = recipe.model_copy(update={"model": recipe.model.model_copy(update={"source": "./base"})})
    train(own, pairs, "one")
    monkeypatch.chdir(elsewhere)
    assert merge(["../there/one"], "mean", base=0.5).parts[1].share == 0.5
    shutil.copytree(there / "base", decoy := elsewhere / "base")  # another of its name is here
    tensors = load_file(decoy / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, decoy / "model.safetensors", {"format": "pt"})
    merge(["../there/one"], "again", base=0.5)
    mean = weights(Path("mean"))
    assert all(torch.equal(value, mean[name]) for name, value in weights(Path("again")).items())
    shutil.rmtree(decoy)
    shutil.rmtree(there / "base")
    with pytest.raises(InputError, match=r"needs it: \./base, with the weights .*, must be here or beside .*one\. Put"):
        merge(["../there/one"], "other", base=0.5)


def test_a_mean_of_equals_is_that_model(models: list[Path], tmp_path: Path) -> None:
    """Fails where sums are in fp32 and a third of a weight is rounded three times."""
    merge([models[0], *(shutil.copytree(models[0], tmp_path / name) for name in "ab")], tmp_path / "mean")
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
        ({"twice": True}, r"named once; got .*seed-0 2 times\. Name others, or weigh it by `shares`"),
    ],
)
def test_what_is_no_average_is_refused(models: list[Path], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folders = models[: change.pop("models", 2)]
    if change.pop("twice", False):
        folders = [models[0], models[0].parent / "." / models[1].name / ".." / models[0].name]
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
    with pytest.raises(InputError, match=r"one base; .* from nano-28k with weights .* from nano-51k with weights"):
        merge([models[0], tmp_path / "wider"], tmp_path / "mean")
    (tmp_path / "wider" / RECORD).unlink()
    with pytest.raises(InputError, match=r"one `hidden_size` in config\.json"):
        merge([models[0], tmp_path / "wider"], tmp_path / "mean")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no sentence-transformers model"):
        merge([models[0], tmp_path / "empty"], tmp_path / "mean")


def test_a_trained_model_is_not_merged_over(models: list[Path], tmp_path: Path) -> None:
    """Its weights and record were gone without a word, and its recipe stayed beside those of another training."""
    out = shutil.copytree(models[0], tmp_path / "out")
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=r"out already holds a trained model; give another `out`\.$"):
        merge(models, out)
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    merge(models, tmp_path / "mean")
    with pytest.raises(InputError, match="mean already holds a model"):  # another merge's average was gone too
        merge(models, tmp_path / "mean", shares=[3, 1])


def _edited(folder: Path, out: Path, file: str, change: Callable[[Any], None]) -> Path:
    """A copy of the model in `folder` at `out`, with a JSON file of it changed."""
    shutil.copytree(folder, out)
    content = json.loads((out / file).read_text())
    change(content)
    (out / file).write_text(json.dumps(content))
    return out


def test_models_of_several_bases_are_refused(models: list[Path], tmp_path: Path) -> None:
    """Of equal shapes, their mean would be noise; a folder without a record says nothing of its base."""
    other = _edited(models[1], tmp_path / "b", RECORD, lambda content: content["recipe"].update(base_hash="0" * 16))
    with pytest.raises(
        InputError, match=r"trained from one base; .*seed-0 is from nano-28k .*Merge models of one base"
    ):
        merge([models[0], other], tmp_path / "mean")
    with pytest.raises(InputError, match="are not those the recipe was made for"):
        merge([other], tmp_path / "mean", base=0.5)
    none = _edited(models[0], tmp_path / "c", RECORD, lambda content: content["recipe"].update(base_hash=None))
    with pytest.raises(InputError, match="are not those the recipe was made for"):
        merge([none, other], tmp_path / "mean", base=0.5)
    (other / RECORD).unlink()
    merge([models[0], other], tmp_path / "mean")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_causal": False}, r"`is_causal` in config\.json; .* differ \(True and False\)"),
        ({"hidden_act": "relu"}, r"`hidden_act` in config\.json; .* differ \(gelu and relu\)"),
    ],
)
def test_models_that_compute_otherwise_are_refused(
    models: list[Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    other = _edited(models[1], tmp_path / "other", "config.json", lambda content: content.update(change))
    with pytest.raises(InputError, match=words):
        merge([models[0], other], tmp_path / "mean")


def test_what_a_model_is_called_and_stored_as_is_no_difference(models: list[Path], tmp_path: Path) -> None:
    names = {"architectures": ["Other"], "dtype": "float16", "transformers_version": "5.0.0", "_name_or_path": "x"}
    other = _edited(models[1], tmp_path / "other", "config.json", lambda content: content.update(names))
    merge([models[0], other], tmp_path / "mean")
