"""The user's cache as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.cache import CacheEntry
from isoembed.report.terminal.layout import columns_table, duration, gib


def cache_text(cache: Path, entries: Sequence[CacheEntry], *, cleared: bool) -> RenderableType:
    """What lies there, or lay there until now."""
    whole = gib(sum(entry.bytes for entry in entries))
    if not entries:
        return Text(f"nothing to clear in {cache}" if cleared else f"nothing in {cache}")
    table = columns_table(
        ("kind", "size", "last used", "of"),
        [
            (entry.kind, gib(entry.bytes), f"{duration(entry.idle_seconds)} ago", entry.out or entry.folder.name)
            for entry in entries
        ],
    )
    return Group(table, Text(f"{whole} {'cleared from' if cleared else 'in'} {cache}"))
