"""`isoembed published`: what well-known models score."""

from __future__ import annotations

from isoembed.cli import terminal
from isoembed.cli.options import AsJson


def published(as_json: AsJson = False) -> None:
    """List published benchmark scores of well-known embedding models, for a sense of what a score means; needs no
    network."""
    from isoembed.published import published_scores
    from isoembed.report.terminal.scores import published_text

    found = published_scores()
    terminal.answer(found, published_text, as_json=as_json)
