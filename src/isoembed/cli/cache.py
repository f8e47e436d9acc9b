"""`isoembed cache`: what lies in the user's cache, and how it is cleared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cache import KINDS, CacheEntry, clear, entries, user_cache
from isoembed.cli import terminal
from isoembed.cli.options import AsJson
from isoembed.core import InputError


def cache(
    clear_kinds: Annotated[
        str | None,
        typer.Option(
            "--clear", help=f"remove {', '.join(KINDS)} or all; several joined by commas", rich_help_panel="Data"
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--cache", help="default: ISOEMBED_CACHE, or ~/.cache/isoembed", rich_help_panel="Data"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what the cache holds: tokenised data, checkpoints of runs, search indices; or clear it.

    What nobody has used for 30 days goes by itself.
    """
    place = folder or user_cache()
    if clear_kinds is None:
        found = list(entries(place))
    else:
        asked = list(KINDS) if clear_kinds == "all" else clear_kinds.split(",")
        if unknown := [kind for kind in asked if kind not in KINDS]:
            raise InputError(f"`--clear` must be {', '.join(KINDS)} or all; got {', '.join(unknown)}. Name some.")
        found = clear(place, [kind for kind in KINDS if kind in asked])
    if as_json:
        terminal.print_json({"cache": str(place), "entries": [_as_json(each) for each in found]})
        return
    from isoembed.report.terminal.cache import cache_text

    terminal.console().print(cache_text(place, found, cleared=clear_kinds is not None))


def _as_json(entry: CacheEntry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "folder": entry.folder.name,
        "bytes": entry.bytes,
        "idle_seconds": entry.idle_seconds,
        "out": entry.out,
    }
