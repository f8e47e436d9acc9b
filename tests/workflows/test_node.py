"""One attempt on a node, without a cluster: what is the cell's fault and what is nobody's."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isoembed.sweep.folder import Attempt
from isoembed.sweep.run import Failure
from isoembed.workflows import node
from tests.sweep.fake import cell


def attempted(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception) -> Any:
    """What the task returns where training raises `error`."""

    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(node, "execute", fails)
    monkeypatch.setattr(node, "_open", lambda parcel: SimpleNamespace())
    monkeypatch.setattr(node, "own_folder", lambda: folder)
    planned = cell()
    parcels: Any = [object()]
    return node.run_cell(planned, Attempt(key=planned.key, number=1), None, parcels, 1)


def test_a_full_disk_costs_no_cell_a_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left"):
        attempted(monkeypatch, tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    failure = attempted(monkeypatch, tmp_path, OSError(errno.EIO, "Input/output error"))
    assert isinstance(failure, Failure)
    assert "Input/output error" in failure.words
