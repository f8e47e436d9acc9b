"""How the command line writes: text to a terminal or a pipe, or JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import IO, TYPE_CHECKING, Any

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
    """Where text goes: as wide as the terminal; into a pipe plain, and wrapped only where `COLUMNS` says at what width.

    Tables are never cut at the edge: a line too long is the terminal's to wrap.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
    columns = os.environ.get("COLUMNS", "")
    return Console(
        file=_Trimmed(stream),  # type: ignore[arg-type]
        quiet=quiet,
        highlight=False,
        soft_wrap=True,
        force_terminal=False,
        width=int(columns) if columns.isdigit() and int(columns) else _UNWRAPPED,
    )


#: columns: more than any line has
_UNWRAPPED = 10_000


class _Trimmed:
    """A stream whose lines end where their text does: rich pads every cell of a table to its column's width."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
