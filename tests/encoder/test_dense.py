"""A learned projection behind the pooling: what it computes, how it starts, and that it travels with the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn
from torch.nn import functional

from isoembed.core import InputError
from isoembed.encoder.certificate import ExportError, examine
from isoembed.encoder.dense import projected, projection
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.exported import load_exported
from isoembed.encoder.precision import products
from isoembed.encoder.teacher import teacher
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Full, LoRA
from isoembed.methods.base import BaseMethod
from tests.encoder.test_export import CONTEXT, fine_tuned, saved
from tests.evaluation.tiny import TEXTS, load, write_model
from tests.models import tiny

IDS = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def embedder(folder: Path, dimensions: int = 6, method: BaseMethod | None = None) -> Embedder:
    """As after training, the projection too."""
    source = write_model(folder / "base")
    encoder = projected(fine_tuned(source, method or Full(), "mean"), dimensions)
    assert encoder.dense is not None
    with torch.no_grad():
        encoder.dense.weight.add_(0.1 * torch.randn(encoder.dense.weight.shape))
    return Embedder(encoder, load_tokenizer(str(source)), CONTEXT)


def test_it_is_a_linear_map_of_what_is_pooled() -> None:
    """A bias, an activation, a map of what is already of length 1, or one of every token would be others."""
    plain = Encoder(tiny("gpt_neox"), "max")
    encoder = projected(Encoder(plain.model, "max"), 5)
    assert encoder.dense is not None
    pooled_BD = plain._pool(plain.hidden(IDS, MASK, torch.device("cpu")), MASK)
    found_BD = encoder(IDS, MASK)
    torch.testing.assert_close(found_BD, functional.normalize(pooled_BD @ encoder.dense.weight.T, dim=1))
    assert found_BD.shape == (2, 5)
    assert projected(plain, None).dense is None


def test_it_starts_orthonormal_and_the_same_for_every_run() -> None:
    """Else models of two seeds are of two spaces, and no average of them is a model."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = projection(24, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(projection(24, 8).weight, first.weight)
    torch.testing.assert_close(first.weight @ first.weight.T, torch.eye(8))
    square = projection(24, 24).weight
    torch.testing.assert_close(square.T @ square, torch.eye(24))


def test_under_autocast_it_computes_in_fp32() -> None:
    """In bf16 an embedding would be rounded to three digits at the very end, where it costs nothing to keep them."""
    encoder = projected(Encoder(tiny("gpt_neox"), "mean"), 6)
    with torch.no_grad(), products(torch.device("cpu"), bf16=True):
        rounded_BD = encoder(IDS, MASK)
    assert rounded_BD.dtype == torch.float32
    assert not torch.equal(rounded_BD, rounded_BD.bfloat16().float())


@pytest.mark.parametrize("method", [Full(), LoRA(rank=4, alpha=8)], ids=lambda method: method.name)
def test_sentence_transformers_gives_our_vectors(tmp_path: Path, method: BaseMethod) -> None:
    ours = embedder(tmp_path, 6, method)
    ours.save(tmp_path / "out", afresh=True)
    expected_ND = ours.embed(TEXTS)
    assert expected_ND.shape == (len(TEXTS), 6)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(list(TEXTS)), expected_ND, atol=1e-5)
    again = Embedder.load(tmp_path / "out", device="cpu")
    assert again.dimensions == 6
    np.testing.assert_allclose(again.embed(TEXTS), expected_ND, atol=1e-5)
    again.save(tmp_path / "copy")
    np.testing.assert_allclose(Embedder.load(tmp_path / "copy", device="cpu").embed(TEXTS), expected_ND, atol=1e-5)

    config = json.loads((tmp_path / "out" / "2_Dense" / "config.json").read_text())
    assert (config["in_features"], config["out_features"], config["bias"]) == (16, 6, False)
    assert config["activation_function"] == "torch.nn.modules.linear.Identity"
    assert [file.name for file in sorted((tmp_path / "out" / "2_Dense").iterdir())] == [
        "config.json",
        "model.safetensors",
    ]
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Dense", "Normalize"]


def test_other_peoples_maps_are_read(tmp_path: Path) -> None:
    for behind in ([], [Normalize()]):
        dense = Dense(16, 8, bias=False, activation_function=nn.Identity())
        folder = saved(tmp_path / str(len(behind)), dense, *behind)
        encoder, tokenizer, context = load_exported(folder, device="cpu")
        theirs = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
        np.testing.assert_allclose(Embedder(encoder, tokenizer, context).embed(TEXTS), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("dense", "words"),
    [
        (Dense(16, 8, bias=False), "activation_function"),
        (Dense(16, 8, activation_function=nn.Identity()), "bias"),
        (Dense(16, 8, bias=False, activation_function=nn.Identity(), use_residual=True), "use_residual"),
        (Dense(16, 8, bias=False, activation_function=nn.Identity(), module_output_name="x"), "module_output_name"),
    ],
)
def test_a_dense_that_is_more_than_a_map_is_refused(tmp_path: Path, dense: Dense, words: str) -> None:
    """It would be read as another model."""
    with pytest.raises(InputError, match=rf"linear map without bias or activation.*{words}"):
        load_exported(saved(tmp_path, dense))


def test_a_hostile_dense_is_one_line(tmp_path: Path) -> None:
    """A class that the folder names is never imported, a pickle never read, and a size never believed."""
    embedder(tmp_path).save(tmp_path / "out")
    whole = tmp_path / "out"
    for number, (change, words) in enumerate(
        {
            '{"activation_function": "evil.Identity"}': "activation_function",
            '{"activation_function": "torch.nn.Tanh"}': "activation_function",
            '{"in_features": 17}': "damaged",
            '{"out_features": 1e99}': "damaged",
            '{"bias": null}': "bias",
        }.items()
    ):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        file = folder / "2_Dense" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | json.loads(change)))
        with pytest.raises(InputError, match=words) as error:
            load_exported(folder)
        assert "\n" not in str(error.value)
    (whole / "2_Dense" / "model.safetensors").rename(tmp_path / "weights")
    torch.save({"linear.weight": torch.zeros(6, 16)}, whole / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_exported(whole)


def test_an_index_and_a_teacher_know_one_projection_from_another(tmp_path: Path) -> None:
    """Else vectors of one model are looked up for another of the same weights."""
    one = embedder(tmp_path)
    one.save(tmp_path / "one")
    assert one.encoder.dense is not None
    before, as_teacher = one.identity, teacher(tmp_path / "one")
    with torch.no_grad():
        one.encoder.dense.weight[0, 0] += 1
    assert one.identity != before
    one.save(tmp_path / "two")
    assert as_teacher.width == teacher(tmp_path / "two").width == 6
    assert as_teacher.weights != teacher(tmp_path / "two").weights


# ---- the certificate ----


def _dropped(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([module for module in modules if module["path"] != "2_Dense"]))


def _another_weight(folder: Path) -> None:
    file = folder / "2_Dense" / "model.safetensors"
    weight = load_file(file)["linear.weight"]
    weight[0, 0] += 1e-6
    save_file({"linear.weight": weight}, file)


def _cut(folder: Path) -> None:
    place = folder / "2_Dense"
    save_file(
        {"linear.weight": load_file(place / "model.safetensors")["linear.weight"][:4].contiguous()},
        place / "model.safetensors",
    )
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"out_features": 4}))


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (_dropped, "no projection, not to 6"),
        (_another_weight, "its weights not those stated"),
        (_cut, "16 to 4 dimensions, not to 6"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, plant: Any, seen: str) -> None:
    embedder(tmp_path).save(tmp_path / "out")
    assert examine(tmp_path / "out").passed
    plant(tmp_path / "out")
    failed = {check.name: check.seen for check in examine(tmp_path / "out").failures}
    assert seen in failed["projection"]


def test_a_folder_without_one_is_asked_nothing_about_it(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out")
    assert "projection" not in {check.name for check in examine(tmp_path / "out").checks}


def test_a_projection_that_a_writer_loses_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is replaced."""
    from isoembed.encoder import export

    monkeypatch.setattr(export, "_dense", lambda dense: Dense(16, 6, bias=False, activation_function=nn.Identity()))
    with pytest.raises(ExportError, match="weights not those stated"):
        embedder(tmp_path).save(tmp_path / "out")
    assert not (tmp_path / "out" / "modules.json").exists()
