"""Figure 17 of the paper: loss against tokens, a line per size, a figure per method."""

from __future__ import annotations

from functools import partial

import plotly.graph_objects as go

from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import count_axis, figure, ordered


def tokens(report_data: ReportData) -> Drawings:
    """Runs by the tokens that they saw; a line joins one size where the method has no hyperparameter."""
    found: Drawings = {}
    for method in report_data.methods:
        mine = [run for run in report_data.replicates if run.method == method]
        if len({run.record.tokens for run in mine}) > 1:
            found[f"tokens-{method}"] = partial(_tokens, report_data, method, mine)
    return found


def _tokens(report_data: ReportData, method: str, mine: list[Replicates]) -> go.Figure:
    styles = ordered(tuple(model.name for model in report_data.models))
    best = min(mine, key=lambda run: run.loss)
    alt = (
        f"Loss against tokens for {method}, a colour per size. The lowest, {best.loss:.3f}, is that of "
        f"{best.model.name} after {best.record.tokens:,} tokens."
    )
    made = figure(f"Loss against tokens, {method}", alt, x="", y=marks.loss_title(report_data))
    count_axis(made, "real tokens seen")
    for model in report_data.models:
        of_size = sorted((run for run in mine if run.model.name == model.name), key=lambda run: run.record.tokens)
        if of_size:
            style = styles[model.name]
            made.add_trace(
                marks.replicates(
                    of_size,
                    [run.record.tokens for run in of_size],
                    name=model.name,
                    shows="%{x:.3s} tokens, loss %{y:.4g}",
                    mode="lines+markers" if not any(run.setting for run in mine) else "markers",
                    line={"color": style["color"], "dash": style["dash"], "width": 1.2},
                    marker={"color": style["color"], "symbol": style["symbol"], "size": 7},
                )
            )
    return made


SECTION = Section("tokens", "Loss against tokens", "Every setting at its best learning rate.", tokens)
