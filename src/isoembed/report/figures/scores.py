"""Figures 8 to 12, 15 and 16 of the paper: what the loss is worth downstream, one figure per task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import plotly.graph_objects as go

from isoembed.fitting.correlation import LEAST_RUNS, main_scores, spearman
from isoembed.records import RunRecord, ScoreName
from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import band, count_axis, figure, flop_axis, method_style, ordered, plain

#: fewer scored sizes at a budget make no profile
_LEAST_SIZES = 3


@dataclass(frozen=True, eq=False)
class ScoredTask:
    """One task's scores: runs, their losses and their scores in its main metric."""

    main: ScoreName
    """its main metric"""
    records: list[RunRecord]
    loss: list[float]
    score: list[float]

    @property
    def name(self) -> str:
        return self.main.task

    @property
    def metric(self) -> str:
        return self.main.metric

    def of(self, run: Replicates) -> float | None:
        """Mean score of a run's scored seeds; None where none was."""
        key = str(self.main)
        found = [record.scores[key] for record in run.records if key in record.scores]
        return float(np.mean(found)) if found else None


def tasks_of(report_data: ReportData) -> list[ScoredTask]:
    """Every task of which at least eight runs have a score and a loss."""
    found = []
    for main in main_scores(name for record in report_data.records for name in record.scores):
        full = str(main)
        known = [
            (record, loss, record.scores[full])
            for record in report_data.records
            if full in record.scores and (loss := report_data.loss(record)) is not None
        ]
        if len(known) >= LEAST_RUNS:
            records, losses, scores = zip(*known, strict=True)
            found.append(ScoredTask(main, list(records), list(losses), list(scores)))
    return found


def scores(report_data: ReportData) -> Drawings:
    """Of each task: score against loss and against budget, and, one figure per method, against size."""
    found: Drawings = {}
    tasks = {marks.slug(task.name): task for task in tasks_of(report_data)}
    found |= {f"score-{name}": partial(_against_loss, report_data, task) for name, task in tasks.items()}
    found |= {f"score-budget-{name}": partial(_against_budget, report_data, task) for name, task in tasks.items()}
    for name, task in tasks.items():
        for method in report_data.methods:
            if profiles := _profiles(report_data, task, method):
                found[f"score-size-{name}-{method}"] = partial(_against_size, task, method, profiles)
    return found


def _against_loss(report_data: ReportData, task: ScoredTask) -> go.Figure:
    """Figure 16: score against loss, with Spearman's correlation."""
    rho = spearman(task.loss, task.score)
    words = (
        "no correlation, all scores are one"
        if rho.value is None
        else f"Spearman {rho.value:.2f} [{rho.ends[0]:.2f}, {rho.ends[1]:.2f}], {len(task.loss)} runs"
    )
    alt = f"{task.name} {task.metric} against loss: {words}."
    made = figure(f"{task.name}: {words}", alt, x=marks.loss_title(report_data), y=task.metric)
    for method in report_data.methods:
        mine = [i for i, record in enumerate(task.records) if record.recipe.method.name == method]
        if mine:
            style = method_style(method)
            made.add_trace(
                marks.runs(
                    [task.records[i] for i in mine],
                    [task.loss[i] for i in mine],
                    [task.score[i] for i in mine],
                    name=method,
                    shows="loss %{x:.4g}, score %{y:.3f}",
                    marker={"color": style.colour, "symbol": style.symbol, "size": 8},
                )
            )
    return made


def _against_budget(report_data: ReportData, task: ScoredTask) -> go.Figure:
    """Figure 15: of each method's settings at a budget the best score, and the quartiles of all of them."""
    best = int(np.argmax(task.score))
    alt = (
        f"{task.name} {task.metric} against budget: of each method the best setting, and the middle half of its "
        f"settings. The highest score of one run, {task.score[best]:.3f}, is that of "
        f"{task.records[best].recipe.method.label} on {task.records[best].recipe.model.name}."
    )
    made = figure(f"{task.name} against budget", alt, x="", y=task.metric)
    flop_axis(made)
    for method in report_data.methods:
        scored = report_data.by_budget(lambda run, method=method: run.method == method and task.of(run) is not None)  # type: ignore[misc]
        if scored:
            _add_best_and_quartiles(made, task, method, scored)
    return made


def _add_best_and_quartiles(
    made: go.Figure, task: ScoredTask, method: str, scored: list[tuple[float, list[Replicates]]]
) -> None:
    """A line through the best setting at each budget, and a band from the first quartile to the third."""
    style, at = method_style(method), [flop for flop, _ in scored]
    scores = [np.array([task.of(run) for run in runs], dtype=float) for _, runs in scored]
    low, middle, high = np.array([np.quantile(found, (0.25, 0.5, 0.75)) for found in scores]).T.tolist()
    best = [runs[int(found.argmax())] for (_, runs), found in zip(scored, scores, strict=True)]
    made.add_trace(band(at, low, high, style.colour, f"{method}, quartiles", method))
    made.add_trace(
        go.Scatter(
            x=at,
            y=[float(found.max()) for found in scores],
            mode="lines+markers",
            name=plain(method),
            legendgroup=method,
            marker={"color": style.colour, "symbol": style.symbol, "size": 8},
            line={"color": style.colour, "dash": style.dash, "width": 1.5},
            customdata=[
                [*marks.names(run.record), len(found), *quartiles]
                for run, found, *quartiles in zip(best, scores, low, middle, high, strict=True)
            ],
            hovertemplate="%{customdata[1]}<br>%{x:.3g} FLOP, best %{y:.3f} of %{customdata[2]}<br>quartiles "
            "%{customdata[3]:.3f}, %{customdata[4]:.3f}, %{customdata[5]:.3f}<extra></extra>",
        )
    )


def _profiles(
    report_data: ReportData, task: ScoredTask, method: str
) -> list[tuple[float, list[tuple[Replicates, float]]]]:
    """For each budget at which so many sizes were scored, the best-scoring run of each size, smallest first."""
    scores = {id(run): score for run in report_data.replicates if (score := task.of(run)) is not None}
    found = []
    for flop, runs in report_data.by_budget(lambda run: run.method == method and id(run) in scores, sizes=_LEAST_SIZES):
        best: dict[str, Replicates] = {}
        for run in sorted(runs, key=lambda run: -scores[id(run)]):
            best.setdefault(run.model.name, run)
        ordered = sorted(best.values(), key=lambda run: run.model.params)
        found.append((flop, [(run, scores[id(run)]) for run in ordered]))
    return found


def _against_size(
    task: ScoredTask, method: str, profiles: list[tuple[float, list[tuple[Replicates, float]]]]
) -> go.Figure:
    """Figures 8 to 12: at one budget, score against model size; of each size the setting that scores best, which need
    not be the one of least loss."""
    highest = "; ".join(
        f"{score:.3f} on {run.model.name} at {flop:.3g} FLOP"
        for flop, profile in profiles
        for run, score in [max(profile, key=lambda pair: pair[1])]
    )
    alt = f"{task.name} {task.metric} against model size for {method}, a curve per budget. Highest: {highest}."
    made = figure(f"{task.name} against size, {method}", alt, x="", y=task.metric)
    count_axis(made, "non-embedding parameters")
    styles = ordered(tuple(f"{flop:.3g} FLOP" for flop, _ in profiles))
    for (_, profile), (name, style) in zip(profiles, styles.items(), strict=True):
        tunable = any(run.setting for run, _ in profile)
        trace = marks.runs(
            [run.record for run, _ in profile],
            [run.model.params for run, _ in profile],
            [score for _, score in profile],
            name=name,
            shows="N %{x:.3s}, score %{y:.3f}",
            text=[run.setting for run, _ in profile] if tunable else None,
            textposition="top right",
            textfont={"size": 10},
            line={"color": style["color"], "dash": style["dash"], "width": 1},
            marker={"color": style["color"], "symbol": style["symbol"], "size": 9},
        )
        trace.mode = "lines+markers+text" if tunable else "lines+markers"
        made.add_trace(trace)
    return made


SECTION = Section(
    "scores",
    "What the loss is worth",
    "Scores of all runs that were scored; Spearman's rank correlation with its 95 % bootstrap interval. "
    "Against budget, each method's best setting and the middle half of its settings, a band. Against size, the setting "
    "that scores best, noted beside the point; one seed each unless repeated.",
    scores,
)
