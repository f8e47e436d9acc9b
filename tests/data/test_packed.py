"""Pairs that travel arrive as they were, without their source or their files."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data.dataset import PairData, prepare
from isoembed.data.packed import PackedData
from isoembed.scratch import own_folder
from tests.data.helpers import ListSource, numbered, tiny_tokenizer


def pairs(folder: Path, *, heldout: bool) -> PairData:
    own = ListSource(numbered(40, first=1000)) if heldout else None
    return prepare(ListSource(numbered(200)), tiny_tokenizer(), context_tokens=12, folder=folder, heldout=own)


@pytest.fixture(autouse=True)
def _another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("heldout", [False, True], ids=["split off", "of its own"])
def test_shipped_pairs_need_no_file_of_the_sender(tmp_path: Path, heldout: bool) -> None:
    sent = replace(pairs(tmp_path / "sender", heldout=heldout), datasets=("acme/pairs",))
    packed = PackedData.of(sent, files=True)
    texts = sent.heldout_texts()
    ids = [sent.store.ids(side, sent.train) for side in ("query", "positive")]
    shutil.rmtree(tmp_path / "sender")
    received = packed.open()
    assert (received.stats, received.datasets) == (sent.stats, sent.datasets)
    assert received.heldout_texts() == texts
    for side, before in zip(("query", "positive"), ids, strict=True):
        after = received.store.ids(side, received.train)
        assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_store_is_unpacked_once(tmp_path: Path) -> None:
    packed = PackedData.of(pairs(tmp_path / "sender", heldout=False), files=True)
    file = packed.open().store.folder / "pairs.arrow"
    before = file.stat().st_mtime_ns
    packed.open()
    assert file.stat().st_mtime_ns == before
    assert [entry.name for entry in own_folder().glob("*/*")] == [file.parent.name]
    packed.forget()
    assert not list(own_folder().iterdir())


def test_a_damaged_store_is_unpacked_again(tmp_path: Path) -> None:
    packed = PackedData.of(pairs(tmp_path / "sender", heldout=False), files=True)
    (packed.open().store.folder / "pairs.arrow").write_bytes(b"")
    assert len(packed.open().heldout_texts()[0]) == 40


def test_a_shared_folder_is_read_where_it_lies_or_missed_by_name(tmp_path: Path) -> None:
    sent = pairs(tmp_path / "sender", heldout=False)
    packed = PackedData.of(sent, files=False)
    assert packed.open().store.folder == sent.store.folder
    shutil.rmtree(tmp_path / "sender")
    with pytest.raises(InputError, match="same path on every machine"):
        packed.open()


def test_a_folder_that_somebody_else_made_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_folder().stat().st_mode & 0o777 == 0o700
    real = os.getuid()
    folder = own_folder()
    folder.rename(folder.with_name(f"isoembed-{real + 1}"))
    monkeypatch.setattr("os.getuid", lambda: real + 1)
    with pytest.raises(InputError, match="must belong to the user"):
        own_folder()
