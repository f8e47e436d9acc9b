"""The figures of a study, in the order in which the page shows them.

Each is a plotly figure whose meta data hold its `title` and an `alt` text; `figures(evidence)["frontier"].show()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from isoembed.core import InputError, checked, expanded
from isoembed.report.data import ReportData
from isoembed.report.figures.diagnostics import residuals
from isoembed.report.figures.forecasts import forecasts
from isoembed.report.figures.frontier import frontier
from isoembed.report.figures.hyperparameters import active_fraction, lora_rank
from isoembed.report.figures.isoflop import isoflop
from isoembed.report.figures.scores import budget_against_score, loss_against_score, size_against_score
from isoembed.report.figures.sizes import optimal_size
from isoembed.report.figures.tokens import tokens
from isoembed.report.forecast_grid import ForecastGrid
from isoembed.report.render import write_figure

__all__ = ["Figure", "Section", "figure", "figures", "forecast_grid_of", "sections"]


@dataclass(frozen=True, eq=False)
class Section:
    """Figures that answer one question."""

    name: str
    title: str
    about: str
    figures: dict[str, go.Figure]


def forecast_grid_of(evidence: ReportData) -> tuple[ForecastGrid | None, str | None]:
    """The laws ready to be asked, or why they cannot be."""
    try:
        return ForecastGrid(evidence), None
    except InputError as error:
        return None, str(error)


def sections(evidence: ReportData) -> list[Section]:
    """Every section that has a figure on these runs."""
    grid, _ = forecast_grid_of(evidence)
    found = [
        Section(
            "frontier",
            "Which method at which budget",
            "Points are runs at their best learning rate, bars the 95 % noise between seeds. Lines are each method's "
            "best candidate by its law, bands the law's 95 % uncertainty.",
            frontier(evidence, grid),
        ),
        Section(
            "isoflop",
            "Which size at which budget",
            "Runs of one budget on every size, at the best hyperparameter, which is noted beside the point. A star "
            "marks the minimum of the curve, where it lies inside the sizes tested.",
            isoflop(evidence, grid),
        ),
        Section(
            "optimal-size",
            "How the best size grows",
            "Bands are the sizes that the law's uncertainty leaves possible; steps, because a family has few sizes.",
            optimal_size(evidence, grid),
        ),
        Section(
            "active-fraction",
            "How many blocks to train",
            "Block freezing at one budget, a line per size.",
            active_fraction(evidence),
        ),
        Section("lora-rank", "Which LoRA rank", "LoRA at one budget, a line per size.", lora_rank(evidence)),
        Section(
            "forecast",
            "Does the law forecast?",
            "Bars are 95 % intervals for one run. Held-out points, open, are predicted by a fit that did not see them.",
            forecasts(evidence),
        ),
        Section(
            "scores",
            "What the loss is worth",
            "Scores of all runs that were scored; Spearman's rank correlation with its 95 % bootstrap interval. "
            "Against size, the setting that scores best, noted beside the point; one seed each unless repeated.",
            {**loss_against_score(evidence), **budget_against_score(evidence), **size_against_score(evidence)},
        ),
        Section("tokens", "Loss against tokens", "Every setting at its best learning rate.", tokens(evidence)),
        Section(
            "diagnostics",
            "Where the law misses",
            "Residuals of the fit; the band holds 95 % of runs if the law is right.",
            residuals(evidence),
        ),
    ]
    return [section for section in found if section.figures]


def figures(evidence: ReportData) -> dict[str, go.Figure]:
    """Every figure by its name, as `isoembed figure NAME` knows it."""
    return {name: made for section in sections(evidence) for name, made in section.figures.items()}


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
        """Write it as .png, .svg or .html; `width` and `height` in pixels."""
        write_figure(self, expanded(file), width=width, height=height, dark=dark)


@checked
def figure(name: str, ledger: str | Path, law: str | Path | None = None) -> Figure:
    """One figure of a ledger, as `frontier`, by the law of that file or the one fitted here.  Raises InputError naming
    all that the ledger gives where there is none of that name."""
    found = figures(ReportData.open(expanded(ledger), None if law is None else expanded(law)))
    if name not in found:
        raise InputError(f"`figure` must be one that the ledger gives: {', '.join(found)}; got {name!r}.")
    return Figure(found[name])
