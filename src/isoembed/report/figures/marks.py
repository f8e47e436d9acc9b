"""Marks that several figures share: points that know their run, points with intervals, a law's line and band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from isoembed.fitting.intervals import Interval
from isoembed.records import RunRecord
from isoembed.report.data import Replicates, ReportData
from isoembed.report.forecast_grid import ForecastPoint
from isoembed.report.theme import Style, band, plain


def loss_title(report_data: ReportData) -> str:
    """The loss axis in words."""
    return "held-out loss, nats" if report_data.target == "heldout" else "training loss, nats"


def slug(name: str) -> str:
    """`lora r=d/8` -> `lora-r-d-8`: what a figure, and its file, may be called."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def names(record: RunRecord) -> list[str]:
    """What a point carries: its run's key, which the page links to the table, and the run in words."""
    return [record.key, plain(f"{record.recipe.model.name}, {record.recipe.method.label}")]


def runs(
    records: Sequence[RunRecord], x: Sequence[float], y: Sequence[float], *, name: str, shows: str, **marks: Any
) -> go.Scatter:
    """One point per run.  `shows` is what a hover says below the run's name, as `loss %{y:.4g}`."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="markers",
        name=plain(name),
        customdata=[names(record) for record in records],
        hovertemplate=f"%{{customdata[1]}}<br>{shows}<extra></extra>",
        **marks,
    )


def replicates(
    found: Sequence[Replicates], x: Sequence[float], *, name: str, shows: str, mode: str = "lines+markers", **marks: Any
) -> go.Scatter:
    """One point per setting: its mean loss over seeds, with the 95 % interval of their noise where known."""
    made = go.Scatter(
        x=list(x),
        y=[run.loss for run in found],
        mode=mode,
        name=plain(name),
        customdata=[[*names(run.record), len(run.records)] for run in found],
        hovertemplate=f"%{{customdata[1]}}<br>{shows}<br>seeds: %{{customdata[2]}}<extra></extra>",
        **marks,
    )
    if any(run.spread is not None for run in found):
        made.error_y = {
            "type": "data",
            "symmetric": False,
            "array": [run.ends[1] - run.loss for run in found],
            "arrayminus": [run.loss - run.ends[0] for run in found],
            "thickness": 1,
            "width": 3,
        }
    return made


def forecast(
    made: go.Figure,
    points: Sequence[ForecastPoint],
    x: Sequence[float],
    *,
    name: str,
    colour: str,
    group: str,
    dash: str = "solid",
    legend: bool = True,
) -> None:
    """Add a law's line and its 95 % band; where an end is unbounded the band stops at the line."""
    value = [_known(point.loss.value) for point in points]
    low = [middle if point.loss.low is None else point.loss.low for point, middle in zip(points, value, strict=True)]
    high = [middle if point.loss.high is None else point.loss.high for point, middle in zip(points, value, strict=True)]
    made.add_trace(band(list(x), low, high, colour, f"{name}, 95 %", group))
    made.add_trace(
        go.Scatter(
            x=list(x),
            y=value,
            # marks that are not seen, and larger than a run's: of two under the mouse the smaller one is taken
            mode="lines+markers",
            marker={"opacity": 0, "size": 14},
            name=plain(name),
            legendgroup=group,
            showlegend=legend,
            line={"color": colour, "width": 1.5, "dash": dash},
            customdata=[[start, end] for start, end in zip(low, high, strict=True)],
            hovertemplate=f"{plain(name)}<br>%{{y:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}]"
            "<extra></extra>",
        )
    )


def recipe_labels(made: go.Figure, points: Sequence[ForecastPoint], *, above: bool, side: str = "") -> None:
    """Name the recipes along a falling line, above its first half or below its second one: there it leaves room; with
    `side` in front, in the text's colour, for a thin letter in a line's colour is hard to read on a dark ground."""
    places = [round(share * (len(points) - 1)) for share in ((0.0, 0.25, 0.5) if above else (0.5, 0.75, 1.0))]
    named = {points[i].name: points[i] for i in (places if points else [])}
    if not named:
        return
    made.add_trace(
        go.Scatter(
            x=[point.flop for point in named.values()],
            y=[_known(point.loss.value) for point in named.values()],
            mode="text",
            text=[plain(f"{side}: {name}" if side else name) for name in named],
            textposition="top right" if above else "bottom left",
            textfont={"size": 11},
            showlegend=False,
            hoverinfo="skip",
        )
    )


def best_sizes(
    made: go.Figure, expected: Sequence[tuple[float, Interval]], *, name: str, style: Style, group: str = "law"
) -> None:
    """Add a law's best size at each budget, N, a line of steps with its 95 % band."""
    at = [flop for flop, _ in expected]
    value = [_known(params.value) for _, params in expected]
    low = [middle if params.low is None else params.low for (_, params), middle in zip(expected, value, strict=True)]
    high = [middle if params.high is None else params.high for (_, params), middle in zip(expected, value, strict=True)]
    edges = [*at[:1], *(flop for flop in at[1:] for _ in range(2))]
    made.add_trace(band(edges, _steps(low), _steps(high), style.colour, f"{name}, 95 %", group))
    made.add_trace(
        go.Scatter(
            x=at,
            y=value,
            mode="lines",
            name=plain(name),
            legendgroup=group,
            line={"color": style.colour, "width": 1.5, "shape": "hv", "dash": style.dash},
            hovertemplate="%{x:.3g} FLOP: N %{y:.3s}<extra>law</extra>",
        )
    )


def _steps(values: list[float]) -> list[float]:
    """Each value up to where the next one begins."""
    return [*(value for value in values[:-1] for _ in range(2)), *values[-1:]]


def _known(value: float | None) -> float:
    assert value is not None
    return value
