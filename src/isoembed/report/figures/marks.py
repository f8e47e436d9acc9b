"""Marks that several figures share: points that know their run, points with intervals, a law's line and band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from isoembed.records import RunRecord
from isoembed.report.data import Replicates, ReportData
from isoembed.report.forecast_grid import ForecastPoint
from isoembed.report.theme import band, plain


def loss_title(evidence: ReportData) -> str:
    """The loss axis in words."""
    return "held-out loss, nats" if evidence.target == "heldout" else "training loss, nats"


def slug(name: str) -> str:
    """`lora r=d/8` -> `lora-r-d-8`: what a figure, and its file, may be called."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def names(record: RunRecord) -> list[str]:
    """What a point carries: its run's key, which the page links to the table, and the run in words."""
    return [record.key, plain(f"{record.recipe.model.name}, {record.recipe.method.label}")]


def runs(
    records: Sequence[RunRecord], x: Sequence[float], y: Sequence[float], *, name: str, shows: str, **marks: Any
) -> go.Scatter:
    """One point a run.  `shows` is what a hover says below the run's name, as `loss %{y:.4g}`."""
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
        y=[cell.loss for cell in found],
        mode=mode,
        name=plain(name),
        customdata=[[*names(cell.record), len(cell.records)] for cell in found],
        hovertemplate=f"%{{customdata[1]}}<br>{shows}<br>seeds: %{{customdata[2]}}<extra></extra>",
        **marks,
    )
    if any(cell.spread is not None for cell in found):
        made.error_y = {
            "type": "data",
            "symmetric": False,
            "array": [cell.ends[1] - cell.loss for cell in found],
            "arrayminus": [cell.loss - cell.ends[0] for cell in found],
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
            mode="lines",
            name=plain(name),
            legendgroup=group,
            showlegend=legend,
            line={"color": colour, "width": 1.5, "dash": dash},
            customdata=[[start, end] for start, end in zip(low, high, strict=True)],
            hovertemplate=f"{plain(name)}<br>%{{y:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}]"
            "<extra></extra>",
        )
    )


def _known(value: float | None) -> float:
    assert value is not None
    return value
