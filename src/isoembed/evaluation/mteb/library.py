"""The library itself: there or not, and its voice turned down."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from isoembed.core import InputError


def require() -> None:
    """Raise InputError where the library is not installed; it takes seconds to import, so this does not."""
    if importlib.util.find_spec("mteb") is None:
        raise InputError("This needs the mteb library, which is not installed: pip install 'isoembed[mteb]'.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the library says of tasks that have a newer version (a preset names its versions on purpose) and of
    its own deprecations.  What goes wrong is raised, not said."""
    logger = logging.getLogger("mteb")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"mteb\b")
            warnings.filterwarnings("ignore", module=r"isoembed\.evaluation\.mteb\b")
            yield
    finally:
        logger.setLevel(level)
