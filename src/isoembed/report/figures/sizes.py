"""Figures 6 and 13 of the paper: the best model size at each budget, a figure per method."""

from __future__ import annotations

import plotly.graph_objects as go

from isoembed.fitting.intervals import Interval
from isoembed.report.data import ReportData
from isoembed.report.figures.isoflop import minimum, profiles_of
from isoembed.report.forecast_grid import ForecastGrid
from isoembed.report.theme import ACCENT, band, figure, flop_axis, method_style, shade_beyond


def optimal_size(evidence: ReportData, grid: ForecastGrid | None) -> dict[str, go.Figure]:
    """Measured: the size of lowest loss and the curve's minimum.  Forecast: the law's best of the family's sizes, with
    the sizes that its uncertainty leaves possible."""
    found = {}
    for method in evidence.methods:
        profiles = profiles_of(evidence, method)
        expected = [
            (forecasts.flop, params)
            for forecasts in (grid.budgets if grid else [])
            if grid and (params := grid.best_params(method, forecasts)) and params.value is not None
        ]
        if not profiles and not expected:
            continue
        lowest = [min(profile, key=lambda cell: cell.loss) for _, profile in profiles]
        alt = f"Best model size against budget for {method}. Measured: " + (
            "; ".join(f"{cell.model.name} at {flop:.3g} FLOP" for (flop, _), cell in zip(profiles, lowest, strict=True))
            or "no budget with three sizes"
        )
        made = figure(f"Best size, {method}", alt, x="", y="non-embedding parameters")
        flop_axis(made)
        made.update_yaxes(type="log", tickformat="~s", dtick="D2")
        style = method_style(method)
        colour = style.colour
        if expected:
            _add_forecast(made, expected, method, colour)
        made.add_trace(
            go.Scatter(
                x=[flop for flop, _ in profiles],
                y=[cell.model.params for cell in lowest],
                mode="markers",
                name="size of the lowest loss",
                customdata=[[cell.record.key] for cell in lowest],
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
        if grid and expected:
            shade_beyond(made, grid.fitted[1], expected[-1][0])
        found[f"optimal-size-{method}"] = made
    return found


def _add_forecast(made: go.Figure, expected: list[tuple[float, Interval]], method: str, colour: str) -> None:
    """The law's best size at each budget, a line of steps with its 95 % band."""
    at = [flop for flop, _ in expected]
    value = [params.value for _, params in expected]
    low = [params.low if params.low is not None else params.value for _, params in expected]
    high = [params.high if params.high is not None else params.value for _, params in expected]
    made.add_trace(band(at, low, high, colour, f"{method} by its law, 95 %", "law"))  # type: ignore[arg-type] # values are known
    made.add_trace(
        go.Scatter(
            x=at,
            y=value,
            mode="lines",
            name="best of the family by the law, 95 %",
            legendgroup="law",
            line={"color": colour, "width": 1.5, "shape": "hv"},
            hovertemplate="%{x:.3g} FLOP: N %{y:.3s}<extra>law</extra>",
        )
    )
