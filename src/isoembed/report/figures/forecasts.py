"""Figures 7, 14, 19 and 23 of the paper: predicted against actual loss.

A held-out point is predicted by a fit that did not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import plotly.graph_objects as go

from isoembed.core import InputError
from isoembed.fitting.bootstrap import Bootstrap, bootstrap
from isoembed.fitting.holdout import By, held_rows
from isoembed.fitting.intervals import Interval
from isoembed.fitting.io.law_file import LawFile
from isoembed.fitting.settings import Group
from isoembed.fitting.study import as_fitted
from isoembed.laws import law_named
from isoembed.laws.points import Points
from isoembed.records import RunRecord
from isoembed.report.data import ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import ACCENT, NEUTRAL, figure, method_style

#: as many as `laws.validate.holdout` takes
_DRAWS = 200
_HELD: dict[By, tuple[str, str]] = {
    "largest-size": ("diamond-open", "largest size, held out"),
    "largest-budget": ("square-open", "largest budget, held out"),
}


@dataclass(frozen=True, eq=False)
class Predicted:
    """Runs with what a fit says of one more run like each: the law's uncertainty and the runs' noise."""

    records: list[RunRecord]
    actual: list[float]
    predicted: list[Interval]


def forecasts(report_data: ReportData) -> Drawings:
    """One figure per law: fitted runs by the law itself, held-out runs by the fit without them."""
    return {
        f"forecast-{marks.slug(law.method or law.law)}": partial(_forecast, report_data, fitted, law)
        for group in report_data.groups.values()
        if (law := report_data.law_of(group)) is not None
        and law.draws is not None
        and (fitted := as_fitted(law, group)) is not None
    }


def _forecast(report_data: ReportData, group: Group, law: LawFile) -> go.Figure:
    records = report_data.drawn(group)
    rows = np.arange(len(records))
    held: dict[By, Predicted] = {}
    for by in _HELD:
        mask = held_rows(group.points, by)
        try:
            without = bootstrap(law_named(law.law), group.points[~mask], draws=_DRAWS)
        except InputError:
            continue  # too few runs are left: nothing was held out
        held[by] = _predicted(without, group.points, records, rows[mask])
    return _figure(law, _predicted(law.bootstrap(), group.points, records, rows), held)


def _predicted(
    boot: Bootstrap, points: Points, records: list[RunRecord], rows: np.ndarray[tuple[int], np.dtype[np.int_]]
) -> Predicted:
    shown = points[rows]
    return Predicted([records[row] for row in rows], shown.loss.tolist(), boot.loss_intervals(shown, noise=True))


def _figure(law: LawFile, fitted: Predicted, held: dict[By, Predicted]) -> go.Figure:
    name = law.method or law.law
    inside = _covered(fitted)
    alt = (
        f"Predicted against actual loss of the {name} runs: {inside} of {len(fitted.actual)} fitted runs lie in their "
        "95 % interval"
    )
    alt += "".join(
        f"; {by.replace('-', ' ')} held out: {_covered(points)} of {len(points.actual)}" for by, points in held.items()
    )
    made = figure(f"Predicted against actual, {name}", alt, x="predicted loss, nats", y="actual loss, nats")
    every = [*fitted.actual, *(value for points in held.values() for value in points.actual)]
    ends = [min(every) * 0.98, max(every) * 1.02]
    made.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": NEUTRAL, "dash": "dot"}, hoverinfo="skip")
    )
    style = method_style(fitted.records[0].recipe.method.name)
    made.add_trace(_points(fitted, "fitted", style.colour, style.symbol))
    for by, points in held.items():
        symbol, words = _HELD[by]
        made.add_trace(_points(points, words, ACCENT, symbol))
    return made


def _points(shown: Predicted, name: str, colour: str, symbol: str) -> go.Scatter:
    value = [interval.value or 0.0 for interval in shown.predicted]
    made = marks.runs(
        shown.records,
        value,
        shown.actual,
        name=name,
        shows="predicted %{x:.4g}, actual %{y:.4g}",
        marker={"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2 if "open" in symbol else 0}},
    )
    made.error_x = {
        "type": "data",
        "symmetric": False,
        "array": [(i.high or v) - v for i, v in zip(shown.predicted, value, strict=True)],
        "arrayminus": [v - (i.low or 0.0) for i, v in zip(shown.predicted, value, strict=True)],
        "thickness": 0.7,
        "width": 0,
    }
    return made


def _covered(shown: Predicted) -> int:
    """How many actual losses lie in their interval."""
    return sum(
        interval.ends[0] <= actual <= interval.ends[1]
        for actual, interval in zip(shown.actual, shown.predicted, strict=True)
    )


SECTION = Section(
    "forecast",
    "Does the law forecast?",
    "Bars are 95 % intervals for one run. Held-out points, open, are predicted by a fit that did not see them.",
    forecasts,
)
