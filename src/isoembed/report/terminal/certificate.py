"""A certificate as aligned text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.core import number_of
from isoembed.report.terminal.layout import pairs_table

if TYPE_CHECKING:
    from isoembed.encoder.certificate import Certificate

_MARKS = {True: "ok", False: "FAILED", None: "-"}


def certificate_text(certificate: Certificate) -> RenderableType:
    """A line a check, and the verdict."""
    checks = certificate.checks
    table = pairs_table((f"{_MARKS[check.passed]:6}  {check.name}", check.seen) for check in checks)
    asked = [check for check in checks if check.passed is not None]
    failed = len(certificate.failures)
    verdict = f"{failed} of {number_of(len(asked), 'check')} failed" if failed else f"all {len(asked)} checks passed"
    return Group(table, Text(""), Text(verdict))
