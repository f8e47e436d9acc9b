"""`isoembed trim`: a base model with the vocabulary that some data use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson, RowReadingOptions
from isoembed.core import InputError
from isoembed.workflows.models import chosen


def trim(
    model: Annotated[str, typer.Argument(help="as --model of run, not cut: a name, a hub id, a folder, a GGUF file")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="pairs, as --data of run, of which all tokens stay")],
    rows: RowReadingOptions,
    out: Annotated[Path, typer.Option(help="folder for the smaller model", rich_help_panel="Output")],
    as_json: AsJson = False,
) -> None:
    """Cut a model's token table to the tokens that data use: the same vectors, less to store and to train."""
    from isoembed.workflows.trim import trim_vocabulary

    terminal.no_library_bars()
    family, name = chosen(None, model)
    spec = family.models[0] if name is None else family.model(name)
    if spec.depth is not None:
        raise InputError(f"A whole model is trimmed, then cut, as OUT@{spec.depth}; got {model!r}. Leave the @ out.")
    found = trim_vocabulary(spec.source, rows.of(source).source(source), out)
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
    else:
        terminal.say(
            f"{found.tokens:,} of {found.tokens_before:,} tokens and {found.params:,} of {found.params_before:,} "
            f"parameters in {out}; {found.texts:,} texts are split as before"
        )
