"""`isoembed sweep` and `isoembed ledger`: parse, call, print."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from isoembed.budget import MOST_FLOP
from isoembed.cli import terminal
from isoembed.cli.options import (
    AsJson,
    BatchPairs,
    Bidirectional,
    Cache,
    ContextTokens,
    DataSpec,
    HeldoutSpec,
    MaskMargin,
    Matryoshka,
    MaxRowBytes,
    NegativeKey,
    Negatives,
    OnBadRows,
    PoolingChoice,
    PoolPrompt,
    PositiveKey,
    PositivePrompt,
    QueryKey,
    QueryPrompt,
)
from isoembed.core import InputError, number_of
from isoembed.families import family_named
from isoembed.methods import names
from isoembed.recipe import Options, PoolingName, Prompts, dims_named

if TYPE_CHECKING:
    from rich.console import Console

    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.plan import Plan, SweepRequest

sweep_app = typer.Typer(no_args_is_help=True, help="Plan and run IsoFLOP sweeps: your models, your data, any budgets.")
ledger_app = typer.Typer(no_args_is_help=True, help="Work with the records of a sweep.")

Ledger = Annotated[Path, typer.Argument(help="folder of the sweep")]
#: the methods that the paper compares: what `--methods all` means
PAPER_METHODS = ("full", "freeze", "bias", "lora")


@sweep_app.command("plan")
def plan(
    out: Annotated[Path, typer.Option("--out", help="folder of the sweep; one planned before is planned further")],
    budgets: Annotated[str | None, typer.Option(help="FLOP: 1e12:2e13:x4, or 1e12,4e12")] = None,
    family: Annotated[str, typer.Option(help="a built-in family")] = "nano",
    models: Annotated[str | None, typer.Option(help="some of the family's models, as a,b [default: all]")] = None,
    methods: Annotated[str, typer.Option(help=f"all (the paper's four), or some of {','.join(names())}")] = "all",
    data: DataSpec = "docstrings",
    heldout: HeldoutSpec = None,
    query_key: QueryKey = None,
    positive_key: PositiveKey = None,
    negative_key: NegativeKey = None,
    negatives: Negatives = None,
    on_bad_rows: OnBadRows = "error",
    max_row_bytes: MaxRowBytes = 1 << 24,
    allowance: Annotated[
        str | None, typer.Option(help="what all cells may cost: 1e15 (FLOP), 3h or 90min; of a pilot also 5%")
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="a pilot: the runs that most sharpen the decision at --target, per FLOP")
    ] = False,
    target: Annotated[str | None, typer.Option(help="of a pilot: the budget to decide for, FLOP")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="above 1: noise first, the best cells again at the end")
    ] = 1,
    batch_pairs: BatchPairs = None,
    context_tokens: ContextTokens = None,
    pooling: PoolingChoice = "mean",
    mask_margin: MaskMargin = None,
    matryoshka: Matryoshka = None,
    bidirectional: Bidirectional = False,
    query_prompt: QueryPrompt = "",
    positive_prompt: PositivePrompt = "",
    pool_prompt: PoolPrompt = True,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="the best cells again with pooling=NAME, mask-margin=COSINE, matryoshka=DIMS or bidirectional; "
            "may be repeated"
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="the best cells again on so many unique pairs alone, repeated: 2000,8000; `fit` weighs them"),
    ] = None,
    max_passes: Annotated[
        float | None, typer.Option(help="with --pairs: cells of more passes over them are left out [default: 40]")
    ] = None,
    min_steps: Annotated[int, typer.Option(min=1, help="cells of fewer steps are left out")] = 30,
    thin: Annotated[float, typer.Option(help="sizes within this factor of the expected best; 0: all sizes")] = 4.0,
    rate_steps: Annotated[
        str | None,
        typer.Option(
            help="horizons of the search for learning rates; `none`: the family's own rates "
            "[default: 100,300; of a pilot none]"
        ),
    ] = None,
    task: Annotated[
        list[Path] | None, typer.Option(help="score cells on this task (KIND/NAME, as sts/NAME); may be repeated")
    ] = None,
    cache: Cache = None,
    memory: Annotated[
        str | None, typer.Option(help="cells that need more are left out, as 16GiB [default: this machine's]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="explain and write nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the cells of a sweep, and say what they cost and what is left out before anything is spent."""
    from isoembed.report.terminal.sweep import pilot_text, plan_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.pilot import PILOT_METHODS
    from isoembed.sweep.plan import RateSearch, SweepRequest, at_most
    from isoembed.sweep.repetition import MAX_PASSES, pairs_named
    from isoembed.sweep.variations import variation_named
    from isoembed.workflows.job import DataOptions
    from isoembed.workflows.pilot import memory_here, prepare_pilot
    from isoembed.workflows.sweep import REQUEST, explain, load_request, measure_pace, plan_sweep, prepare_request

    terminal.no_library_bars()
    if budgets is None and target is None and (out / REQUEST).is_file():
        request = load_request(out)
    else:
        if adaptive != (target is not None):
            raise InputError("`--adaptive` and `--target`, the budget to decide for, must come together.")
        if budgets is None and not adaptive:
            raise InputError("`--budgets` must be given for a new sweep, as 1e12:2e13:x4 or 1e12,4e12.")
        chosen = family_named(family)
        names = tuple(models.split(",")) if models else tuple(model.name for model in chosen.models)
        horizons = rate_steps or ("none" if adaptive else "100,300")
        rates = None
        if horizons != "none":
            middle = names[:: max(1, (len(names) - 1) // 2)][:3]
            steps = tuple(int(_number(each, "--rate-steps")) for each in horizons.split(","))
            rates = RateSearch(models=middle, steps=steps)
        options = DataOptions(
            data, heldout, query_key, positive_key, on_bad_rows, negative_key, negatives, max_row_bytes
        )
        batch = chosen.batch_pairs if batch_pairs is None else batch_pairs
        context = chosen.context_tokens if context_tokens is None else context_tokens
        recipe_options = Options(
            mask_margin=mask_margin,
            matryoshka=dims_named(matryoshka),
            bidirectional=bidirectional,
            prompts=Prompts.of(query_prompt, positive_prompt, pooled=pool_prompt),
        )
        if (vary or pairs) and adaptive:
            raise InputError(
                "A pilot decides between sizes and methods; --vary and --pairs belong to a sweep of --budgets."
            )
        if max_passes is not None and not max_passes > 1:
            raise InputError(f"`--max-passes` must be above 1, so that pairs repeat; got {max_passes:g}. Raise it.")
        variations = tuple(variation_named(each, cast(PoolingName, pooling), recipe_options) for each in vary or ())
        most_bytes = memory_here() if memory is None else size_in_bytes(memory)
        if adaptive:
            target_flop = _number(target or "", "--target")
            request = prepare_pilot(
                chosen.model_copy(update={"models": tuple(chosen.model(name) for name in names)}),
                options,
                target_flop=target_flop,
                allowance_flop=share_of(target_flop, allowance or "5%", "--allowance"),
                methods=PILOT_METHODS if methods == "all" else _chosen_methods(methods),
                cache=cache or out / "tokens",
                batch_pairs=batch,
                context_tokens=context,
                pooling=pooling,
                recipe_options=recipe_options,
                max_bytes=most_bytes,
                budgets=None if budgets is None else _budgets(budgets),
                rates=rates,
            )
        else:
            flop, seconds = _allowance(allowance)
            request = SweepRequest.model_validate(
                {
                    "family": chosen,
                    "models": names,
                    "methods": _chosen_methods(methods),
                    "budgets": _budgets(budgets or ""),
                    "batch_pairs": batch,
                    "context_tokens": context,
                    "seeds": tuple(range(seeds)),
                    "variations": variations,
                    "pairs": pairs_named(pairs) if pairs else (),
                    "max_passes": max_passes or MAX_PASSES,
                    "min_steps": min_steps,
                    "thin": thin or None,
                    "rates": rates,
                    "max_bytes": most_bytes,
                    "allowance_flop": flop,
                    "allowance_seconds": seconds,
                    "tasks": tuple(str(place.expanduser().absolute()) for place in task or ()),
                    **prepare_request(
                        chosen,
                        names,
                        options,
                        cache=cache or out / "tokens",
                        context_tokens=context,
                        pooling=pooling,
                        recipe_options=recipe_options,
                        variations=variations,
                    ),
                }
            )
        if dry_run or not (out / REQUEST).is_file():  # the pace measured first stands
            request = request.model_copy(update=measure_pace(request))
    if dry_run:
        planned, new = explain(SweepFolder(out), request), None
    else:
        planned, new = plan_sweep(out, request)
        request = load_request(out)
    if as_json:
        terminal.print_json(plan_json(request, planned, new))
    elif request.target_flop is not None:
        terminal.console().print(pilot_text(request, planned, new))
    else:
        terminal.console().print(plan_text(request, planned, at_most(request), new))


def plan_json(request: SweepRequest, planned: Plan, new: int | None) -> dict[str, object]:
    """A plan as `--json` prints it; `new` cells were written, None after a dry run."""
    return {"request": request.model_dump(mode="json"), "plan": planned.model_dump(mode="json"), "new": new}


@sweep_app.command("run")
def run(
    ledger: Ledger,
    workers: Annotated[int, typer.Option(min=1, max=4096, help="processes on this machine, its cores shared out")] = 1,
    tries: Annotated[int, typer.Option(min=1, max=1000, help="failed attempts before a cell is given up")] = 3,
    ray: Annotated[
        str | None, typer.Option(help="on a Ray cluster: HOST:PORT, auto for the one here, local to start one")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=1 << 16, help="with --ray: CPUs a cell, which are its threads")] = 1,
    gpus: Annotated[
        float, typer.Option(min=0, max=1 << 16, help="with --ray: GPUs a cell; a fraction shares one")
    ] = 0.0,
    shared: Annotated[bool, typer.Option("--shared", help="with --ray: all nodes see the ledger and caches")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the cells that are left, on and on until the sweep is complete; safe to kill and to run again."""
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader
    from isoembed.workflows.sweep import run_sweep

    with watching(SweepFolder(ledger), terminal.console(quiet=as_json)) as watch:
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
    ended = StatusReader(SweepFolder(ledger)).read()
    if as_json:
        terminal.print_json(ended.model_dump(mode="json"))
    if failed := ended.count("failed"):
        typer.echo(
            f"isoembed: {number_of(failed, 'cell')} failed and will not be tried again; "
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


@sweep_app.command("status")
def status(ledger: Ledger, as_json: AsJson = False) -> None:
    """Count cells by stage and state."""
    from isoembed.report.terminal.sweep import status_text
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.status import StatusReader

    _existing(ledger)
    found = StatusReader(SweepFolder(ledger)).read()
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
    else:
        terminal.console().print(status_text(found))


@sweep_app.command("retry")
def retry(
    ledger: Ledger,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="cells, or their beginnings [default: all that failed]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have cells that failed for good tried again by the next `sweep run`, from their newest checkpoints."""
    from isoembed.records import FailedRun
    from isoembed.sweep.folder import SweepFolder

    _existing(ledger)
    folder = SweepFolder(ledger)
    failed = [outcome.key for outcome in folder.ledger.outcomes() if isinstance(outcome, FailedRun)]
    for key in keys or ():
        if not any(each.startswith(key) for each in failed):
            raise InputError(f"`key` must name a failed cell; none begins with {key!r}. See `sweep status`.")
    chosen = [each for each in failed if not keys or each.startswith(tuple(keys))]
    folder.retry(chosen)
    if as_json:
        terminal.print_json({"retried": chosen})
    else:
        typer.echo(f"{number_of(len(chosen), 'cell')} to be tried again; `isoembed sweep run {ledger}` does it.")


@sweep_app.command("show")
def show(
    ledger: Ledger,
    key: Annotated[str, typer.Argument(help="a cell's key, or its beginning")],
    as_json: AsJson = False,
) -> None:
    """Show one cell: its recipe and what came of it."""
    from isoembed.report.terminal.sweep import cell_text
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
    as_json: AsJson = False,
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
    if as_json:
        terminal.print_json({"out": str(file), "runs": len(outcomes), "damaged": records.damaged})
        return
    for place, why in records.damaged.items():
        terminal.complain(f"passed over {place}: {why}")
    terminal.say(f"{number_of(len(outcomes), 'run')} in {file}")


@ledger_app.command("correlate")
def correlate(
    ledger: Annotated[Path, typer.Argument(help="folder of records, or a .jsonl.gz")],
    target: Annotated[str, typer.Option(help="loss to correlate: heldout or training")] = "heldout",
    as_json: AsJson = False,
) -> None:
    """Correlate the loss of all scored runs with each score and with the tasks' mean: Spearman, with an interval."""
    from isoembed.fitting.correlation import correlate as correlations
    from isoembed.records import Ledger as Records
    from isoembed.report.terminal.scores import correlations_text

    if target not in ("heldout", "training"):
        raise InputError(f"`--target` must be heldout or training, the loss to correlate; got {target!r}.")
    found = correlations(Records.open(ledger).records(), target="training" if target == "training" else "heldout")
    if as_json:
        terminal.print_json([each.model_dump(mode="json") for each in found])
    else:
        terminal.console().print(correlations_text(found))


@ledger_app.command("subset")
def subset(
    table: Annotated[Path, typer.Argument(help=".csv or .parquet: a model or run a row, a task's score a column")],
    categories: Annotated[
        Path | None, typer.Option(help="table of columns task and category; default: the mteb library's task types")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the task of each category that correlates most with the category's mean: a cheap benchmark for a sweep."""
    from isoembed.report.terminal.scores import choices_text
    from isoembed.workflows.subset import choose_tasks

    choices = choose_tasks(table, categories)
    if as_json:
        terminal.print_json([each.model_dump(mode="json") for each in choices])
    else:
        terminal.console().print(choices_text(choices))


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
    if count > 1000:
        raise InputError(f"`--budgets` must be 1000 at most; {text!r} makes {count:,}. Raise the factor.")
    return tuple(low * factor**power for power in range(count + 1))


def _allowance(text: str | None) -> tuple[float | None, float | None]:
    """FLOP, seconds: one of the two, or neither."""
    if text is None:
        return None, None
    for unit, seconds in (("min", 60.0), ("h", 3600.0), ("s", 1.0)):
        if text.endswith(unit):
            return None, _number(text.removesuffix(unit), "--allowance") * seconds
    return _number(text, "--allowance"), None


def share_of(whole: float, text: str, option: str) -> float:
    """`5%` of `whole`, or a number of FLOP below it."""
    share = _number(text.removesuffix("%"), option)
    flop = whole * share / 100 if text.endswith("%") else share
    if not flop < whole:
        raise InputError(f"`{option}` must be a part of {whole:.3g} FLOP, as 5%; got {text}.")
    return flop


def size_in_bytes(text: str, option: str = "--memory") -> float:
    """`4GiB`, `500MB`, `2e9` -> bytes."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "": 1}
    for unit, scale in units.items():
        if unit and not text.endswith(unit):
            continue
        try:
            value = float(text.removesuffix(unit)) * scale
        except ValueError:
            break
        if 1 <= value <= 2**60:
            return value
    raise InputError(f"`{option}` must be a size, as 4GiB or 500MB; got {text!r}.")


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_FLOP:
        raise InputError(
            f"`{option}` must be made of positive numbers up to {MOST_FLOP:.0e}; got {text!r}. Write them as 1e12."
        )
    return value
