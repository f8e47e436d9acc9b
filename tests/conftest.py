"""What all tests share: a cache of their own, and one process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from isoembed.encoder import export
from isoembed.encoder.certificate import examine


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """The user's cache is not for tests: neither to fill nor to find things in."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.delenv("ISOEMBED_CACHE", raising=False)
        patched.setenv("XDG_CACHE_HOME", folder)
        yield


@pytest.fixture(autouse=True, scope="session")
def examined_here() -> Iterator[None]:
    """What is exported is opened again in this process, not in a new one, which takes seconds each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "examine_afresh", examine)
        yield
