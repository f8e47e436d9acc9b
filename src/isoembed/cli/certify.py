"""`isoembed certify`: is a model folder what it should be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson


def certify(
    folder: Annotated[Path, typer.Argument(help="folder of a sentence-transformers model, of whoever wrote it")],
    base: Annotated[
        str | None,
        typer.Option(
            help="the model it was trained from, as --model of run (X@6 where it was cut); default: its record's",
            rich_help_panel="Model",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Open a model afresh and check that it is whole, trained, and reads texts as in training; exit status 1 where a
    check fails."""
    from isoembed.report.terminal.certificate import certificate_text
    from isoembed.workflows.certify import certify as asked_of

    terminal.no_library_bars()
    found = asked_of(folder, base=base)
    if as_json:
        terminal.print_json({"passed": found.passed, **found.model_dump(mode="json", exclude={"statement"})})
    else:
        terminal.console().print(certificate_text(found))
    if not found.passed:
        raise typer.Exit(1)
