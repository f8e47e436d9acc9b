"""How the command line writes: text to a terminal or a pipe, or JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def no_library_bars() -> None:
    """Silence transformers' own bars for reading and writing weights: a run has one bar, ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Where text goes: as wide as the terminal, or 120 columns into a pipe."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, quiet=quiet, highlight=False, width=None if terminal else 120)
