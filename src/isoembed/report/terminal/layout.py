"""How text for the terminal is laid out: aligned tables, numbers with prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text


def si(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: 1.59e6 -> `1.59M`, or with a unit `1.59 MFLOP`."""
    space = " " if unit else ""
    rounded = float(f"{value:.3g}")  # before the prefix is chosen: 999.9e6 is 1G
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= scale:
            return f"{rounded / scale:.3g}{space}{prefix}{unit}"
    return f"{rounded:.3g}{space}{unit}"


def gib(size: float) -> str:
    """Bytes in binary units, as memory is sold and files are listed: `1.37 GiB`, `820 MiB`."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= scale:
            return f"{size / scale:.{0 if size >= 100 * scale else 3}{'f' if size >= 100 * scale else 'g'}} {unit}"
    return f"{size:.0f} B"


def duration(seconds: float) -> str:
    """`38 s`, `12 min`, `3.5 h`, `4.2 days`."""
    for scale, unit, limit in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < limit:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def pairs_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Two aligned columns, name and value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def columns_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A borderless table: first column left, numbers right; never narrower than its cells, so that no digit is lost."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    rows = list(rows)
    for index, name in enumerate(header):
        width = max(cell_len(text) for text in (name, *(row[index] for row in rows)))
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
