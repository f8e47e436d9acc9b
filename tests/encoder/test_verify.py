from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from isoembed.encoder import export as module
from isoembed.encoder.certificate import ExportError
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.exported import POOLING_MODES, load_exported
from isoembed.encoder.tokenizer import plain
from isoembed.options import Prompts
from tests.evaluation.tiny import TEXTS, load, write_model

CONTEXT = 24


def _another_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    save: Any = PreTrainedModel.save_pretrained

    def saved(self: Any, *arguments: Any, **named: Any) -> None:
        name = next(iter(state := {key: value.clone() for key, value in self.state_dict().items()}))
        state[name].view(-1)[0] += 1e-6
        save(self, *arguments, state_dict=state, **named)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", saved)


def _another_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        copied = plain(tokenizer)
        copied.update_post_processor()
        return copied

    monkeypatch.setattr(module, "plain", without_end)


def _another_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POOLING_MODES, "last", "mean")


def _another_context(monkeypatch: pytest.MonkeyPatch) -> None:
    speak = module._speak_to_servers
    monkeypatch.setattr(module, "_speak_to_servers", lambda stage, mode, context: speak(stage, mode, context - 1))


def _another_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    build: Any = module._sentence_transformer

    def built(embedder: Embedder, source: Path) -> Any:
        encoder = embedder.encoder
        swapped = encoder.prompts.model_copy(update={"query": "other: "})
        return build(replace(embedder, encoder=Encoder(encoder.model, encoder.pooling, swapped)), source)

    monkeypatch.setattr(module, "_sentence_transformer", built)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "a tensor": (_another_weight, r"1 of \d+ tensors are others \("),
    "the template": (_another_template, r"is read as tokens \["),
    "the pooling": (_another_pooling, "vectors of the query side are .* apart"),
    "the context": (_another_context, "cuts texts at"),
    "a prompt": (_another_prompt, "prompts .other: . and .., not prompts .find: . and .."),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_model_that_is_not_the_trained_one_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever differs, be it by a fault of ours or a library's: it is said before the earlier export is touched."""
    encoder, tokenizer = load(write_model(tmp_path / "base"), "last")
    encoder = Encoder(encoder.model, "last", Prompts(query="find: ", positive="")).eval()
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="earlier")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight.mul_(1.5)  # type: ignore[operator]
    change, message = FAULTS[what]
    change(monkeypatch)
    with pytest.raises(ExportError, match=message) as failed:
        Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="later")
    assert failed.value.exit_code == 1
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before


def test_what_is_written_after_a_change_is_the_changed_model(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"), "last")
    for factor in (1.0, 1.5):
        with torch.no_grad():
            encoder.model.get_input_embeddings().weight.mul_(factor)  # type: ignore[operator]
        Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
        again, again_tokenizer, _ = load_exported(tmp_path / "out", device="cpu")
        np.testing.assert_allclose(
            Embedder(again, again_tokenizer, CONTEXT).embed(TEXTS),
            Embedder(encoder, tokenizer, CONTEXT).embed(TEXTS),
            atol=1e-6,
        )
