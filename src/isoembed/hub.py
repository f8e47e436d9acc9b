"""The model hub, asked once whether it can be reached: its client's own way is 26 seconds of retries for each file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: seconds until an answer that does not come counts as none
_PATIENCE = 4.0
#: seconds that the answer no is believed
_BELIEVED = 60.0
#: endpoint -> until when (time.monotonic) which answer is believed
_answers: dict[str, tuple[float, bool]] = {}


def is_reachable() -> bool:
    """Whether anybody answers at the hub's address, whatever it says; asked through the client's session, so that
    proxies and certificates are those of the user."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    until, answer = _answers.get(constants.ENDPOINT, (0.0, False))
    if time.monotonic() < until:
        return answer
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE, follow_redirects=False)
        answer = True
    except Exception:  # the client's errors are those of whichever library it is built on
        answer = False
    _answers[constants.ENDPOINT] = (float("inf") if answer else time.monotonic() + _BELIEVED, answer)
    return answer


@contextmanager
def hub_or_cache(place: str = "") -> Iterator[None]:
    """Within it the hub's client goes by its cache alone where the hub cannot be reached: what is not there is an error
    at once.

    place: what is opened; for a folder nothing is asked.
    """
    if (place and Path(place).is_dir()) or is_reachable():
        yield
        return
    from huggingface_hub import constants

    settings: list[Any] = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [each.HF_HUB_OFFLINE for each in settings]
    for each in settings:
        each.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.HF_HUB_OFFLINE = value
