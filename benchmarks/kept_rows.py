"""Rows of a benchmark that are added to a file as they come, so that it goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isoembed.core import write_atomically

Row = dict[str, Any]


class KeptRows:
    """The rows in `file`; none where there is no file yet."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[Row] = json.loads(file.read_bytes()) if file.exists() else []

    def has(self, place: Row) -> bool:
        """Whether a row says all that `place` says."""
        return any(place.items() <= row.items() for row in self.rows)

    def add(self, *rows: Row) -> None:
        self.rows += rows
        write_atomically(self.file, json.dumps(self.rows, indent=1) + "\n")


def parsed(parser: argparse.ArgumentParser, table: Callable[[list[Row]], str]) -> argparse.Namespace:
    """What was asked, threads set; with `--table FILE` its table is printed and nothing else is done."""
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    if asked.table is not None:
        print(table(KeptRows(asked.table).rows))
        sys.exit()
    if asked.out is None:
        parser.error("--out names the file of the results")
    torch.set_num_threads(asked.threads)
    return asked
