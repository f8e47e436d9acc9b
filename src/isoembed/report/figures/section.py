"""What a file of figures hands to the list of all: a question, and the figures that answer it, drawn when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from isoembed.report.data import ReportData

#: a figure's name -> what draws it
Drawings = dict[str, Callable[[], go.Figure]]


@dataclass(frozen=True)
class Heading:
    """A question that figures answer."""

    name: str
    title: str
    about: str


@dataclass(frozen=True)
class Section(Heading):
    """Figures of one study that answer one question."""

    drawings: Callable[[ReportData], Drawings]
    """the figures that the runs allow; naming them draws none"""
