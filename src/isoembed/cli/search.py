"""`isoembed search`: the documents nearest to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson


def search(
    folder: Annotated[Path, typer.Argument(help="folder of an exported model")],
    query: Annotated[str, typer.Argument(help="what to look for")],
    documents: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of {title, text} to search; default: this environment's docstrings", rich_help_panel="Data"
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="how many to show", rich_help_panel="Output")] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the documents nearest to a query; the first search embeds them all and keeps the index in the cache."""
    from isoembed.data.sources.docstrings import documents as docstrings
    from isoembed.report.terminal.recommendation import hits_text
    from isoembed.workflows.search import Index, read_documents

    terminal.no_library_bars()
    console = terminal.console(stderr=True)
    index = Index.find(folder) if documents is None else None
    if index is None:
        with console.status("reading documents ...") as status:
            index = Index.build(
                folder,
                docstrings() if documents is None else read_documents(documents),
                progress=lambda done, of: status.update(f"embedding documents: {done:,} of {of:,}"),
            )
    hits = index.search(query, k)
    if as_json:
        terminal.print_json([{"score": hit.score, "title": hit.title, "text": hit.text} for hit in hits])
    else:
        terminal.console().print(hits_text(hits))
