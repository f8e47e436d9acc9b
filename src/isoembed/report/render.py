"""One figure as a file: PNG and SVG through a headless Chromium, HTML with the plotting library inside."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from isoembed.core import InputError, write_atomically
from isoembed.report.theme import template

FORMATS = (".png", ".svg", ".html")


def write_figure(made: go.Figure, out: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Write `made` to `out`, in the format of its ending; sizes are in pixels, PNG has two dots a pixel.

    Raises InputError for another ending, and where PNG or SVG find no browser.
    """
    if out.suffix not in FORMATS:
        raise InputError(f"`out` must end in {', '.join(FORMATS)}; got {out.name!r}.")
    drawn = go.Figure(made).update_layout(template=template("dark" if dark else "light"))
    if out.suffix == ".html":
        write_atomically(out, drawn.to_html(include_plotlyjs=True, full_html=True))
        return
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError:
        raise InputError(
            "PNG and SVG need kaleido, which is not installed: pip install 'isoembed[report]', or write .html."
        ) from None
    options = {"format": out.suffix[1:], "width": width, "height": height, "scale": 2 if out.suffix == ".png" else 1}
    try:
        content = kaleido.calc_fig_sync(drawn, opts=options)
    except ChromeNotFoundError:
        raise InputError(
            f"A {out.suffix[1:].upper()} needs Chrome or Chromium, and none was found; install one (on Debian: "
            "apt-get install chromium), or write .html."
        ) from None
    write_atomically(out, content)
