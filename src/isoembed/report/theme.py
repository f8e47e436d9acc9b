"""How figures look: one palette (Okabe and Ito 2008, distinct to colour-blind readers), one template, light and dark.

Every mark also differs by shape or dash, so that nothing rests on colour alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

from isoembed.methods import METHODS

#: what has no colour of its own
NEUTRAL = "#7A7F87"
#: colour, symbol and dash of the paper's methods; contrast is above 3:1 on both grounds
_METHODS = {
    "full": ("#0072B2", "circle", "solid"),
    "freeze": ("#009E73", "square", "dash"),
    "bias": ("#D55E00", "diamond", "dot"),
    "lora": ("#CC79A7", "triangle-up", "dashdot"),
}
#: what calls for a look: held-out points, the chosen budget
ACCENT = "#E69F00"

#: text, grid lines and ground of the page
GROUNDS = {
    "light": {"text": "#1b1f24", "grid": "#e3e6ea", "ground": "#ffffff", "hover": "#ffffff"},
    "dark": {"text": "#e6e8eb", "grid": "#343a42", "ground": "#15181c", "hover": "#242930"},
}
#: of even lightness, so that each is above 3:1 on both grounds
_COLD_TO_WARM = [[0.0, "#3d6fd6"], [0.35, "#0e9c8c"], [0.7, "#c9760a"], [1.0, "#b8326a"]]
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def template(ground: str = "light", *, page: bool = False) -> go.layout.Template:
    """The template of every figure on a `light` or `dark` ground.  In a page the title is the page's, and the legend
    stands above the plot, for there may be no room beside it."""
    colours = GROUNDS[ground]
    axis = {
        "gridcolor": colours["grid"],
        "linecolor": colours["text"],
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": colours["text"]},
            "title": {"font": {"size": 15}, "x": 0.0, "xanchor": "left", "xref": "paper", "yref": "container"},
            "paper_bgcolor": colours["ground"],
            "plot_bgcolor": colours["ground"],
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": colours["hover"],
                "font": {"color": colours["text"], "size": 12},
                "align": "left",
            },
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0.0} if page else {},
            "margin": {"l": 56, "r": 12, "t": 8 if page else 60, "b": 48},
            "hovermode": "closest",
            "showlegend": True,  # of one entry too: it names the size
        }
    )


@dataclass(frozen=True)
class Style:
    """What tells one method from another."""

    colour: str
    symbol: str
    dash: str


def method_style(method: str) -> Style:
    """The style of a method by its name.  The palette has no more colours that show on both grounds: methods beyond the
    paper's are grey, distinguished by symbol and dash."""
    if method in _METHODS:
        return Style(*_METHODS[method])
    others = [name for known in METHODS if (name := known.called()) not in _METHODS]
    place = others.index(method) if method in others else len(others)
    return Style(NEUTRAL, _SYMBOLS[(4 + place) % len(_SYMBOLS)], _DASHES[place % len(_DASHES)])


#: of two that are compared
SIDES = {"A": Style("#0072B2", "circle-open", "solid"), "B": Style("#D55E00", "diamond", "dash")}


def ordered(names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Colour, symbol and dash of values that have an order (sizes, budgets): cold is small, warm is large."""
    shades = sample_colorscale(_COLD_TO_WARM, [i / max(1, len(names) - 1) for i in range(len(names))])
    shades = [f"#{''.join(f'{round(part):02x}' for part in unlabel_rgb(shade))}" for shade in shades]
    return {
        name: {"color": shade, "symbol": _SYMBOLS[i % len(_SYMBOLS)], "dash": _DASHES[i % len(_DASHES)]}
        for i, (name, shade) in enumerate(zip(names, shades, strict=True))
    }


def see_through(colour: str, opacity: float) -> str:
    """`#rrggbb` with an opacity, for bands."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def figure(title: str, alt: str, *, x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure.  `title` and `alt` (what a reader who cannot see it should know) also go into its meta data."""
    made = go.Figure()
    made.update_layout(
        template=template(),
        title=plain(title),
        meta={"title": title, "alt": alt},
        xaxis_title=plain(x),
        yaxis_title=plain(y),
        **layout,
    )
    return made


def plain(text: str) -> str:
    """`text` for a place where the plotting library reads tags: a model called <b> is shown as its name."""
    return escape(text, quote=False)


def flop_axis(made: go.Figure) -> None:
    """A logarithmic x axis of budgets, in powers of ten."""
    ticks = {"exponentformat": "power", "dtick": 1, "minor": {"ticks": "outside"}}
    made.update_xaxes(type="log", title="budget, FLOP", **ticks)


def count_axis(made: go.Figure, title: str) -> None:
    """A logarithmic x axis with SI prefixes."""
    made.update_xaxes(type="log", tickformat="~s", dtick="D2", title=title)


def shade_beyond(made: go.Figure, start: float, end: float) -> None:
    """Grey ground from `start` to `end` on the logarithmic x axis, where no run was fitted."""
    shade(made, start, end, NEUTRAL)
    note_at(made, start, "beyond<br>the runs", top=False)


def shade(made: go.Figure, start: float, end: float, colour: str) -> None:
    """A coloured ground from `start` to `end` on the x axis."""
    made.add_vrect(x0=start, x1=end, fillcolor=colour, opacity=0.15, line_width=0, layer="below")


def note_at(made: go.Figure, x: float, text: str, *, top: bool) -> None:
    """Small words to the right of `x` on the logarithmic x axis, at the figure's top or bottom."""
    made.add_annotation(
        x=math.log10(x),  # an annotation, unlike a shape, takes the logarithm on such an axis
        y=1.0 if top else 0.0,
        yref="paper",
        xanchor="left",
        yanchor="top" if top else "bottom",
        text=text,
        align="left",
        showarrow=False,
        font={"size": 11},
    )


def band(x: list[float], low: list[float], high: list[float], colour: str, name: str, group: str) -> go.Scatter:
    """A 95 % band as one closed outline; it comes and goes with the line of the same legend group."""
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=see_through(colour, 0.16),
        line={"width": 0},
        mode="lines",
        name=plain(name),
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
    )
