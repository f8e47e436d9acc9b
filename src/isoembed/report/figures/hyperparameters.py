"""Figures 3 and 5 of the paper: loss against the active share of the blocks and against the LoRA rank, a line per size.

One figure per budget, the largest first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import plotly.graph_objects as go

from isoembed.methods import Freeze, LoRA
from isoembed.report.data import Replicates, ReportData
from isoembed.report.figures import marks
from isoembed.report.figures.section import Drawings, Section
from isoembed.report.theme import figure, ordered


def active_fraction(report_data: ReportData) -> Drawings:
    """Block freezing: loss against the share of the blocks that trains."""
    return _lines(report_data, "freeze", "active-fraction", "active share of the blocks", _fraction, log=False)


def lora_rank(report_data: ReportData) -> Drawings:
    """LoRA: loss against the rank."""
    return _lines(report_data, "lora", "lora-rank", "LoRA rank", _rank, log=True)


def _fraction(run: Replicates) -> float:
    method = run.record.recipe.method
    assert isinstance(method, Freeze)
    return method.fraction


def _rank(run: Replicates) -> float:
    method = run.record.recipe.method
    assert isinstance(method, LoRA)
    return float(method.rank)


def _lines(
    report_data: ReportData, method: str, name: str, title: str, setting: Callable[[Replicates], float], *, log: bool
) -> Drawings:
    found: Drawings = {}
    for flop, runs in reversed(report_data.by_budget(lambda run: run.method == method)):
        of_size = {
            model.name: sorted((run for run in runs if run.model.name == model.name), key=setting)
            for model in report_data.models
        }
        of_size = {size: mine for size, mine in of_size.items() if len({setting(run) for run in mine}) > 1}
        if of_size:
            found[f"{name}-{flop:.3g}"] = partial(_figure, report_data, flop, of_size, title, setting, log=log)
    return found


def _figure(
    report_data: ReportData,
    flop: float,
    of_size: dict[str, list[Replicates]],
    title: str,
    setting: Callable[[Replicates], float],
    *,
    log: bool,
) -> go.Figure:
    styles = ordered(tuple(model.name for model in report_data.models))
    best = {size: min(mine, key=lambda run: run.loss) for size, mine in of_size.items()}
    alt = f"Loss against {title} at {flop:.3g} FLOP, a line per size. Best: " + "; ".join(
        f"{setting(run):g} on {size}, loss {run.loss:.3f}" for size, run in best.items()
    )
    made = figure(f"{title[0].upper()}{title[1:]} at {flop:.3g} FLOP", alt, x=title, y=marks.loss_title(report_data))
    if log:
        ranks = sorted({setting(run) for mine in of_size.values() for run in mine})
        made.update_xaxes(type="log", tickmode="array", tickvals=ranks, ticktext=[f"{rank:g}" for rank in ranks])
    for size, mine in of_size.items():
        style = styles[size]
        made.add_trace(
            marks.replicates(
                mine,
                [setting(run) for run in mine],
                name=size,
                shows="%{x}, loss %{y:.4g}",
                line={"color": style["color"], "dash": style["dash"], "width": 1.5},
                marker={"color": style["color"], "symbol": style["symbol"], "size": 8},
            )
        )
    return made


ACTIVE_FRACTION = Section(
    "active-fraction", "How many blocks to train", "Block freezing at one budget, a line per size.", active_fraction
)
LORA_RANK = Section("lora-rank", "Which LoRA rank", "LoRA at one budget, a line per size.", lora_rank)
