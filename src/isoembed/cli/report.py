"""`isoembed report` and `isoembed figure`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson
from isoembed.core import InputError, number_of, write_atomically

if TYPE_CHECKING:
    pass

LedgerPath = Annotated[Path, typer.Argument(help="folder of a sweep, or a .jsonl.gz of `ledger export`")]
LawPath = Annotated[
    Path | None, typer.Option("--law", help="law.json of `isoembed fit`; default: the embedding law, fitted here")
]


def report(
    ledger: LedgerPath,
    law: LawPath = None,
    out: Annotated[Path, typer.Option("--out", help="the page, one HTML file that needs no network")] = Path(
        "report.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Draw a ledger and its laws as one interactive page: the recipe at any budget first, then all figures."""
    from isoembed.report.data import ReportData
    from isoembed.report.page import page

    evidence = ReportData.open(ledger, law)
    html = page(evidence)
    write_atomically(out, html)
    if as_json:
        notes = list(evidence.notes)
        terminal.print_json(
            {"out": str(out), "runs": len(evidence.records), "bytes": len(html.encode()), "notes": notes}
        )
        return
    for note in evidence.notes:
        terminal.complain(note)
    runs = number_of(len(evidence.records), "run")
    terminal.console().print(f"{runs}, {len(html.encode()) / 1e6:.2f} MB in {out}", markup=False)


def figure(
    name: Annotated[str, typer.Argument(help="as frontier; `list` names all that the ledger gives")],
    ledger: LedgerPath,
    law: LawPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="file ending in .png, .svg or .html")] = None,
    width: Annotated[int, typer.Option(min=200, max=8000, help="pixels")] = 900,
    height: Annotated[int, typer.Option(min=150, max=8000, help="pixels")] = 560,
    dark: Annotated[bool, typer.Option("--dark", help="on a dark ground")] = False,
    as_json: AsJson = False,
) -> None:
    """Write one figure of a ledger as PNG, SVG or HTML."""
    from isoembed.report.data import ReportData
    from isoembed.report.figures import figure as draw
    from isoembed.report.figures import figures

    if name == "list":
        found = list(figures(ReportData.open(ledger, law)))
        if as_json:
            terminal.print_json({"figures": found})
        else:
            terminal.console().print("\n".join(found), markup=False)
        return
    drawn = draw(name, ledger, law)
    if out is None:
        raise InputError(f"A figure needs a file to go to; say --out {name}.png.")
    drawn.save(out, width=width, height=height, dark=dark)
    if as_json:
        terminal.print_json({"out": str(out), "figure": name, "alt": drawn.alt})
    else:
        terminal.console().print(f"{drawn.alt}\nin {out}", markup=False)
