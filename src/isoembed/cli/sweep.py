"""`isoembed sweep run`, `status`, `retry` and `show`: a planned sweep worked off and looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson
from isoembed.core import InputError, number_of

if TYPE_CHECKING:
    from rich.console import Console

    from isoembed.sweep.folder import SweepFolder

SweepPath = Annotated[Path, typer.Argument(help="folder of the sweep")]


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Who executes the runs, and how often."""

    panel: ClassVar[str] = "Execution"

    workers: Annotated[int, typer.Option(min=1, max=4096, help="processes on this machine, its cores shared out")] = 1
    tries: Annotated[int, typer.Option(min=1, max=1000, help="failed attempts before a planned run is given up")] = 3
    ray: Annotated[
        str | None, typer.Option(help="on a Ray cluster: HOST:PORT, auto for the one here, local to start one")
    ] = None
    cpus: Annotated[int, typer.Option(min=1, max=1 << 16, help="with --ray: CPUs per run, which are its threads")] = 1
    gpus: Annotated[float, typer.Option(min=0, max=1 << 16, help="with --ray: GPUs per run; a fraction shares one")] = (
        0.0
    )
    shared: Annotated[bool, typer.Option("--shared", help="with --ray: all nodes see the ledger and caches")] = False


def run(ledger: SweepPath, how: WorkOptions, as_json: AsJson = False) -> None:
    """Execute the planned runs that are left, until the sweep is complete; safe to kill and to run again."""
    from isoembed.sweep.advance import plan_sweep
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader
    from isoembed.sweep.work import open_runs

    folder = SweepFolder(ledger)
    planned, _ = plan_sweep(ledger)
    if not planned.runs:
        terminal.complain(f"no run is planned; `isoembed sweep plan --out {ledger}` says why.")
    silent = contextlib.nullcontext(lambda _: None)
    with watching(folder, terminal.console(quiet=as_json)) if planned.runs else silent as watch:
        if planned.complete and not open_runs(folder):
            pass
        elif how.ray is None:
            from isoembed.workflows.sweep import run_sweep

            run_sweep(ledger, workers=how.workers, tries=how.tries, watch=watch)
        else:
            from isoembed.workflows.cluster import run_on_ray

            run_on_ray(
                ledger,
                address=None if how.ray == "local" else how.ray,
                cpus_per_run=how.cpus,
                gpus_per_run=how.gpus,
                shared=how.shared,
                tries=how.tries,
                watch=watch,
            )
    ended = StatusReader(folder).read()
    if as_json:
        terminal.print_json(ended.model_dump(mode="json"))
    if failed := ended.count("failed"):
        typer.echo(
            f"isoembed: {number_of(failed, 'run')} failed and will not be tried again; "
            f"`isoembed sweep retry {ledger}` has them tried anew.",
            err=True,
        )
    if ended.count("left"):
        terminal.complain("stopped before the end; the same command goes on.")
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def watching(folder: SweepFolder, console: Console) -> Iterator[Callable[[SweepFolder], None]]:
    """What a running sweep calls between looks: a live table on a terminal; elsewhere one table at the end."""
    from rich.live import Live

    from isoembed.report.terminal.sweep import status_text
    from isoembed.sweep.status import StatusReader

    reader = StatusReader(folder)
    if not console.is_terminal:
        yield lambda _: None
        console.print(status_text(reader.read()))
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda _: live.update(status_text(reader.read()), refresh=True)


def status(ledger: SweepPath, as_json: AsJson = False) -> None:
    """Count planned runs by stage and state."""
    from isoembed.report.terminal.sweep import status_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader

    _existing(ledger)
    found = StatusReader(SweepFolder(ledger)).read()
    terminal.answer(found, status_text, as_json=as_json)


def list_runs(ledger: SweepPath, as_json: AsJson = False) -> None:
    """List the planned runs: what each is, and where it stands."""
    from isoembed.report.terminal.sweep import runs_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader

    _existing(ledger)
    found = StatusReader(SweepFolder(ledger)).runs()
    terminal.answer(found, runs_text, as_json=as_json)


def retry(
    ledger: SweepPath,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="keys of planned runs, or their beginnings; default: all that failed"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have planned runs that failed for good tried again by the next `sweep run`, from their newest checkpoints."""
    from isoembed.records import FailedRun
    from isoembed.sweep.folder import SweepFolder

    _existing(ledger)
    folder = SweepFolder(ledger)
    failed = [outcome.key for outcome in folder.ledger.outcomes() if isinstance(outcome, FailedRun)]
    for key in keys or ():
        if not any(each.startswith(key) for each in failed):
            raise InputError(f"`key` must name a failed run; none begins with {key!r}. See `sweep status`.")
    chosen = [each for each in failed if not keys or each.startswith(tuple(keys))]
    folder.retry(chosen)
    if as_json:
        terminal.print_json({"retried": chosen})
    else:
        typer.echo(f"{number_of(len(chosen), 'run')} to be tried again; `isoembed sweep run {ledger}` does it.")


def show(
    ledger: SweepPath,
    key: Annotated[str, typer.Argument(help="a planned run's key, or its beginning")],
    as_json: AsJson = False,
) -> None:
    """Show one planned run: its recipe and what came of it."""
    from isoembed.report.terminal.sweep import planned_run_text
    from isoembed.sweep.folder import SweepFolder

    _existing(ledger)
    folder = SweepFolder(ledger)
    found = [each for each in folder.runs() if each.key.startswith(key)]
    if len(found) != 1:
        raise InputError(f"`key` must name one run; {len(found)} begin with {key!r}. `isoembed sweep list` lists all.")
    (planned,) = found
    outcome = folder.ledger.outcome(planned.key)
    if as_json:
        value = None if outcome is None else outcome.model_dump(mode="json")
        terminal.print_json({"cell": planned.model_dump(mode="json"), "outcome": value})
    else:
        terminal.console().print(planned_run_text(planned.recipe, outcome))


def _existing(ledger: Path) -> None:
    from isoembed.sweep.request import load_request

    load_request(ledger)
