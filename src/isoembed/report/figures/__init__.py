"""The figures of a study, in the order in which the page shows them; a file each, listed in `SECTIONS`.

Each is a plotly figure whose meta data hold its `title` and an `alt` text; `figures(report_data)["frontier"].show()`.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from isoembed.core import InputError, checked, expanded
from isoembed.report.data import ReportData
from isoembed.report.figures import diagnostics, forecasts, frontier, hyperparameters, isoflop, scores, sizes, tokens
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.render import write_figures

__all__ = ["SECTIONS", "Figure", "Section", "drawings", "figure", "figures", "sections"]

SECTIONS: list[Section] = [
    frontier.SECTION,
    isoflop.SECTION,
    sizes.SECTION,
    hyperparameters.ACTIVE_FRACTION,
    hyperparameters.LORA_RANK,
    forecasts.SECTION,
    scores.SECTION,
    tokens.SECTION,
    diagnostics.SECTION,
]


def sections(report_data: ReportData) -> list[tuple[Section, dict[str, go.Figure]]]:
    """Every section that has a figure on these runs, with its figures."""
    found = [(section, section.drawings(report_data)) for section in SECTIONS]
    return [(section, {name: draw() for name, draw in drawn.items()}) for section, drawn in found if drawn]


def drawings(report_data: ReportData) -> Drawings:
    """What draws each figure, by its name as `isoembed figure NAME` knows it."""
    return {name: draw for section in SECTIONS for name, draw in section.drawings(report_data).items()}


def figures(report_data: ReportData) -> dict[str, go.Figure]:
    """Every figure, by its name."""
    return {name: draw() for name, draw in drawings(report_data).items()}


class Figure(go.Figure):  # type: ignore[misc] # plotly is untyped
    """A plotly figure that a notebook shows, with `save`."""

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        return str(self.layout.meta["alt"])

    def _repr_html_(self) -> str:
        """With the plotting library inside: plotly's own asks a server for it."""
        return str(self.to_html(include_plotlyjs=True, full_html=False))

    @checked
    def save(self, file: str | Path, *, width: int = 900, height: int = 560, dark: bool = False) -> None:
        """Write it as .png, .svg, .pdf or .html; `width` and `height` in pixels."""
        write_figures({expanded(file): self}, width=width, height=height, dark=dark)


@checked
def figure(name: str, ledger: str | Path, law: str | Path | None = None) -> Figure:
    """One figure of a ledger, as `frontier`, by the law of that file or the one fitted here; no other is drawn.  Losses
    are in nats, budgets in model FLOP, sizes in non-embedding parameters.

    Raises InputError naming all that the ledger gives where there is none of that name, and where there is no ledger.
    """
    return drawn(name, drawings(ReportData.open(expanded(ledger), None if law is None else expanded(law))))


def drawn(name: str, known: Drawings) -> Figure:
    """The figure of that name.  Raises InputError naming all that are `known` where there is none."""
    if name not in known:
        raise InputError(f"`figure` must be one that there is here: {', '.join(known)}; got {name!r}.")
    return Figure(known[name]())
