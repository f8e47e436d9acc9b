from collections.abc import Iterator

import pytest

from isoembed.encoder import export
from isoembed.encoder.certificate import examine


@pytest.fixture(autouse=True, scope="session")
def examined_here() -> Iterator[None]:
    """What is exported is opened again in this process, not in a new one, which takes seconds each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "examine_afresh", examine)
        yield
