"""Figures 6 and 13 of the paper: the best model size at each budget, a figure per method."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import plotly.graph_objects as go

from isoembed.fitting.intervals import Interval
from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.isoflop import minimum, profiles_of
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import ACCENT, figure, flop_axis, method_style, shade_beyond


def optimal_size(report_data: ReportData) -> Drawings:
    """Measured: the size of lowest loss and the curve's minimum.  Forecast: the law's best of the family's sizes, with
    the sizes that its uncertainty leaves possible."""
    return {
        f"optimal-size-{method}": partial(_optimal_size, report_data, method, profiles)
        for method in report_data.methods
        if (profiles := profiles_of(report_data, method)) or expected_sizes(report_data, method)
    }


def expected_sizes(report_data: ReportData, method: str | None) -> list[tuple[float, Interval]]:
    """The best size at each budget by the law, N; of the method, or of all."""
    grid = report_data.grid
    return [
        (forecasts.flop, params)
        for forecasts in (grid.budgets if grid else [])
        if grid and (params := grid.best_params(method, forecasts)) and params.value is not None
    ]


def _optimal_size(report_data: ReportData, method: str, profiles: list[tuple[float, list[Replicates]]]) -> go.Figure:
    expected = expected_sizes(report_data, method)
    lowest = [min(profile, key=lambda run: run.loss) for _, profile in profiles]
    alt = f"Best model size against budget for {method}. Measured: " + (
        "; ".join(f"{run.model.name} at {flop:.3g} FLOP" for (flop, _), run in zip(profiles, lowest, strict=True))
        or "no budget with three sizes"
    )
    made = figure(f"Best size, {method}", alt, x="", y="non-embedding parameters")
    flop_axis(made)
    made.update_yaxes(type="log", tickformat="~s", dtick="D2")
    style = method_style(method)
    colour = style.colour
    if expected:
        solid = replace(style, dash="solid")
        marks.best_sizes(made, expected, name="best of the family by the law, 95 %", style=solid)
    made.add_trace(
        go.Scatter(
            x=[flop for flop, _ in profiles],
            y=[run.model.params for run in lowest],
            mode="markers",
            name="size of the lowest loss",
            customdata=[[run.record.key] for run in lowest],
            marker={"color": colour, "symbol": style.symbol, "size": 9},
            hovertemplate="%{x:.3g} FLOP: N %{y:.3s}<extra>measured</extra>",
        )
    )
    stars = [(flop, star.params) for flop, profile in profiles if (star := minimum(profile)).params is not None]
    if stars:
        made.add_trace(
            go.Scatter(
                x=[flop for flop, _ in stars],
                y=[params for _, params in stars],
                mode="markers",
                name="minimum of the curve",
                marker={"symbol": "star", "size": 11, "color": ACCENT, "line": {"color": "#333", "width": 1}},
                hovertemplate="%{x:.3g} FLOP: N %{y:.3s}<extra>curve</extra>",
            )
        )
    if report_data.grid and expected:
        shade_beyond(made, report_data.grid.fitted[1], expected[-1][0])
    return made


SECTION = Section(
    "optimal-size",
    "How the best size grows",
    "Bands are the sizes that the law's uncertainty leaves possible; steps, because a family has few sizes.",
    optimal_size,
)
