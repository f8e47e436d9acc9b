"""Figure 1 of the paper: each method's lowest loss at each budget, and what its law expects of budgets beyond."""

from __future__ import annotations

from functools import partial

import plotly.graph_objects as go

from isoembed.recommendation.result import MethodCrossover
from isoembed.report.data import ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import (
    ACCENT,
    NEUTRAL,
    figure,
    flop_axis,
    method_style,
    note_at,
    plain,
    see_through,
    shade,
    shade_beyond,
)


def frontier(report_data: ReportData) -> Drawings:
    """Loss against budget, a colour per method: runs as points, laws as lines with bands, their lower envelope with the
    names of its recipes, and where the leading method changes."""
    return {"frontier": partial(_frontier, report_data)}


def _frontier(report_data: ReportData) -> go.Figure:
    grid = report_data.grid
    made = figure("Loss against budget", _alt(report_data), x="", y=marks.loss_title(report_data))
    flop_axis(made)
    made.update_yaxes(type="log")
    lowest = grid.best() if grid is not None else []
    if lowest:
        made.add_trace(
            go.Scatter(
                x=[point.flop for point in lowest],
                y=[point.loss.value for point in lowest],
                mode="lines",
                name="best of all",
                line={"color": see_through(NEUTRAL, 0.45), "width": 7},
                hoverinfo="skip",
            )
        )
    for method in report_data.methods:
        found = [run for run in report_data.replicates if run.method == method]
        style = method_style(method)
        made.add_trace(
            marks.replicates(
                found,
                [run.record.model_flop for run in found],
                name=method,
                shows="%{x:.3g} FLOP, loss %{y:.4g}",
                mode="markers",
                legendgroup=method,
                marker={"color": style.colour, "symbol": style.symbol, "size": 6, "opacity": 0.7},
            )
        )
        if grid is not None and (best := grid.best(method)):
            marks.forecast(
                made,
                best,
                [point.flop for point in best],
                name=f"{method}, best by its law",
                colour=style.colour,
                group=method,
                dash=style.dash,
                legend=False,
            )
    if grid is not None and grid.budgets:
        shade_beyond(made, grid.fitted[1], grid.budgets[-1].flop)
        marks.recipe_labels(made, lowest, above=False)
        if (crossover := grid.crossover) is not None:
            _add_crossover(made, crossover)
    return made


def _add_crossover(made: go.Figure, crossover: MethodCrossover) -> None:
    """The budget from which the leading method leads, dotted, with its 95 % interval where that ends; nothing where it
    always leads or nobody knows."""
    value, high = crossover.flop.value, crossover.flop.high
    if value is None:
        return
    if high is not None:
        low = crossover.flop.low or crossover.looked_at[0]
        shade(made, low, high, ACCENT)
    made.add_vline(x=value, line={"color": ACCENT, "dash": "dot", "width": 1.5}, layer="below")
    note_at(made, value, plain(f"{crossover.second} ahead of {crossover.first} from here"), top=True)


def _alt(report_data: ReportData) -> str:
    best = min(report_data.replicates, key=lambda run: run.loss)
    crossover = report_data.grid.crossover if report_data.grid is not None else None
    return (
        f"Loss against budget on logarithmic axes for {', '.join(report_data.methods)}. The lowest loss of all runs, "
        f"{best.loss:.3f}, is that of {best.record.recipe.method.label} on {best.model.name} at "
        f"{best.record.model_flop:.3g} FLOP."
        + (f" By the laws {crossover.describe()}." if crossover is not None else "")
    )


SECTION = Section(
    "frontier",
    "Which method at which budget",
    "Points are runs at their best learning rate, bars the 95 % noise between seeds. Lines are each method's "
    "best candidate by its law, bands the law's 95 % uncertainty; the broad line is the best of all, with the names of "
    "its recipes. Dotted: from where the leading method leads, with its 95 % interval.",
    frontier,
)
