"""Figures 8 to 12, 15 and 16 of the paper: what the loss is worth downstream, a figure a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from isoembed.laws.correlation import LEAST_RUNS, main_scores, spearman
from isoembed.records import RunRecord
from isoembed.report.evidence import Evidence
from isoembed.report.figures import marks
from isoembed.report.theme import figure, flop_axis, method_style


@dataclass(frozen=True, eq=False)
class Task:
    """One task's scores: runs, their losses and their scores in its main metric."""

    name: str
    metric: str
    records: list[RunRecord]
    loss: list[float]
    score: list[float]


def tasks_of(evidence: Evidence) -> list[Task]:
    """Every task of which at least eight runs have a score and a loss."""
    found = []
    for task, full in main_scores(name for record in evidence.records for name in record.scores).items():
        metric = full.rpartition("/")[2]
        known = [
            (record, loss, record.scores[full])
            for record in evidence.records
            if full in record.scores and (loss := evidence.loss(record)) is not None
        ]
        if len(known) >= LEAST_RUNS:
            records, losses, scores = zip(*known, strict=True)
            found.append(Task(task or metric, metric, list(records), list(losses), list(scores)))
    return found


def loss_against_score(evidence: Evidence) -> dict[str, go.Figure]:
    """Figure 16: score against loss, with Spearman's correlation."""
    found = {}
    for task in tasks_of(evidence):
        rho = spearman(task.loss, task.score)
        words = (
            "no correlation, all scores are one"
            if rho.value is None
            else f"Spearman {rho.value:.2f} [{rho.ends[0]:.2f}, {rho.ends[1]:.2f}], {len(task.loss)} runs"
        )
        alt = f"{task.name} {task.metric} against loss: {words}."
        made = figure(f"{task.name}: {words}", alt, x=marks.loss_title(evidence), y=task.metric)
        _by_method(made, evidence, task, task.loss, "loss %{x:.4g}, score %{y:.3f}")
        found[f"score-{marks.slug(task.name)}"] = made
    return found


def budget_against_score(evidence: Evidence) -> dict[str, go.Figure]:
    """Figures 8 to 12 and 15 in small: score against budget."""
    found = {}
    for task in tasks_of(evidence):
        best = int(np.argmax(task.score))
        alt = (
            f"{task.name} {task.metric} against budget; the highest, {task.score[best]:.3f}, is that of "
            f"{task.records[best].recipe.method.label} on {task.records[best].recipe.model.name}."
        )
        made = figure(f"{task.name} against budget", alt, x="", y=task.metric)
        flop_axis(made)
        spent = [record.model_flop for record in task.records]
        _by_method(made, evidence, task, spent, "%{x:.3g} FLOP, score %{y:.3f}")
        found[f"score-budget-{marks.slug(task.name)}"] = made
    return found


def _by_method(made: go.Figure, evidence: Evidence, task: Task, x: list[float], shows: str) -> None:
    for method in evidence.methods:
        mine = [i for i, record in enumerate(task.records) if record.recipe.method.name == method]
        if mine:
            style = method_style(method)
            made.add_trace(
                marks.runs(
                    [task.records[i] for i in mine],
                    [x[i] for i in mine],
                    [task.score[i] for i in mine],
                    name=method,
                    shows=shows,
                    marker={"color": style.colour, "symbol": style.symbol, "size": 8},
                )
            )
