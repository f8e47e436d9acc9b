"""A base model cut to the tokens that data use."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedTokenizerFast

from isoembed.core import InputError
from isoembed.data.pair import Pair
from isoembed.encoder.config import read_config
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.recipe import DataStats, Setup, solve
from isoembed.workflows.job import train
from isoembed.workflows.models import chosen
from isoembed.workflows.trim import Trimmed, trim_vocabulary
from tests.commands import command

PAIRS = [
    Pair(query=f"how to open file {number}", positive=f"opens the file {number} and reads it", negatives=("a dog",))
    for number in range(40)
]


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trimmed]:
    place = tmp_path_factory.mktemp("trim") / "small"
    return place, trim_vocabulary("nano/nano-28k", PAIRS, place)


def hidden(model: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    with torch.no_grad():
        ids_BT = torch.tensor([tokenizer(text).input_ids])
        found: torch.Tensor = model(input_ids=ids_BT).last_hidden_state
        return found


def test_texts_of_kept_tokens_have_the_same_vectors_bit_by_bit(smaller: tuple[Path, Trimmed]) -> None:
    place, facts = smaller
    assert facts.tokens < 0.3 * facts.tokens_before
    assert facts.params_before - facts.params == 24 * (facts.tokens_before - facts.tokens)
    before: tuple[Any, Any] = load_model("nano/nano-28k"), load_tokenizer("nano/nano-28k")
    after: tuple[Any, Any] = load_model(str(place)), load_tokenizer(str(place))
    for text in ("how to open file 7", "how a dog opens the file and reads 7"):
        assert torch.equal(hidden(*before, text), hidden(*after, text))
    assert hidden(*after, "Zwölf 語 🤖").isfinite().all()
    assert json.loads((place / "trimmed.json").read_text())["tokens"] == len(after[1]) == facts.tokens


def test_special_tokens_are_named_by_their_new_numbers(smaller: tuple[Path, Trimmed]) -> None:
    place, _ = smaller
    tokenizer, config = load_tokenizer(str(place)), read_config(str(place))
    assert config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id < config.vocab_size


def test_it_keeps_the_rates_of_the_family_it_is_from(smaller: tuple[Path, Trimmed]) -> None:
    """Else the rule from the width, off by half or twice, would stand in."""
    family, name = chosen(None, str(smaller[0]))
    assert (family.name, name) == ("nano", "small")
    assert family.peak_rate(family.model("small"), Full(), steps=100) == NANO.peak_rate(
        NANO.model("nano-28k"), Full(), steps=100
    )


def test_what_is_trained_from_it_loads_elsewhere_with_its_vocabulary(
    smaller: tuple[Path, Trimmed], tmp_path: Path
) -> None:
    place, facts = smaller
    spec, setup = spec_from_config(str(place)), Setup(batch_pairs=8, context_tokens=32)
    flop = 3 * 8 * 20 * Full().cost(spec).flop_per_token
    recipe = solve(flop, spec, Full(), 1e-3, setup, DataStats.assumed(32), family="custom")
    train(recipe, [(pair.query, pair.positive) for pair in PAIRS], tmp_path / "out")
    model: Any = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model[0].auto_model.get_input_embeddings().num_embeddings == facts.tokens
    assert len(model.tokenizer) == facts.tokens


def test_a_folder_that_is_there_is_left_alone(smaller: tuple[Path, Trimmed]) -> None:
    with pytest.raises(InputError, match="is there already"):
        trim_vocabulary("nano/nano-28k", PAIRS, smaller[0])


def test_the_command_takes_what_a_run_takes_but_no_cut(tmp_path: Path) -> None:
    rows = [{"query": pair.query, "pos": pair.positive} for pair in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert command("trim", "nano-28k", "pairs.jsonl", "--out=small", inside=tmp_path).status == 0
    assert (tmp_path / "small/trimmed.json").is_file()
    refused = command("trim", "nano-28k@2", "pairs.jsonl", "--out=cut", inside=tmp_path)
    assert "A whole model is trimmed, then cut, as OUT@2" in " ".join(refused.err.split())


def test_no_padding_written_as_minus_one_is_no_token(tmp_path: Path) -> None:
    """It was looked up in the tokenizer, with an OverflowError."""
    base = tmp_path / "base"
    load_model("nano/nano-28k").save_pretrained(base)  # type: ignore[operator]
    load_tokenizer("nano/nano-28k").save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": -1}))
    trim_vocabulary(str(base), PAIRS, tmp_path / "small")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["pad_token_id"] == -1
