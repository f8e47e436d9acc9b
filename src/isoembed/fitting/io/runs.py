"""Runs of anybody's, wherever they are: a table, a ledger or its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoembed.core import InputError
from isoembed.families import family_named
from isoembed.fitting.io.ledger import Target, group_runs, read_ledger
from isoembed.fitting.io.tables import read_groups
from isoembed.fitting.settings import Group, Settings
from isoembed.laws.base import Law
from isoembed.records import RunRecord


@dataclass(frozen=True, kw_only=True)
class RunsSchema:
    """What the columns of a table hold, and what it does not say of its runs; of a ledger, the loss that is fitted."""

    columns: Mapping[str, str] | None = None  #: what a column holds (`params`, `tokens`, ...) -> its name
    method_column: str | None = None  #: column of the method: one law each
    candidates: int | None = None  #: K of a table's contrastive loss, for the laws of the odds
    family: str | None = None  #: of the models in a table whose losses are contrastive; without it no recipe
    target: Target = "heldout"


def read_runs(source: Path | Sequence[RunRecord], laws: Sequence[Law], schema: RunsSchema) -> list[Group]:
    """The runs that `laws` can be fitted to, one group per method: of a table (`read_groups`), ledger (`read_ledger`),
    or a ledger's records."""
    if not isinstance(source, Path) or source.is_dir() or source.name.endswith(".jsonl.gz"):
        if schema.method_column is not None:
            raise InputError(
                f"A ledger names its methods itself; got `method_col` {schema.method_column}: leave it out."
            )
        if schema.candidates is not None:
            raise InputError(
                f"A ledger says among how many its losses are; got `candidates` {schema.candidates}: leave it out."
            )
        if schema.family is not None:
            raise InputError(f"A ledger names its family itself; got `family` {schema.family}: leave it out.")
        if isinstance(source, Path):
            return read_ledger(source, laws, schema.columns, target=schema.target)
        return group_runs(source, laws, schema.columns, target=schema.target)
    settings = Settings(family=None if schema.family is None else family_named(schema.family).name)
    groups = read_groups(source, laws, schema.columns, schema.method_column, schema.candidates)
    return [replace(group, settings=settings) for group in groups]
