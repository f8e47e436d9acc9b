"""`isoembed validate`: a law checked at other batches and contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson
from isoembed.fitting.io.law_file import LawSet


def validate(
    law: Annotated[Path, typer.Argument(help="law.json of `isoembed fit` to a ledger")],
    ledger: Annotated[Path, typer.Argument(help="runs on the same pairs at other batches or contexts")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="write the law with what was seen; where it holds, recipe, run and train use it",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a law at other batches and contexts: does it forecast runs there where D counts training steps?"""
    from isoembed.fitting.validate import check_ledger

    found = check_ledger(LawSet.load(law), ledger)
    if out is not None:
        found.laws.save(out)
    if as_json:
        shown = found.model_dump(mode="json", exclude={"laws"})
        terminal.print_json({**shown, "out": None if out is None else str(out)})
    else:
        from isoembed.report.terminal.laws import check_text

        terminal.console().print(check_text(found))
        if out is not None:
            terminal.console().print(f"\nlaw in {out}", markup=False)
