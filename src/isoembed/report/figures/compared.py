"""Two ledgers or two laws on shared axes: the lowest loss at each budget, and the size that reaches it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import plotly.graph_objects as go

from isoembed.fitting.intervals import Interval
from isoembed.report.compare import Comparison
from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Heading
from isoembed.report.figures.sizes import expected_sizes
from isoembed.report.terminal.layout import si
from isoembed.report.theme import SIDES, figure, flop_axis, shade_beyond


def drawings(comparison: Comparison) -> Drawings:
    """What draws each figure of both, by its name as `isoembed figure` knows it."""
    return {name: draw for _, drawn in SECTIONS for name, draw in drawn(comparison).items()}


def frontiers(comparison: Comparison) -> Drawings:
    """The frontier of both; none where their losses or their budgets are of different things."""
    if comparison.apart or not comparison.counted_alike:
        return {}
    return {"frontiers": partial(_frontiers, comparison)}


def sizes(comparison: Comparison) -> Drawings:
    """The best size of both: of all methods, then of each that both have; none where N or C count different things."""
    if not comparison.counted_alike:
        return {}
    shared = [method for method in comparison.a.methods if method in comparison.b.methods]
    return {
        "sizes" if method is None else f"sizes-{method}": partial(_sizes, comparison, method)
        for method in (None, *(shared if len(shared) > 1 else ()))
        if any(expected_sizes(each, method) for each in comparison.sides.values())
    }


def _frontiers(comparison: Comparison) -> go.Figure:
    lowest = {letter: _lowest(each) for letter, each in comparison.sides.items()}
    alt = "The lowest loss at each budget on logarithmic axes. " + " ".join(
        f"Of {letter} at {runs[-1].flop:.3g} FLOP: {runs[-1].loss:.3f}, "
        f"{runs[-1].record.recipe.method.label} on {runs[-1].model.name}."
        for letter, runs in lowest.items()
        if runs
    )
    made = figure("Loss against budget, both", alt, x="", y=marks.loss_title(comparison.a))
    flop_axis(made)
    made.update_yaxes(type="log")
    for (letter, report_data), style in zip(comparison.sides.items(), SIDES.values(), strict=True):
        runs, name = lowest[letter], f"{letter}: {comparison.names[letter]}"
        if runs:
            made.add_trace(
                marks.replicates(
                    runs,
                    [run.flop for run in runs],
                    name=name,
                    shows="%{x:.3g} FLOP, loss %{y:.4g}",
                    mode="markers",
                    legendgroup=letter,
                    marker={"color": style.colour, "symbol": style.symbol, "size": 12 if letter == "A" else 6},
                )
            )
        points = report_data.grid.best() if report_data.grid else []
        if points:
            marks.forecast(
                made,
                points,
                [point.flop for point in points],
                name=name,
                colour=style.colour,
                group=letter,
                dash=style.dash,
                legend=not runs,
            )
            marks.recipe_labels(made, points, above=letter == "B", side=letter)
    _shade(made, comparison)
    return made


def _lowest(report_data: ReportData) -> list[Replicates]:
    """The run of lowest loss at each budget, where no cheaper one is lower: the measured frontier."""
    found: list[Replicates] = []
    for _, runs in report_data.by_budget():
        lowest = min(runs, key=lambda run: run.loss)
        if not found or lowest.loss < found[-1].loss:
            found.append(lowest)
    return found


def _sizes(comparison: Comparison, method: str | None) -> go.Figure:
    expected = {letter: expected_sizes(each, method) for letter, each in comparison.sides.items()}
    of = f" of {method}" if method else ""
    alt = f"The best model size{of} against budget by the laws, with 95 % bands. " + " ".join(
        f"Of {letter} at {found[-1][0]:.3g} FLOP: N {_sized(found[-1][1])}."
        for letter, found in expected.items()
        if found
    )
    made = figure(f"Best size{of}, both", alt, x="", y="non-embedding parameters")
    flop_axis(made)
    made.update_yaxes(type="log", tickformat="~s", dtick="D2")
    for (letter, found), style in zip(expected.items(), SIDES.values(), strict=True):
        if found:
            marks.best_sizes(made, found, name=f"{letter}: {comparison.names[letter]}", style=style, group=letter)
    _shade(made, comparison)
    return made


def _sized(params: Interval) -> str:
    return " to ".join(dict.fromkeys(si(end) for end in (params.low, params.high) if end is not None)) or "unbounded"


def _shade(made: go.Figure, comparison: Comparison) -> None:
    """Grey where neither has a run."""
    grids = [each.grid for each in comparison.sides.values() if each.grid is not None and each.grid.budgets]
    if grids:
        shade_beyond(made, max(grid.fitted[1] for grid in grids), max(grid.budgets[-1].flop for grid in grids))


#: the figures of a comparison, by the questions that they answer
SECTIONS: list[tuple[Heading, Callable[[Comparison], Drawings]]] = [
    (
        Heading(
            "frontier",
            "Which reaches the lower loss",
            "Points are runs that no cheaper one beats, lines the best candidate of all by each law, bands the law's "
            "95 % uncertainty; a name says which recipe that is.",
        ),
        frontiers,
    ),
    (
        Heading(
            "optimal-size",
            "How the best size grows",
            "Bands are the sizes that the law's uncertainty leaves possible; steps, because a family has few sizes.",
        ),
        sizes,
    ),
]
