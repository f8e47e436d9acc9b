"""`isoembed ledger export`, `correlate` and `subset`: the records of a sweep, and tables of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson
from isoembed.core import InputError, number_of


def export(
    ledger: Annotated[Path, typer.Argument(help="folder of records, or a .jsonl.gz")],
    file: Annotated[Path, typer.Argument(help="a .parquet or .csv table, or a .jsonl.gz of whole records")],
    as_json: AsJson = False,
) -> None:
    """Write the records as one table (one run per row) or as one file of whole records."""
    from isoembed.records import Ledger as Records
    from isoembed.workflows.table import write_table

    records = Records.open(ledger)
    outcomes = records.outcomes()
    if file.name.endswith(".jsonl.gz"):
        records.export(file, outcomes)
    else:
        write_table(outcomes, file)
    if as_json:
        terminal.print_json({"out": str(file), "runs": len(outcomes), "damaged": records.damaged})
        return
    for place, why in records.damaged.items():
        terminal.complain(f"passed over {place}: {why}")
    terminal.say(f"{number_of(len(outcomes), 'run')} in {file}")


def correlate(
    ledger: Annotated[Path, typer.Argument(help="folder of records, or a .jsonl.gz")],
    target: Annotated[
        str, typer.Option(help="loss to correlate: heldout or training", rich_help_panel="Data")
    ] = "heldout",
    as_json: AsJson = False,
) -> None:
    """Correlate the loss of all scored runs with each score and with the tasks' mean: Spearman, with an interval."""
    from isoembed.fitting.correlation import correlate as correlations
    from isoembed.records import Ledger as Records
    from isoembed.report.terminal.scores import correlations_text

    if target not in ("heldout", "training"):
        raise InputError(f"`--target` must be heldout or training, the loss to correlate; got {target!r}.")
    found = correlations(Records.open(ledger).records(), target="training" if target == "training" else "heldout")
    terminal.answer(found, correlations_text, as_json=as_json)


def subset(
    table: Annotated[
        Path, typer.Argument(help=".csv or .parquet: one model or run per row, one task's score per column")
    ],
    categories: Annotated[
        Path | None,
        typer.Option(
            help="table of columns task and category; default: the mteb library's task types", rich_help_panel="Data"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the task of each category that correlates most with the category's mean: a cheap benchmark for a sweep."""
    from isoembed.report.terminal.scores import choices_text
    from isoembed.workflows.subset import choose_tasks

    choices = choose_tasks(table, categories)
    terminal.answer(choices, choices_text, as_json=as_json)
