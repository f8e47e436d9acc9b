"""`isoembed sweep plan`: the runs of a sweep, and what they cost before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from isoembed.cache import borrowed, unwritten
from isoembed.cli import parse, terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.job import JobFileOptions, given
from isoembed.cli.options import (
    AsJson,
    DryRun,
    PairsOptions,
    PrecisionName,
    SetupOptions,
    SizeLimitOptions,
    switch,
)
from isoembed.core import InputError
from isoembed.families import Family
from isoembed.families.base import ModelSpec
from isoembed.methods import names, suited
from isoembed.recipe import DataStats, Setup, family_setup
from isoembed.workflows.models import suite

if TYPE_CHECKING:
    from isoembed.sweep.plan import Plan
    from isoembed.sweep.request import RateSearch, SweepRequest

#: the methods that the paper compares: what `--methods all` means
PAPER_METHODS = ("full", "freeze", "bias", "lora")
_NAMES = ", ".join(names())
#: of its target, what a pilot may cost
_PILOT_SHARE = "5%"


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """The budgets of a sweep, and what it may cost."""

    panel: ClassVar[str] = "Budget"

    budgets: Annotated[str | None, typer.Option(help="FLOP: 1e12:2e13:x4, or 1e12,4e12")] = None
    allowance: Annotated[
        str | None, typer.Option(help="what all runs may cost: 1e15 (FLOP), 3h or 90min; of a pilot 5% or FLOP")
    ] = None
    adaptive: Annotated[
        bool, switch("adaptive", "a pilot: the runs that most sharpen the decision at --target, per FLOP")
    ] = False
    target: Annotated[str | None, typer.Option(help="of a pilot: the budget to decide for, FLOP")] = None


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What is run at each budget."""

    panel: ClassVar[str] = "Model"

    family: Annotated[
        str | None,
        typer.Option(
            help="a built-in family; or MODEL@, one model (a hub id, a folder, a GGUF file) cut in depth; default: nano"
        ),
    ] = None
    models: Annotated[
        str | None,
        typer.Option(help="some of the family's models, as a,b, default: all; or cuts of one model, as a@2,a@6"),
    ] = None
    methods: Annotated[
        str, typer.Option(help=f"all (those of the paper's four that the models have parts for), or some of {_NAMES}")
    ] = "all"
    prune: Annotated[float, typer.Option(help="sizes within this factor of the expected best; 0: all sizes")] = 4.0
    memory: Annotated[
        str | None, typer.Option(help="runs that need more are left out, as 16GiB; default: this machine's")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the runs are varied and repeated."""

    panel: ClassVar[str] = "Training"

    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="above 1: noise first, the best runs again at the end")
    ] = 1
    precision: PrecisionName = "auto"
    min_steps: Annotated[int, typer.Option(min=1, help="runs of fewer steps are left out")] = 30
    rate_steps: Annotated[
        str | None,
        typer.Option(
            help="horizons of the search for learning rates; `none`: the family's own rates; "
            "default: 100,300; with --schedule wsd the smallest budget; of a pilot none"
        ),
    ] = None
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="the best runs again with pooling=NAME, matryoshka=DIMS, dimensions=D or bidirectional; "
            "may be repeated"
        ),
    ] = None
    pairs: Annotated[
        str | None,
        typer.Option(
            help="the best runs again on so many unique pairs alone, repeated: 2000,8000; `fit` weighs them",
            rich_help_panel="Data",
        ),
    ] = None
    max_pair_epochs: Annotated[
        float | None,
        typer.Option(
            help="with --pairs: runs of more epochs over them are left out; default: 40", rich_help_panel="Data"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SweepOutputOptions:
    """Where the sweep goes."""

    panel: ClassVar[str] = "Output"

    out: Annotated[Path, typer.Option(help="folder of the sweep; one planned before is planned further")]
    task: Annotated[
        list[Path] | None, typer.Option(help="score runs on this task (KIND/NAME, as sts/NAME); may be repeated")
    ] = None
    dry_run: DryRun = False
    as_json: AsJson = False


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep is asked for."""

    cost: CostOptions
    grid: GridOptions
    limits: SizeLimitOptions
    data: PairsOptions
    setup: SetupOptions
    runs: RunOptions
    output: SweepOutputOptions


def plan(ctx: typer.Context, asked: SweepOptions, job: JobFileOptions) -> None:
    """Write the runs of a sweep, and say what they cost and what is left out before anything is spent."""
    with unwritten(asked.output.dry_run):
        _plan(ctx, asked, job)


def _plan(ctx: typer.Context, asked: SweepOptions, job: JobFileOptions) -> None:
    from isoembed.report.terminal.sweep import pilot_text, plan_text
    from isoembed.sweep.advance import explain, plan_sweep
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.plan import at_most
    from isoembed.sweep.request import REQUEST, load_request

    out, dry_run = asked.output.out, asked.output.dry_run
    if asked.cost.budgets is None and asked.cost.target is None and (out / REQUEST).is_file():
        _nothing_else(ctx, out)
        request = load_request(out)
    else:
        terminal.no_library_bars()
        tokens = asked.data.cache or out / "tokens"
        with borrowed(tokens) if dry_run else nullcontext(tokens) as place:
            request = _request(asked, place)
            if dry_run or not (out / REQUEST).is_file():  # the pace measured first stands
                from isoembed.workflows.sweep import measure_pace

                request = request.model_copy(update=measure_pace(request))
        request = request.model_copy(update={"data_options": {**request.data_options, "cache": str(tokens.resolve())}})
    job.save(ctx)
    if dry_run:
        planned, new = explain(SweepFolder(out), request), None
    else:
        planned, new = plan_sweep(out, request)
        request = load_request(out)
    if asked.output.as_json:
        terminal.print_json(plan_json(request, planned, new))
    elif request.target_flop is not None:
        terminal.console().print(pilot_text(request, planned, new))
    else:
        worded = partial(with_flags, ctx=ctx)
        terminal.console().print(plan_text(request, planned, at_most(request), new, worded))


def _nothing_else(ctx: typer.Context, out: Path) -> None:
    """Raise InputError where an option asks something new of the sweep in `out`, which is planned on as it is."""
    if more := [each for each in given(ctx) if each.name not in ("out", "as_json", "dry_run", "save_job")]:
        flags = " and ".join(max(each.opts, key=len) for each in more)
        raise InputError(
            f"`--budgets` or `--target` must say what a sweep is to be; without them that of {out} is planned on as it "
            f"is: leave {flags} out, or give all of its options again."
        )


def plan_json(request: SweepRequest, planned: Plan, new: int | None) -> dict[str, object]:
    """A plan as `--json` prints it; `new` runs were written, None after a dry run."""
    return {"request": request.model_dump(mode="json"), "plan": planned.model_dump(mode="json"), "new": new}


def _request(asked: SweepOptions, tokens: Path) -> SweepRequest:
    """The sweep that is asked for, its data and weights read; `tokens`: the folder for tokenised data."""
    cost, runs = asked.cost, asked.runs
    if cost.adaptive != (cost.target is not None):
        raise InputError("`--adaptive` and `--target`, the budget to decide for, must come together.")
    if cost.budgets is None and not cost.adaptive:
        raise InputError("`--budgets` must be given for a new sweep, as 1e12:2e13:x4 or 1e12,4e12.")
    if (runs.vary or runs.pairs) and cost.adaptive:
        raise InputError(
            "A pilot decides between sizes and methods; --vary and --pairs belong to a sweep of --budgets."
        )
    if runs.max_pair_epochs is not None and not runs.max_pair_epochs > 1:
        raise InputError(
            f"`--max-pair-epochs` must be above 1, so that pairs repeat; got {runs.max_pair_epochs:g}. Raise it."
        )
    _check_numbers(asked)
    family, models = suite(asked.grid.family, asked.grid.models)
    setup = asked.setup.value().completed(family_setup(family))
    return (_pilot_request if cost.adaptive else _grid_request)(asked, family, models, setup, tokens)


def _check_numbers(asked: SweepOptions) -> None:
    """Refuse what is no number before torch is loaded, which takes a while, or data are read."""
    cost, runs = asked.cost, asked.runs
    if cost.target is not None:
        parse.share_of(parse.number(cost.target, "--target"), cost.allowance or _PILOT_SHARE, "--allowance")
    else:
        parse.allowance(cost.allowance)
    if cost.budgets is not None:
        parse.budgets(cost.budgets)
    if asked.grid.memory is not None:
        parse.size_in_bytes(asked.grid.memory)
    if runs.rate_steps not in (None, "none"):
        parse.numbers(runs.rate_steps, "--rate-steps")


def _pilot_request(
    asked: SweepOptions, family: Family, models: tuple[str, ...], setup: Setup, tokens: Path
) -> SweepRequest:
    from isoembed.encoder.precision import precision_named
    from isoembed.sweep.pilot import PILOT_METHODS
    from isoembed.sweep.request import SweepRequest
    from isoembed.workflows.pilot import pilot_draft, prepare_pilot

    target, methods = parse.number(asked.cost.target or "", "--target"), asked.grid.methods
    sizes = tuple(family.model(name) for name in models)
    draft = pilot_draft(
        family.model_copy(update={"models": sizes}),
        setup,
        _chosen_methods(methods, PILOT_METHODS, sizes),
        target,
        parse.share_of(target, asked.cost.allowance or _PILOT_SHARE, "--allowance"),
    )
    rates = _rates(asked.runs.rate_steps or "none", models)
    draft = SweepRequest(**{**dict(draft), **asdict(asked.limits), "max_bytes": _most_bytes(asked), "rates": rates})
    budgets = None if asked.cost.budgets is None else parse.budgets(asked.cost.budgets)
    precision = precision_named(asked.runs.precision)
    return prepare_pilot(draft, asked.data.value(), cache=tokens, budgets=budgets, precision=precision)


def _grid_request(
    asked: SweepOptions, family: Family, models: tuple[str, ...], setup: Setup, tokens: Path
) -> SweepRequest:
    from isoembed.encoder.precision import precision_named
    from isoembed.sweep.repetition import MAX_PAIR_EPOCHS, pairs_named
    from isoembed.sweep.request import SweepRequest
    from isoembed.sweep.variations import variation_named
    from isoembed.workflows.sweep import prepare_request

    runs = asked.runs
    flop, seconds = parse.allowance(asked.cost.allowance)
    draft = SweepRequest(
        **dict(setup),
        family=family,
        models=models,
        methods=_chosen_methods(asked.grid.methods, PAPER_METHODS, [family.model(name) for name in models]),
        budgets=parse.budgets(asked.cost.budgets or ""),
        data=DataStats.assumed(setup.context_tokens),
        seeds=tuple(range(runs.seeds)),
        variations=tuple(variation_named(each, setup) for each in runs.vary or ()),
        pairs=pairs_named(runs.pairs) if runs.pairs else (),
        max_pair_epochs=runs.max_pair_epochs or MAX_PAIR_EPOCHS,
        min_steps=runs.min_steps,
        prune=asked.grid.prune or None,
        rates=_rates(runs.rate_steps or ("" if setup.options.schedule == "wsd" else "100,300"), models),
        max_bytes=_most_bytes(asked),
        **asdict(asked.limits),
        allowance_flop=flop,
        allowance_seconds=seconds,
        tasks=tuple(str(place.expanduser().absolute()) for place in asked.output.task or ()),
    )
    precision = precision_named(runs.precision)
    return prepare_request(draft, asked.data.value(), cache=tokens, precision=precision)


def _most_bytes(asked: SweepOptions) -> float:
    from isoembed.workflows.pilot import memory_here

    return memory_here() if asked.grid.memory is None else parse.size_in_bytes(asked.grid.memory)


def _rates(steps: str, models: tuple[str, ...]) -> RateSearch | None:
    """The search for learning rates on up to three of the models, at the smallest budget where no steps are named; None
    where there is to be none."""
    from isoembed.sweep.request import RateSearch, some_of

    if steps == "none":
        return None
    horizons = parse.numbers(steps, "--rate-steps") if steps else ()
    return RateSearch(models=some_of(models), steps=tuple(map(int, horizons)))


def _chosen_methods(text: str, every: Sequence[str], sizes: Sequence[ModelSpec]) -> tuple[str, ...]:
    """Those named; of `all`, which stands for `every`, those that can train all sizes."""
    if text == "all":
        return suited(every, sizes)
    listed = tuple(text.split(","))
    if unknown := [name for name in listed if name not in names()]:
        raise InputError(f"`--methods` must be all or some of {', '.join(names())}; got {', '.join(unknown)}.")
    return listed
