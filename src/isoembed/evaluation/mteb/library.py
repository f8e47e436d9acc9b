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
    its own deprecations, scikit-learn's remarks on classes that a weak model never predicts, and bars for reading data.
    What goes wrong is raised, not said."""
    import datasets

    logger, bars = logging.getLogger("mteb"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            for module in ("mteb", r"isoembed\.evaluation\.mteb", "sklearn"):
                warnings.filterwarnings("ignore", module=rf"{module}\b")
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
