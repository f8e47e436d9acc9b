"""An embedder is one value: what is loaded embeds as what was saved, and a wrong call says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isoembed
from isoembed.core import InputError
from isoembed.encoder.embedder import UNTRAINED_CONTEXT, Embedder
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.families import NANO
from isoembed.options import Prompts
from tests.evaluation.tiny import TEXTS, load, write_model


def with_prompts(folder: Path) -> Embedder:
    encoder, tokenizer = load(write_model(folder))
    return Embedder(Encoder(encoder.model, "mean", Prompts(query="find: ", positive="text: ")), tokenizer, 24)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """Fails where pooling, prompts, context or a side is lost on the way; a base is read from the same folder."""
    embedder = with_prompts(tmp_path / "base")
    embedder.save(str(tmp_path / "out"))
    again = isoembed.Embedder.load(str(tmp_path / "out"), device="cpu")
    assert repr(again) == "Embedder(gpt_neox, mean pooling, 24 tokens of a text)"
    for side in ("query", "document"):
        vectors: Any = again.embed(TEXTS, side=side)
        np.testing.assert_allclose(vectors, embedder.embed(TEXTS, side=side), atol=1e-5)
        assert vectors.dtype == np.float32
    assert np.abs(embedder.embed(TEXTS, "query") - embedder.embed(TEXTS)).max() > 1e-3
    again.save(tmp_path / "out", card="again")  # in its own place
    np.testing.assert_array_equal(Embedder.load(tmp_path / "out", device="cpu").embed(TEXTS), again.embed(TEXTS))


def test_a_base_model_is_its_mean(tmp_path: Path) -> None:
    source = write_model(tmp_path)
    base, (encoder, tokenizer) = Embedder.load(source, device="cpu"), load(source)
    config: Any = base_of(encoder.model).config
    assert base.context_tokens == min(UNTRAINED_CONTEXT, config.max_position_embeddings)
    expected = Embedder(encoder, tokenizer, base.context_tokens).embed(TEXTS)
    np.testing.assert_array_equal(base.embed(TEXTS), expected)
    assert Embedder.load(NANO.models[0].source, device="cpu").dimensions == NANO.models[0].hidden


def test_no_texts_have_the_width_of_others(tmp_path: Path) -> None:
    """Fails where vectors of no texts cannot be stacked below others."""
    embedder = with_prompts(tmp_path)
    assert embedder.embed([]).shape == (0, embedder.dimensions)


@pytest.mark.parametrize("kept", ["isoembed.json", "1_Pooling/config.json"])
def test_half_an_export_is_no_base_model(tmp_path: Path, kept: str) -> None:
    """Fails where a folder whose modules.json is missing, as after a kill, is opened as if nobody had trained it."""
    with_prompts(tmp_path / "base").save(tmp_path / "out")
    (tmp_path / "out" / "modules.json").unlink()
    for name in ("isoembed.json", "config.json"):
        if name != kept and kept != "isoembed.json":
            (tmp_path / "out" / name).unlink()
    with pytest.raises(InputError, match=r"must hold modules\.json"):
        Embedder.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda embedder: embedder.embed("one text"), "`texts` of Embedder.embed"),
        (lambda embedder: embedder.embed([1, 2]), "`texts` of Embedder.embed"),
        (lambda embedder: embedder.embed(["a"], side="passage"), "`side` of Embedder.embed must be .*query"),
        (lambda embedder: embedder.save(3), "`folder` of Embedder.save"),
        (
            lambda _: Embedder.load(None),  # type: ignore[arg-type]
            "`model` of Embedder.load",
        ),
    ],
)
def test_a_wrong_call_names_its_argument(tmp_path: Path, call: Any, says: str) -> None:
    """Fails where the letters of one text are embedded as texts, or another side is taken for one of the two."""
    with pytest.raises(InputError, match=says):
        call(with_prompts(tmp_path))
