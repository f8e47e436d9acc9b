"""Figures 18 and 20 to 22 of the paper: where a law misses, run by run."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go

from isoembed.fitting.io.law_file import LawFile
from isoembed.fitting.settings import Group
from isoembed.laws import law_named
from isoembed.report.data import ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import NEUTRAL, count_axis, figure, ordered


def residuals(report_data: ReportData) -> Drawings:
    """One figure per law: ln(actual / predicted) in per cent against tokens, a mark per size; the band is the noise of
    one run, 95 %."""
    return {
        f"residuals-{marks.slug(law.method or law.law)}": partial(_residuals, report_data, group, law)
        for group in report_data.groups.values()
        if (law := report_data.law_of(group)) is not None
    }


def _residuals(report_data: ReportData, group: Group, law: LawFile) -> go.Figure:
    styles = ordered(tuple(model.name for model in report_data.models))
    points, records = group.points, report_data.drawn(group)
    miss_R = 100.0 * np.log(points.loss / law_named(law.law).predict(law.fit.params, points))
    wide = 100.0 * 1.96 * law.run_noise
    name = law.method or law.law
    worst = int(np.argmax(np.abs(miss_R)))
    alt = (
        f"Residuals of the {name} law against tokens: {int(np.sum(np.abs(miss_R) <= wide))} of {len(miss_R)} lie "
        f"within {wide:.1f} %; the largest is {miss_R[worst]:+.1f} % on {records[worst].recipe.model.name}."
    )
    made = figure(f"Residuals, {name}", alt, x="", y="ln(actual / predicted), %")
    count_axis(made, "real tokens seen")
    made.add_hrect(y0=-wide, y1=wide, fillcolor=NEUTRAL, opacity=0.15, line_width=0, layer="below")
    made.add_hline(y=0.0, line={"color": NEUTRAL, "dash": "dot", "width": 1})
    for model in report_data.models:
        mine = [row for row, record in enumerate(records) if record.recipe.model.name == model.name]
        if mine:
            style = styles[model.name]
            made.add_trace(
                marks.runs(
                    [records[row] for row in mine],
                    points.tokens[mine].tolist(),
                    miss_R[mine].tolist(),
                    name=model.name,
                    shows="%{x:.3s} tokens, %{y:+.2f} %",
                    marker={"color": style["color"], "symbol": style["symbol"], "size": 8},
                )
            )
    return made


SECTION = Section(
    "diagnostics",
    "Where the law misses",
    "Residuals of the fit; the band holds 95 % of runs if the law is right.",
    residuals,
)
