"""Figure 17 of the paper: loss against tokens, a line a size, a figure per method."""

from __future__ import annotations

from functools import partial

import plotly.graph_objects as go

from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import count_axis, figure, ordered


def tokens(report_data: ReportData) -> Drawings:
    """Cells by the tokens that they saw; a line joins one size where the method has no hyperparameter."""
    found: Drawings = {}
    for method in report_data.methods:
        mine = [cell for cell in report_data.replicates if cell.method == method]
        if len({cell.record.tokens for cell in mine}) > 1:
            found[f"tokens-{method}"] = partial(_tokens, report_data, method, mine)
    return found


def _tokens(report_data: ReportData, method: str, mine: list[Replicates]) -> go.Figure:
    styles = ordered(tuple(model.name for model in report_data.models))
    best = min(mine, key=lambda cell: cell.loss)
    alt = (
        f"Loss against tokens for {method}, a colour per size. The lowest, {best.loss:.3f}, is that of "
        f"{best.model.name} after {best.record.tokens:,} tokens."
    )
    made = figure(f"Loss against tokens, {method}", alt, x="", y=marks.loss_title(report_data))
    count_axis(made, "real tokens seen")
    for model in report_data.models:
        of_size = sorted((cell for cell in mine if cell.model.name == model.name), key=lambda cell: cell.record.tokens)
        if of_size:
            style = styles[model.name]
            made.add_trace(
                marks.replicates(
                    of_size,
                    [cell.record.tokens for cell in of_size],
                    name=model.name,
                    shows="%{x:.3s} tokens, loss %{y:.4g}",
                    mode="lines+markers" if not any(cell.setting for cell in mine) else "markers",
                    line={"color": style["color"], "dash": style["dash"], "width": 1.2},
                    marker={"color": style["color"], "symbol": style["symbol"], "size": 7},
                )
            )
    return made


SECTION = Section("tokens", "Loss against tokens", "Every setting at its best learning rate.", tokens)
