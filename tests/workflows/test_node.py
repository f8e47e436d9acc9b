"""One attempt on a node, without a cluster: what is the run's fault and what is nobody's."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isoembed.data.dataset import prepare
from isoembed.data.packed import PackedData
from isoembed.records import EndNote
from isoembed.sweep.folder import Attempt
from isoembed.workflows import node
from tests.data.helpers import ListSource, numbered, tiny_tokenizer
from tests.sweep.fake import planned_run


def attempted(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception) -> Any:
    """What the task returns where training raises `error`."""

    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(node, "execute", fails)
    monkeypatch.setattr(node, "_open", lambda payload: SimpleNamespace())
    monkeypatch.setattr(node, "own_folder", lambda: folder)
    planned = planned_run()
    payloads: Any = [object()]
    return node.attempt_run(planned, Attempt(key=planned.key, number=1), None, payloads, 1)


def test_unpacked_pairs_are_removed_from_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts stayed in the temporary folder after a normal end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    data = prepare(ListSource(numbered(50)), tiny_tokenizer(), context_tokens=16, folder=tmp_path / "cache")
    packed = PackedData.of(data, files=True)
    shutil.rmtree(tmp_path / "cache")  # as on another machine
    packed.open()
    assert list((tmp_path / "temp").glob("isoembed-*/pairs-*"))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda payload: SimpleNamespace(data=packed)))
    payloads: Any = [object()]
    node.forget(payloads)
    assert not list((tmp_path / "temp").glob("isoembed-*/*"))


def test_a_full_disk_costs_no_run_a_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left"):
        attempted(monkeypatch, tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    failure = attempted(monkeypatch, tmp_path, OSError(errno.EIO, "Input/output error"))
    assert isinstance(failure, EndNote)
    assert failure.fields["error"] == "OSError"
    assert "Input/output error" in failure.describe()
