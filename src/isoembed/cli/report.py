"""`isoembed report` and `isoembed figure`: parse, call, print."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from isoembed.cli import terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.options import AsJson
from isoembed.core import InputError, number_of, write_atomically

if TYPE_CHECKING:
    from isoembed.report.compare import Comparison

LedgerPath = Annotated[Path, typer.Argument(help="folder of a sweep, or a .jsonl.gz of `ledger export`")]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The laws of a ledger, and what is set beside it."""

    panel: ClassVar[str] = "Law"

    law: Annotated[
        Path | None,
        typer.Option(
            "--law",
            help="law.json of `isoembed fit`; default: that of these runs which ships, else one fitted here",
        ),
    ] = None
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="another ledger, or a law, beside LEDGER, which may be a law too", rich_help_panel="Data"
        ),
    ] = None
    against_law: Annotated[
        Path | None, typer.Option("--against-law", help="law.json for --against; alone, another law of the same ledger")
    ] = None

    @property
    def one(self) -> bool:
        """Whether there is nothing beside the ledger."""
        return self.against is None and self.against_law is None

    def comparison(self, ledger: Path) -> Comparison:
        """Of `ledger` and what is beside it."""
        from isoembed.report.compare import Comparison

        return Comparison.open((ledger, self.law), (self.against or ledger, self.against_law))


def report(
    ctx: typer.Context,
    ledger: LedgerPath,
    sides: Sides,
    out: Annotated[
        Path, typer.Option("--out", help="the page, one HTML file that needs no network", rich_help_panel="Output")
    ] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Draw a ledger and its laws as one interactive page: the recipe at any budget first, then all figures.  With
    --against two ledgers, or two laws, beside each other."""
    from isoembed.report.data import ReportData
    from isoembed.report.page import page

    if not sides.one:
        _compare(sides.comparison(ledger), out, as_json, ctx)
        return
    report_data = ReportData.open(ledger, sides.law)
    html = page(report_data)
    write_atomically(out, html)
    if as_json:
        notes = list(report_data.notes)
        terminal.print_json(
            {"out": str(out), "runs": len(report_data.records), "bytes": len(html.encode()), "notes": notes}
        )
        return
    for note in report_data.notes:
        terminal.complain(with_flags(note, ctx))
    runs = number_of(len(report_data.records), "run")
    terminal.console().print(f"{runs}, {len(html.encode()) / 1e6:.2f} MB in {out}", markup=False)


def _compare(comparison: Comparison, out: Path, as_json: bool, ctx: typer.Context) -> None:
    from isoembed.report.page import comparison_page

    html = comparison_page(comparison)
    write_atomically(out, html)
    if as_json:
        terminal.print_json(
            {
                "out": str(out),
                "names": comparison.names,
                "bytes": len(html.encode()),
                "losses_apart": comparison.apart,
                "differences": comparison.differences,
                "answers": [
                    {"budget": each.budget.stated, "recipes": each.sentences, "verdict": each.verdict}
                    for each in comparison.answers
                ],
            }
        )
        return
    for reason in comparison.apart:
        terminal.complain(f"losses cannot be compared: {reason}")
    for each in comparison.answers:
        lines = (
            each.budget.stated,
            *(f"  {letter}  {with_flags(text, ctx)}" for letter, text in zip("AB", each.sentences, strict=True)),
        )
        terminal.console().print("\n".join((*lines, f"     {each.verdict}")), markup=False)
    terminal.console().print(f"{len(html.encode()) / 1e6:.2f} MB in {out}", markup=False)


class FigureFormat(StrEnum):
    """What `figure all` writes."""

    SVG = "svg"
    PNG = "png"
    PDF = "pdf"
    HTML = "html"


def figure(
    name: Annotated[
        str, typer.Argument(help="as frontier (with --against frontiers); `all` of them, or `list` their names")
    ],
    ledger: LedgerPath,
    sides: Sides,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="file ending in .png, .svg, .pdf or .html; of `all` a folder", rich_help_panel="Output"
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=200, max=8000, help="pixels", rich_help_panel="Output")] = 900,
    height: Annotated[int, typer.Option(min=150, max=8000, help="pixels", rich_help_panel="Output")] = 560,
    dark: Annotated[bool, typer.Option("--dark", help="on a dark ground", rich_help_panel="Output")] = False,
    file_format: Annotated[
        FigureFormat | None, typer.Option("--format", help="of `all`; default: svg", rich_help_panel="Output")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one figure of a ledger, or all, as PNG, SVG, PDF or HTML; with --against of two ledgers, or two laws."""
    from isoembed.report.data import ReportData
    from isoembed.report.figures import compared, drawings, drawn
    from isoembed.report.render import write_figures

    _check_place(name, out, file_format)
    size: dict[str, Any] = {"width": width, "height": height, "dark": dark}
    one = sides.one
    known = drawings(ReportData.open(ledger, sides.law)) if one else compared.drawings(sides.comparison(ledger))
    if name == "all" and out is not None:
        files = {each: out / f"{each}.{(file_format or FigureFormat.SVG).value}" for each in known}
        write_figures({files[each]: draw() for each, draw in known.items()}, **size)
        _say_all(files, out, as_json)
        return
    if name == "list" or out is None:
        if as_json:
            terminal.print_json({"figures": list(known)})
        else:
            terminal.console().print("\n".join(known), markup=False)
        return
    made = drawn(name, known)
    made.save(out, **size)
    if as_json:
        terminal.print_json({"out": str(out), "figure": name, "alt": made.alt})
    else:
        terminal.console().print(f"{made.alt}\nin {out}", markup=False)


def _check_place(name: str, out: Path | None, file_format: FigureFormat | None) -> None:
    """Before anything is fitted or drawn."""
    from isoembed.report.render import check_format

    if file_format is not None and name != "all":
        raise InputError(f"`--format` is for `figure all`; a single figure's is in its name, as --out {name}.png.")
    if name == "list":
        return
    if name == "all":
        if out is None or out.is_file():
            raise InputError("Figures need a folder to go to; say --out figures.")
        return
    if out is None:
        raise InputError(f"A figure needs a file to go to; say --out {name}.png.")
    check_format(out)


def _say_all(files: dict[str, Path], out: Path, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"out": str(out), "figures": list(files), "files": [str(file) for file in files.values()]})
    else:
        terminal.console().print(f"{number_of(len(files), 'figure')} in {out}", markup=False)
