"""One self-contained HTML page: figures, slider, runs, failures and provenance, with everything it needs inside.

It asks no server for anything (its content policy forbids it).  Whatever comes from a ledger is text: HTML is escaped
by the template, JSON by `json_for_html`, and the plotting library's own tags by `theme.plain`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from isoembed.core import number_of
from isoembed.fitting.io.law_file import LawFile
from isoembed.laws import law_named
from isoembed.records import RunRecord
from isoembed.report.compare import Comparison
from isoembed.report.data import ReportData
from isoembed.report.figures import compared, sections
from isoembed.report.figures.section import Heading
from isoembed.report.slider import stops
from isoembed.report.terminal.layout import duration, si
from isoembed.report.theme import GROUNDS, template

_ASSETS = files("isoembed") / "assets" / "report"
#: digits of a number in the page: what no eye can tell apart takes no room
_DIGITS = 6
#: figures of a section that are open, where that is not the first alone: the others are folded
_OPEN = {"isoflop": 4}
#: the columns of the runs' table: name, and how the page writes the number (None: as text)
COLUMNS: tuple[tuple[str, str | None], ...] = (
    ("run", None),
    ("method", None),
    ("model", None),
    ("parameters", "si"),
    ("FLOP", "power"),
    ("tokens", "si"),
    ("learning rate", "digits"),
    ("seed", "digits"),
    ("loss", "digits"),
    ("seconds", "digits"),
)


def page(report_data: ReportData) -> str:
    """The page as HTML."""
    shown = sections(report_data)
    found, reason = stops(report_data)
    data = {
        "figures": _figures(shown),
        "templates": _templates(),
        "stops": found,
        "columns": COLUMNS,
        "runs": [_run(report_data, record) for record in report_data.records],
    }
    return _rendered(
        "page",
        data,
        report_data=report_data,
        sections=shown,
        open=_OPEN,
        stops=found,
        no_stops=reason,
        by_laws=_forms(report_data.law_files),
        laws=[_law(law) for law in report_data.law_files],
        provenance=provenance(report_data),
    )


def comparison_page(comparison: Comparison) -> str:
    """A and B beside each other, as HTML."""
    drawings = [(heading, drawn(comparison)) for heading, drawn in compared.SECTIONS]
    shown = [(heading, {name: draw() for name, draw in found.items()}) for heading, found in drawings if found]
    sides = comparison.sides
    return _rendered(
        "compare",
        {"figures": _figures(shown), "templates": _templates()},
        comparison=comparison,
        names=comparison.names,
        leads={letter: _lead(each) for letter, each in sides.items()},
        notes=[(letter, note) for letter, each in sides.items() for note in each.notes],
        middle=len(comparison.answers) // 2 + 1,
        sections=shown,
        provenance={letter: provenance(each) for letter, each in sides.items()},
    )


def _lead(report_data: ReportData) -> str:
    runs = number_of(len(report_data.records), "run") if report_data.records else "a law without its runs"
    return f"{report_data.family.name}, {', '.join(report_data.methods)}; {runs}."


def _figures(shown: Sequence[tuple[Heading, dict[str, go.Figure]]]) -> dict[str, Any]:
    return {name: _slim(made.to_plotly_json()) for _, drawn in shown for name, made in drawn.items()}


def _templates() -> dict[str, Any]:
    return {ground: template(ground, page=True).to_plotly_json() for ground in GROUNDS}


def _rendered(name: str, data: dict[str, Any], **values: Any) -> str:
    """The template `name` with `data` for its scripts: those of all pages, and its own where it has one."""
    scripts = [
        file.read_text(encoding="utf-8") for each in ("figures", name) if (file := _ASSETS / f"{each}.js").is_file()
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("isoembed", "assets/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(f"{name}.html.j2").render(
        data=json_for_html(data),
        css=Markup((_ASSETS / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup("\n".join(scripts)),  # noqa: S704 - our own files
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own file
        **values,
    )


def json_for_html(value: Any) -> Markup:
    """JSON that may stand inside a script element: no text in it can close the element or open another."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped


def provenance(report_data: ReportData) -> list[tuple[str, str]]:
    """Where the page's numbers come from, name and value."""
    rows = _of_runs(report_data) if report_data.records else [("law", report_data.source)]
    for law in report_data.law_files:
        made = ", ".join(f"{name} {number}" for name, number in law.versions.items())
        rows.append((f"law of {law.method or law.law}", f"{law.law}, data {law.data_fingerprint}, with {made}"))
    return [*rows, *(("note", note) for note in report_data.notes)]


def _of_runs(report_data: ReportData) -> list[tuple[str, str]]:
    records = report_data.records

    def distinct(values: list[str | None]) -> str:
        return ", ".join(sorted({value for value in values if value})) or "not recorded"

    machines = [", ".join(f"{name} {value}" for name, value in record.machine.items()) for record in records]
    versions = [", ".join(f"{name} {value}" for name, value in record.versions.items()) for record in records]
    recipes = [record.recipe for record in records]
    return [
        ("ledger", report_data.source),
        ("runs", f"{len(records)} done, {len(report_data.failures)} failed, "
         f"{len(report_data.damaged)} records unreadable"),
        ("spent", f"{sum(record.own_flop for record in records):.3g} model FLOP in "
         f"{duration(sum(record.own_seconds for record in records))} of run time"),
        ("dates", f"{min(record.created for record in records)} to {max(record.created for record in records)}"),
        ("family", distinct([recipe.family for recipe in recipes])),
        ("training data", f"{distinct([recipe.data.source for recipe in recipes])}; fingerprint "
         f"{distinct([recipe.data.fingerprint for recipe in recipes])}"),
        ("held-out set", distinct([record.heldout.fingerprint if record.heldout else None for record in records])),
        ("tokenizer", distinct([recipe.data.tokenizer for recipe in recipes])),
        ("batch, context", distinct([f"{r.batch_pairs} pairs, {r.context_tokens} tokens" for r in recipes])),
        ("versions of the runs", distinct([text or None for text in versions])),
        ("machines of the runs", distinct([text or None for text in machines])),
        ("made with", ", ".join(f"{name} {version(name)}" for name in ("isoembed", "plotly"))),
    ]  # fmt: skip


def _run(report_data: ReportData, record: RunRecord) -> dict[str, Any]:
    recipe = record.recipe
    cells = [
        record.key,
        recipe.method.label,
        recipe.model.name,
        recipe.model.params,
        record.model_flop,
        record.tokens,
        recipe.learning_rate,
        recipe.seed,
        report_data.loss(record),
        record.wall_seconds,
    ]
    more = {
        "steps": f"{record.steps} of {recipe.batch_pairs} pairs",
        "context": f"{recipe.context_tokens} tokens",
        "temperature": f"{recipe.temperature:g}",
        "pooling": recipe.pooling,
        "options": str(recipe.options),
        "hardware FLOP": f"{record.executed_flop:.3g}",
        **{name: f"{score:.3f}" for name, score in record.scores.items()},
    }
    return {"cells": [_short(cell) for cell in cells], "more": more}


def _forms(laws: Sequence[LawFile]) -> str:
    """`interaction-odds (full, freeze), embedding (bias)`."""
    methods: dict[str, list[str]] = {}
    for law in laws:
        methods.setdefault(law.law, []).extend([law.method] if law.method else [])
    return ", ".join(f"{form} ({', '.join(of)})" if of else form for form, of in methods.items())


def _law(law: LawFile) -> dict[str, Any]:
    """A law as the tables of the page show it."""

    def end(value: float | None, held: bool) -> str:
        return "held" if held else "unbounded" if value is None else f"{value:.4g}"

    return {
        "name": law.method or law.law,
        "about": law_named(law.law).about,
        "status": law.describe(),
        "points": law.n_points,
        "noise": f"{law.fit.noise:.2%}",
        "range": ", ".join(
            f"{letter} {si(low)} to {si(high)}"
            for letter, key in (("N", "params"), ("D", "tokens"), ("C", "flop"))
            for low, high in (law.range[key],)
        ),
        "params": [
            (name, f"{i.value:.4g}", end(i.low, name in law.fit.held), end(i.high, name in law.fit.held))
            for name, i in law.params.items()
        ],
        "holdouts": [
            (
                result.by.replace("-", " "),
                f"{result.n_held} of {result.n_held + result.n_fitted}",
                "-" if result.in_range_error is None else f"{result.in_range_error:.2%}",
                "-" if result.held_error is None else f"{result.held_error:.2%}",
                f"{result.verdict}: {result.why}" if result.why else result.verdict,
            )
            for result in law.holdout.values()
        ],
    }


def _slim(figure: dict[str, Any]) -> Any:
    """A figure for the page: without its template, which is there once for all, its title, which is the page's,
    and with short numbers."""
    layout = {name: value for name, value in figure["layout"].items() if name not in ("template", "title")}
    return _short({"data": figure["data"], "layout": layout})


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _short(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_short(entry) for entry in value]
    if hasattr(value, "to_plotly_json"):
        return _short(value.to_plotly_json())
    return value
