"""Freed memory goes back to the system where the process holds more than it may, and only there."""

from __future__ import annotations

import pytest

from isoembed.training import resident


@pytest.mark.parametrize(("limit", "asked"), [(None, 0), (150.0, 0), (50.0, 1)])
def test_only_above_the_limit(monkeypatch: pytest.MonkeyPatch, limit: float | None, asked: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(resident, "resident_bytes", lambda: 100)
    monkeypatch.setattr(resident, "give_back", lambda: calls.append(1))
    resident.stay_below(limit)
    assert len(calls) == asked


def test_freed_memory_is_given_back() -> None:
    """A hundred MiB in small pieces, every second one of them freed: the holes go back."""
    pieces = [bytearray(100_000) for _ in range(1000)]
    del pieces[::2]
    held = resident.resident_bytes()
    resident.give_back()
    assert resident.resident_bytes() <= held
