"""`isoembed push`: a model folder on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson


def push(
    folder: Annotated[Path, typer.Argument(help="what run or train wrote, or another sentence-transformers model")],
    repository: Annotated[str, typer.Argument(help="where to, as ORG/NAME")],
    private: Annotated[
        bool, typer.Option("--private", help="seen by those alone who may", rich_help_panel="Output")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="look at it and list what would be published", rich_help_panel="Output")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a model on the hub, after a look: a model's parts alone, safetensors, certified, and no word of this
    machine in any file."""
    from isoembed.report.terminal.push import publication_text
    from isoembed.workflows.push import push as published

    terminal.no_library_bars()
    found = published(folder, repository, private=private, dry_run=dry_run)
    terminal.answer(found, publication_text, as_json=as_json)
