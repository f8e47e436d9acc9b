"""`isoembed trim`: a base model with the vocabulary that some data use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson, RowReadingOptions


def trim(
    model: Annotated[str, typer.Argument(help="a hub id, a folder, a GGUF file, or nano/NAME")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="pairs, as --data of run, of which all tokens stay")],
    rows: RowReadingOptions,
    out: Annotated[Path, typer.Option(help="folder for the smaller model", rich_help_panel="Output")],
    as_json: AsJson = False,
) -> None:
    """Cut a model's token table to the tokens that data use: the same vectors, less to store and to train."""
    from isoembed.workflows.trim import trim_vocabulary

    terminal.no_library_bars()
    found = trim_vocabulary(model, rows.of(source).source(source), out)
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
    else:
        terminal.say(
            f"{found.tokens:,} of {found.tokens_before:,} tokens and {found.params:,} of {found.params_before:,} "
            f"parameters in {out}; {found.texts:,} texts are split as before"
        )
