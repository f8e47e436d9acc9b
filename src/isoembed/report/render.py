"""Figures as files: PNG, SVG and PDF through a headless Chromium, HTML with the plotting library inside."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from isoembed.core import InputError, write_atomically
from isoembed.report.theme import template

FORMATS = (".png", ".svg", ".pdf", ".html")


def write_figures(made: Mapping[Path, go.Figure], *, width: int, height: int, dark: bool = False) -> None:
    """Write each figure to its file, in the format of its ending; sizes are in pixels, PNG has two dots a pixel.  One
    browser draws them all.

    Raises InputError for another ending, and where PNG, SVG or PDF find no browser.
    """
    for out in made:
        check_format(out)
    dressed = {
        out: go.Figure(each).update_layout(template=template("dark" if dark else "light")) for out, each in made.items()
    }
    pages = {out: each for out, each in dressed.items() if out.suffix == ".html"}
    for out, each in pages.items():
        write_atomically(out, each.to_html(include_plotlyjs=True, full_html=True))
    _photograph({out: each for out, each in dressed.items() if out not in pages}, width, height)


def check_format(out: Path) -> None:
    """Raises InputError where a figure cannot be written to a file of that name."""
    if out.suffix not in FORMATS:
        raise InputError(f"`out` must end in {', '.join(FORMATS)}; got {out.name!r}.")


def _photograph(made: Mapping[Path, go.Figure], width: int, height: int) -> None:
    """Write pictures: all are drawn before the first is put in its place."""
    if not made:
        return
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError:
        raise InputError(
            "PNG, SVG and PDF need kaleido, which is not installed: pip install 'isoembed[report]', or write .html."
        ) from None
    with tempfile.TemporaryDirectory() as place:
        drawn = {out: Path(place, f"{number}{out.suffix}") for number, out in enumerate(made)}
        asked = [
            {
                "fig": each,
                "path": drawn[out],
                "opts": {"width": width, "height": height, "scale": 2 if out.suffix == ".png" else 1},
            }
            for out, each in made.items()
        ]
        try:
            kaleido.write_fig_from_object_sync(asked, cancel_on_error=True)
        except ChromeNotFoundError:
            raise InputError(
                "PNG, SVG and PDF need Chrome or Chromium, and none was found; install one (on Debian: apt-get install "
                "chromium), or write .html."
            ) from None
        for out, picture in drawn.items():
            write_atomically(out, picture.read_bytes())
