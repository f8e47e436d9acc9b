"""One bit turned over anywhere in a model's folder: `search` answers or says in one line what it cannot read.

With ISOEMBED_FUZZ=long at 40 places of each file; in the suite at one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.workflows.search import Index
from tests.commands import command
from tests.evaluation.tiny import write_model

PLACES = 40 if os.environ.get("ISOEMBED_FUZZ") == "long" else 1


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside")
    base = str(write_model(folder / "base"))
    Embedder(Encoder(load_model(base), "mean"), load_tokenizer(base), 16).save(folder / "model", card="")
    Index.build(folder / "model", [("a", "one text"), ("b", "another text")])
    return folder


def test_a_turned_bit_is_no_traceback(inside: Path) -> None:
    draws = random.Random(0)
    files = sorted(file for file in (inside / "model").rglob("*") if file.is_file() and file.stat().st_size)
    assert len(files) > 8
    for file in files:
        whole = file.read_bytes()
        for _ in range(PLACES):
            at = draws.randrange(min(len(whole), 400))  # where headers are, and what JSON begins with
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draws.randrange(8)]) + whole[at + 1 :])
            done = command("search", "model", "words", inside=inside)
            assert done.status in (0, 2), (file, at, done.err)
            assert not done.status or (done.err.startswith("isoembed: ") and done.err.count("\n") == 1), (file, at)
        file.write_bytes(whole)
