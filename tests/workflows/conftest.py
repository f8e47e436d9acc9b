"""What the tests of sweeps share."""

from __future__ import annotations

from typing import Any

import pytest

from isoembed.sweep.request import SweepRequest
from isoembed.training import loop
from isoembed.training.checkpoint import load_checkpoint
from tests.workflows.small import small_request


@pytest.fixture(scope="module")
def request_here(tmp_path_factory: pytest.TempPathFactory) -> SweepRequest:
    return small_request(tmp_path_factory.mktemp("data"))


@pytest.fixture
def resumed_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps at which runs in this process begin."""
    steps: list[int] = []

    def load(*arguments: Any) -> Any:
        state = load_checkpoint(*arguments)
        steps.append(state.step)
        return state

    monkeypatch.setattr(loop, "load_checkpoint", load)
    return steps
