"""Mining on a tiny model: what is no negative, what the margin leaves out, and a file that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data.pair import Pair
from isoembed.data.sources import open_source
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.exported import load_exported
from isoembed.workflows.mine import mine
from tests.evaluation.tiny import load, write_model

CONTEXT = 24
PAIRS = [Pair(f"{word} number {number}", f"the {number} {word}") for number in range(12) for word in ("file", "list")]
PAIRS += [Pair("file number 0", "another answer to it"), PAIRS[3]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    encoder, tokenizer = load(write_model(folder / "base"))
    Embedder(encoder, tokenizer, CONTEXT).save(folder / "out", card="")
    return folder / "out"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_the_nearest_below_the_margin(model: Path, tmp_path: Path, margin: float) -> None:
    """Against a ranking by our own embeddings."""
    mined = mine(model, PAIRS, tmp_path / "mined.jsonl", negatives=3, margin=margin)
    found = rows(tmp_path / "mined.jsonl")
    assert (mined.queries, mined.pairs) == (24, 25)
    assert mined.negatives == sum(len(row["neg"]) for row in found) > 20
    assert mined.bare == sum(not row["neg"] for row in found)
    assert [row["pos"] for row in found if row["query"] == "file number 0"] == [["the 0 file", "another answer to it"]]

    encoder, tokenizer, context = load_exported(model)
    corpus = list(dict.fromkeys(pair.positive for pair in PAIRS))
    vectors = Embedder(encoder, tokenizer, context).embed(corpus)
    for row in found:
        scores = vectors @ Embedder(encoder, tokenizer, context).embed([row["query"]])[0]
        score = dict(zip(corpus, scores.tolist(), strict=True))
        limit = min(score[text] for text in row["pos"]) - margin
        below = [text for text in corpus if text not in row["pos"] and score[text] <= limit]
        expected = sorted((score[text] for text in below), reverse=True)[:3]
        np.testing.assert_allclose([score[text] for text in row["neg"]], expected, atol=1e-5)


def test_what_is_mined_can_be_trained_on(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined.jsonl"
    mined = mine(model, PAIRS, out)
    pairs = list(open_source(str(out)))
    assert {(pair.query, pair.positive) for pair in pairs} == {(pair.query, pair.positive) for pair in PAIRS}
    assert sum(len(row["neg"]) for row in rows(out)) == mined.negatives
    assert any(pair.negatives for pair in pairs)


def test_refused(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined.jsonl"
    out.write_text("mine\n")
    with pytest.raises(InputError, match="`negatives`"):
        mine(model, PAIRS, out, negatives=0)
    with pytest.raises(InputError, match="`margin`"):
        mine(model, PAIRS, out, margin=-0.1)
    with pytest.raises(InputError, match="two different positives"):
        mine(model, [Pair("a", "b"), Pair("c", "b")], out)
    with pytest.raises(InputError, match=r"modules\.json"):
        mine(tmp_path, PAIRS, out)
    assert out.read_text() == "mine\n"
