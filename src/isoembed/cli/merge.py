"""`isoembed merge`: the average of several models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import parse, terminal
from isoembed.cli.options import AsJson
from isoembed.core import number_of


def merge(
    models: Annotated[list[Path], typer.Argument(help="folders that run or train wrote, of one base")],
    out: Annotated[Path, typer.Option(help="folder for the average", rich_help_panel="Output")],
    shares: Annotated[
        str | None, typer.Option(help="of each model, as 2,1,1; default: equal ones", rich_help_panel="Model")
    ] = None,
    base: Annotated[
        float | None, typer.Option(help="share of the untrained base, as .3; default: none", rich_help_panel="Model")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of models that were fine-tuned from one base, as seeds of one recipe: one model to serve,
    often a better one than each.  Score it."""
    from isoembed.workflows.merge import merge as merged

    terminal.no_library_bars()
    found = merged(models, out, shares=None if shares is None else parse.numbers(shares, "shares"), base=base)
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
    else:
        parts = ", ".join(f"{part.share:.3g} of {part.name}" for part in found.parts)
        terminal.say(f"{number_of(len(found.parts), 'model')} averaged in {out}: {parts}")
