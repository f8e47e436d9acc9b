"""What is published, as aligned text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.core import number_of
from isoembed.report.terminal.layout import gib, pairs_table

if TYPE_CHECKING:
    from isoembed.workflows.push import Publication


def publication_text(found: Publication) -> RenderableType:
    """A line a file, and where it is or would be."""
    table = pairs_table((file.path, gib(file.bytes)) for file in found.files)
    kind = "private" if found.private else "public"
    whole = f"{number_of(len(found.files), 'file')}, {gib(found.bytes)}; {number_of(found.checks, 'check')} passed"
    where = f"would be {kind}: {found.repository}" if found.url is None else f"published: {found.url}"
    return Group(table, Text(""), Text(whole), *map(Text, found.remarks), Text(where))
