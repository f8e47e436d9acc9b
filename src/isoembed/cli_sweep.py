"""`isoembed sweep` and `isoembed ledger`: parse, call, print."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from isoembed import terminal
from isoembed.core import InputError
from isoembed.families import family_named
from isoembed.methods import names

sweep_app = typer.Typer(no_args_is_help=True, help="Plan and run IsoFLOP sweeps: your models, your data, any budgets.")
ledger_app = typer.Typer(no_args_is_help=True, help="Work with the records of a sweep.")

Ledger = Annotated[Path, typer.Argument(help="folder of the sweep")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
#: the methods that the paper compares: what `--methods all` means
PAPER_METHODS = ("full", "freeze", "bias", "lora")


@sweep_app.command("plan")
def plan(
    out: Annotated[Path, typer.Option("--out", help="folder of the sweep; one planned before is planned further")],
    budgets: Annotated[str | None, typer.Option(help="FLOP: 1e12:2e13:x4, or 1e12,4e12")] = None,
    family: Annotated[str, typer.Option(help="a built-in family")] = "nano",
    models: Annotated[str | None, typer.Option(help="some of the family's models, as a,b [default: all]")] = None,
    methods: Annotated[str, typer.Option(help=f"all (the paper's four), or some of {','.join(names())}")] = "all",
    data: Annotated[str, typer.Option(help="as --data of run")] = "docstrings",
    heldout: Annotated[str | None, typer.Option(help="held-out pairs; default: split off the data")] = None,
    query_key: Annotated[str | None, typer.Option(help="name of the query field")] = None,
    positive_key: Annotated[str | None, typer.Option(help="name of the positive field")] = None,
    on_bad_rows: Annotated[str, typer.Option(help="error or skip")] = "error",
    allowance: Annotated[str | None, typer.Option(help="what all cells may cost: 1e15 (FLOP), 3h or 90min")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="above 1: noise first, the best cells again at the end")] = 1,
    batch_pairs: Annotated[int | None, typer.Option(help="pairs a batch; default: the family's")] = None,
    context_tokens: Annotated[int | None, typer.Option(help="longest query or positive in tokens")] = None,
    pooling: Annotated[str, typer.Option(help="readout: mean, weighted-mean, last, first or max")] = "mean",
    min_steps: Annotated[int, typer.Option(min=1, help="cells of fewer steps are left out")] = 30,
    thin: Annotated[float, typer.Option(help="sizes within this factor of the expected best; 0: all sizes")] = 4.0,
    rate_steps: Annotated[
        str, typer.Option(help="horizons of the search for learning rates, as 100,300; `none`: the family's own rates")
    ] = "100,300",
    task: Annotated[
        list[Path] | None, typer.Option(help="score cells on this task (retrieval/NAME, sts/NAME); may be repeated")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="folder for tokenised data [default: in --out]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="explain and write nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the cells of a sweep, and say what they cost and what is left out before anything is spent."""
    from isoembed.report.sweep_text import plan_text
    from isoembed.sweep.plan import RateSearch, SweepRequest, at_most
    from isoembed.workflows.job import DataOptions
    from isoembed.workflows.sweep import REQUEST, explain, load_request, measure_speeds, plan_sweep, prepare_request

    terminal.no_library_bars()
    if budgets is None and (out / REQUEST).is_file():
        request = load_request(out)
    else:
        if budgets is None:
            raise InputError("`--budgets` must be given for a new sweep, as 1e12:2e13:x4 or 1e12,4e12.")
        chosen = family_named(family)
        names = tuple(models.split(",")) if models else tuple(model.name for model in chosen.models)
        context = chosen.context_tokens if context_tokens is None else context_tokens
        options = DataOptions(data, heldout, query_key, positive_key, on_bad_rows)
        flop, seconds = _allowance(allowance)
        middle = names[:: max(1, (len(names) - 1) // 2)][:3]
        request = SweepRequest.model_validate(
            {
                "family": chosen,
                "models": names,
                "methods": _chosen_methods(methods),
                "budgets": _budgets(budgets),
                "batch_pairs": chosen.batch_pairs if batch_pairs is None else batch_pairs,
                "context_tokens": context,
                "seeds": tuple(range(seeds)),
                "min_steps": min_steps,
                "thin": thin or None,
                "rates": None
                if rate_steps == "none"
                else RateSearch(
                    models=middle, steps=tuple(int(_number(s, "--rate-steps")) for s in rate_steps.split(","))
                ),
                "allowance_flop": flop,
                "allowance_seconds": seconds,
                "tasks": tuple(str(place.expanduser().absolute()) for place in task or ()),
                **prepare_request(
                    chosen, names, options, cache=cache or out / "tokens", context_tokens=context, pooling=pooling
                ),
            }
        )
        request = request.model_copy(update={"speeds": measure_speeds(request)})
    most = at_most(request)
    if dry_run:
        from isoembed.sweep.folder import SweepFolder

        planned, new = explain(SweepFolder(out), request), None
    else:
        planned, new = plan_sweep(out, request)
    if as_json:
        terminal.print_json(
            {"request": request.model_dump(mode="json"), "plan": planned.model_dump(mode="json"), "new": new}
        )
    else:
        terminal.console().print(plan_text(request, planned, most, new))


@sweep_app.command("run")
def run(
    ledger: Ledger,
    workers: Annotated[int, typer.Option(min=1, help="processes on this machine, its cores shared out")] = 1,
    tries: Annotated[int, typer.Option(min=1, help="failed attempts before a cell is given up")] = 3,
    ray: Annotated[
        str | None, typer.Option(help="on a Ray cluster: HOST:PORT, auto for the one here, local to start one")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="with --ray: CPUs a cell, which are its threads")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="with --ray: GPUs a cell; a fraction shares one")] = 0.0,
    shared: Annotated[bool, typer.Option("--shared", help="with --ray: all nodes see the ledger and caches")] = False,
) -> None:
    """Run the cells that are left, on and on until the sweep is complete; safe to kill and to run again."""
    from rich.live import Live

    from isoembed.report.sweep_text import status_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader
    from isoembed.workflows.sweep import run_sweep

    console, reader = terminal.console(), StatusReader(SweepFolder(ledger))
    live = Live(console=console, auto_refresh=False) if sys.stdout.isatty() else None

    def watch(_: SweepFolder) -> None:
        if live is not None:
            live.update(status_text(reader.read()), refresh=True)

    with live or contextlib.nullcontext():
        if ray is None:
            run_sweep(ledger, workers=workers, tries=tries, watch=watch)
        else:
            from isoembed.workflows.cluster import run_on_ray

            address = None if ray == "local" else ray
            run_on_ray(
                ledger,
                address=address,
                cpus_per_cell=cpus,
                gpus_per_cell=gpus,
                shared=shared,
                tries=tries,
                watch=watch,
            )
    if live is None:
        console.print(status_text(reader.read()))


@sweep_app.command("status")
def status(ledger: Ledger, as_json: AsJson = False) -> None:
    """Count cells by stage and state."""
    from isoembed.report.sweep_text import status_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader

    _existing(ledger)
    found = StatusReader(SweepFolder(ledger)).read()
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
    else:
        terminal.console().print(status_text(found))


@sweep_app.command("show")
def show(
    ledger: Ledger,
    key: Annotated[str, typer.Argument(help="a cell's key, or its beginning")],
    as_json: AsJson = False,
) -> None:
    """Show one cell: its recipe and what came of it."""
    from isoembed.report.sweep_text import cell_text
    from isoembed.sweep.folder import SweepFolder

    _existing(ledger)
    folder = SweepFolder(ledger)
    found = [cell for cell in folder.cells() if cell.key.startswith(key)]
    if len(found) != 1:
        raise InputError(
            f"`key` must name one cell; {len(found)} begin with {key!r}. `isoembed ledger export` lists all."
        )
    (cell,) = found
    outcome = folder.ledger.outcome(cell.key)
    if as_json:
        value = None if outcome is None else outcome.model_dump(mode="json")
        terminal.print_json({"cell": cell.model_dump(mode="json"), "outcome": value})
    else:
        terminal.console().print(cell_text(cell.recipe, outcome))


@ledger_app.command("export")
def export(
    ledger: Annotated[Path, typer.Argument(help="folder of records, or a .jsonl.gz")],
    file: Annotated[Path, typer.Argument(help="a .parquet or .csv table, or a .jsonl.gz of whole records")],
) -> None:
    """Write the records as one table (a run a row) or as one file of whole records."""
    from isoembed.records import Ledger as Records
    from isoembed.workflows.table import write_table

    records = Records.open(ledger)
    outcomes = records.outcomes()
    if file.name.endswith(".jsonl.gz"):
        records.export(file, outcomes)
    else:
        write_table(outcomes, file)
    for place, why in records.damaged.items():
        typer.echo(f"isoembed: passed over {place}: {why}", err=True)
    typer.echo(f"{len(outcomes):,} runs in {file}")


def _existing(ledger: Path) -> None:
    from isoembed.workflows.sweep import load_request

    load_request(ledger)


def _chosen_methods(text: str) -> tuple[str, ...]:
    chosen = PAPER_METHODS if text == "all" else tuple(text.split(","))
    if unknown := [name for name in chosen if name not in names()]:
        raise InputError(f"`--methods` must be all or some of {', '.join(names())}; got {', '.join(unknown)}.")
    return chosen


def _budgets(text: str) -> tuple[float, ...]:
    """`1e12:2e13:x4` -> 1e12, 4e12, 1.6e13; `1e12,4e12` as it stands, ascending."""
    match = re.fullmatch(r"([^:]+):([^:]+):x([^:]+)", text)
    if match is None:
        return tuple(sorted(_number(part, "--budgets") for part in text.split(",")))
    low, high, factor = (_number(part, "--budgets") for part in match.groups())
    if not (low <= high and factor > 1):
        raise InputError(f"`--budgets` LOW:HIGH:xFACTOR must rise by a factor above 1; got {text!r}.")
    count = math.floor(math.log(high / low) / math.log(factor) + 1e-9)
    return tuple(low * factor**power for power in range(count + 1))


def _allowance(text: str | None) -> tuple[float | None, float | None]:
    """FLOP, seconds: one of the two, or neither."""
    if text is None:
        return None, None
    for unit, seconds in (("min", 60.0), ("h", 3600.0), ("s", 1.0)):
        if text.endswith(unit):
            return None, _number(text.removesuffix(unit), "--allowance") * seconds
    return _number(text, "--allowance"), None


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"`{option}` must be made of positive numbers; got {text!r}. Write them as 1e12.")
    return value
