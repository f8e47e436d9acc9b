"""The inspection's numbers, each against one computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoembed.data.inspect import inspect
from isoembed.data.pair import Pair
from isoembed.families import NANO
from isoembed.methods import Full
from tests.data.helpers import ListSource, tiny_tokenizer

PAIRS = [
    Pair("w1", "w1 w2 w3 w4 w5 w6", ("n",)),  # 2 and 7 tokens with the end token: 2 and 4 kept
    Pair("w2 w3", "w1", group="g"),  # 3 and 2
    Pair("W2  W3", "W1"),  # the same again
    Pair("w4", "w5"),  # 2 and 2
]


def test_inspection(tmp_path: Path) -> None:
    found = inspect(ListSource(PAIRS), tiny_tokenizer(), context_tokens=4, folder=tmp_path, family=NANO, method=Full())
    assert (found.pairs, found.duplicates, found.negatives, found.groups) == (4, 1, 1, 1)
    assert found.query.mean_tokens == 2.5
    assert found.query.truncated == 0
    assert found.positive.mean_tokens == 13 / 4
    assert found.positive.kept_tokens == 10 / 4
    assert found.positive.truncated == 1 / 4
    assert found.positive.percentiles[100] == 7
    assert found.positive.percentiles[50] == 2
    assert found.hard_negatives == 1
    assert found.tokens_per_pair == 5 + 2 / 4  # the negative has an end token too
    assert found.epoch_tokens == 6 + 2 + 5 + 4
    assert [(entry.model, entry.flop) for entry in found.epoch_flop] == [
        (model.name, 6.0 * model.params * 17) for model in NANO.models
    ]
    assert found.model_dump(mode="json")["method"] == "full"


def test_inspection_counts_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"query": "a", "pos": ""}\n{"query": "a", "pos": "b"}\n')
    from isoembed.data.sources import open_source

    source = open_source(str(file), on_bad_rows="skip")
    found = inspect(source, tiny_tokenizer(), context_tokens=4, folder=tmp_path, family=NANO, method=Full())
    assert found.skipped == {"empty text": 1}
    assert found.pairs == pytest.approx(1)


def test_inspection_says_what_is_read_and_what_is_odd(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"query": "?", "pos": "b{n}", "topic": "x", "id": {n}}}\n' for n in range(3)))
    found = inspect(str(file), tiny_tokenizer(), context_tokens=4, folder=tmp_path, family=NANO, method=Full())
    assert [(each.query, each.positive, each.ignored) for each in found.fields] == [("query", "pos", ("topic", "id"))]
    assert found.wordless == 3
    same, fields, wordless = found.remarks
    assert "the same query" in same
    assert fields.endswith("not read: topic.")
    assert wordless.startswith("Warning: 3 of 3 pairs")
