"""IsoFLOP profiles, figures 2 and 4 of the paper: at one budget, loss against model size, a figure per method."""

from __future__ import annotations

import math
from functools import partial

import plotly.graph_objects as go

from isoembed.fitting.isoflop import CurveMinimum, curve_minimum
from isoembed.laws.points import Points
from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import ACCENT, count_axis, figure, ordered, shade_beyond

#: fewer sizes at a budget make no profile
_LEAST_SIZES = 3


def isoflop(report_data: ReportData) -> Drawings:
    """One figure per method, all on the same axes: a curve per budget, each size's best hyperparameter noted, the
    curve's minimum starred."""
    found = {method: profiles for method in report_data.methods if (profiles := profiles_of(report_data, method))}
    axes = _axes([run for profiles in found.values() for _, profile in profiles for run in profile])
    return {
        f"isoflop-{method}": partial(_profiles, report_data, method, profiles, axes)
        for method, profiles in found.items()
    }


def _axes(runs: list[Replicates]) -> dict[str, list[float]]:
    """Ranges that hold all these runs with their bars, and one size more to the right, where the laws are drawn to."""
    if not runs:
        return {}
    sizes = [run.model.params for run in runs]
    low, high = min(run.ends[0] for run in runs), max(run.ends[1] for run in runs)
    margin = 0.08 * (high - low)
    return {
        "xaxis_range": [math.log10(0.8 * min(sizes)), math.log10(2.2 * max(sizes))],
        "yaxis_range": [low - margin, high + margin],
    }


def profiles_of(report_data: ReportData, method: str) -> list[tuple[float, list[Replicates]]]:
    """For each budget of at least three sizes, the best run of each size, smallest first."""
    found = []
    for flop, runs in report_data.by_budget(lambda run: run.method == method, sizes=_LEAST_SIZES):
        best: dict[str, Replicates] = {}
        for run in sorted(runs, key=lambda run: run.loss):
            best.setdefault(run.model.name, run)
        found.append((flop, sorted(best.values(), key=lambda run: run.model.params)))
    return found


def minimum(profile: list[Replicates]) -> CurveMinimum:
    """The lowest point of a profile: of Akima's interpolation from five sizes on, of a parabola below."""
    points = Points.of(
        [run.model.params for run in profile],
        [run.record.tokens for run in profile],
        [run.loss for run in profile],
        flop=[run.flop for run in profile],
    )
    return curve_minimum(points, how="akima" if len(profile) >= 5 else "parabola")


def _profiles(
    report_data: ReportData,
    method: str,
    profiles: list[tuple[float, list[Replicates]]],
    axes: dict[str, list[float]],
) -> go.Figure:
    grid = report_data.grid
    lowest = [min(profile, key=lambda run: run.loss) for _, profile in profiles]
    alt = f"Loss against model size for {method}, a curve per budget. Lowest: " + "; ".join(
        f"{run.loss:.3f} on {run.model.name} at {flop:.3g} FLOP"
        for (flop, _), run in zip(profiles, lowest, strict=True)
    )
    stars = [minimum(profile) for _, profile in profiles]
    alt += "".join(f". At {star.flop:.3g} FLOP {star.why}" for star in stars if star.why)
    made = figure(f"IsoFLOP profiles, {method}", alt, x="", y=marks.loss_title(report_data))
    count_axis(made, "non-embedding parameters")
    styles = ordered(tuple(f"{flop:.3g} FLOP" for flop, _ in profiles))
    for (flop, profile), star, (name, style) in zip(profiles, stars, styles.items(), strict=True):
        tunable = any(run.setting for run in profile)
        made.add_trace(
            marks.replicates(
                profile,
                [run.model.params for run in profile],
                name=name,
                shows="N %{x:.3s}, loss %{y:.4g}",
                mode="markers+text" if tunable else "markers",
                text=[run.setting for run in profile] if tunable else None,
                textposition="top right",
                textfont={"size": 10},
                legendgroup=name,
                marker={"color": style["color"], "symbol": style["symbol"], "size": 9},
            )
        )
        sizes = grid.sizes(method, flop) if grid is not None else []
        # one size beyond the runs, on either side, shows where the law goes; more would be no profile of runs
        below = sum(point.params < profile[0].model.params for point in sizes)
        sizes = sizes[max(0, below - 1) : 1 + sum(point.params <= profile[-1].model.params for point in sizes)]
        if sizes:
            marks.forecast(
                made,
                sizes,
                [point.params for point in sizes],
                name=f"{name} by the law",
                colour=style["color"],
                group=name,
                dash=style["dash"],
                legend=False,
            )
        _add_minimum(made, star, name)
    fitted = max(profile[-1].model.params for _, profile in profiles)
    drawn = max((max(trace.x) for trace in made.data), default=fitted)
    if drawn > fitted:
        shade_beyond(made, fitted, drawn)
    return made.update_layout(axes)


def _add_minimum(made: go.Figure, star: CurveMinimum, group: str) -> None:
    """A star at the minimum of a curve, where it has one."""
    if star.params is None or star.loss is None:
        return
    made.add_trace(
        go.Scatter(
            x=[star.params],
            y=[star.loss],
            mode="markers",
            name="minimum",
            legendgroup=group,
            showlegend=False,
            marker={"symbol": "star", "size": 11, "color": ACCENT, "line": {"color": "#333", "width": 1}},
            hovertemplate="minimum of the curve: N %{x:.3s}, loss %{y:.4g}<extra></extra>",
        )
    )


SECTION = Section(
    "isoflop",
    "Which size at which budget",
    "Runs of one budget on every size, at the best hyperparameter, which is noted beside the point. A star "
    "marks the minimum of the curve, where it lies inside the sizes tested.",
    isoflop,
)
