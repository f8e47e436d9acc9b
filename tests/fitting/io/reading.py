"""A table of one method's runs, read."""

from __future__ import annotations

from pathlib import Path

from isoembed.fitting.io.tables import read_groups
from isoembed.laws import Law, Points


def points_of(file: Path, law: Law, names: dict[str, str] | None = None) -> Points:
    """The runs in the file, which names no methods."""
    (group,) = read_groups(file, [law], names)
    return group.points
