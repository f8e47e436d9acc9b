"""`isoembed run` and `isoembed train`: the whole job, with and without the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from isoembed.budget import Budget
from isoembed.cache import Places, unwritten
from isoembed.cli import pilot, terminal
from isoembed.cli.advice import advice
from isoembed.cli.boundary import with_flags
from isoembed.cli.job import JobFileOptions, given
from isoembed.cli.options import (
    AsJson,
    BudgetOptions,
    DryRun,
    ExecutionOptions,
    LawOptions,
    LimitOptions,
    ModelOptions,
    PairsOptions,
    SayingOptions,
    TrainingOptions,
    request_of,
)
from isoembed.cli.parse import size_in_bytes
from isoembed.cli.recipe import flagged, recommendation_json
from isoembed.core import InputError
from isoembed.recipe import DataStats, Recipe
from isoembed.records import RECORD, RunRecord

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from isoembed.training.callbacks import Callback
    from isoembed.training.execution import Execution
    from isoembed.workflows.job import DataOptions, Job


@dataclass(frozen=True, kw_only=True)
class ModelOutputOptions:
    """Where the model goes, and what is said on the way."""

    panel: ClassVar[str] = "Output"

    out: Annotated[Path, typer.Option(help="folder for the model, its record and checkpoints")]
    keep_adapter: Annotated[
        bool, typer.Option(help="lora and its variants: keep the adapter beside the merged model")
    ] = False
    tracker: Annotated[list[str] | None, typer.Option(help="tensorboard, trackio or wandb; may be repeated")] = None
    dry_run: DryRun = False
    saying: SayingOptions
    as_json: AsJson = False


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """All that a job is asked for."""

    panel: ClassVar[str] = "Budget"

    budget: BudgetOptions
    pilot: Annotated[
        str | None,
        typer.Option(help="spend this share of the budget, as 5%, on pilot runs and choose by what they show"),
    ] = None
    model: ModelOptions
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="recipe.json of a finished run: train that very recipe, on its own pairs or those of --data",
            rich_help_panel="Model",
        ),
    ] = None
    extend: Annotated[
        Path | None,
        typer.Option(
            help="folder of a run with --schedule wsd: go on with it, from where its rate fell, to a larger budget",
            rich_help_panel="Model",
        ),
    ] = None
    limits: LimitOptions
    data: PairsOptions
    training: TrainingOptions
    law: LawOptions
    execution: ExecutionOptions
    output: ModelOutputOptions


def run(ctx: typer.Context, asked: JobOptions, job: JobFileOptions) -> None:
    """The whole job: recipe, training, evaluation beside baselines, export."""
    with unwritten(asked.output.dry_run):
        _work(ctx, asked, job, evaluate=True)


def train(ctx: typer.Context, asked: JobOptions, job: JobFileOptions) -> None:
    """Recipe, training and export, without the evaluation."""
    with unwritten(asked.output.dry_run):
        _work(ctx, asked, job, evaluate=False)


def _work(ctx: typer.Context, asked: JobOptions, file: JobFileOptions, *, evaluate: bool) -> None:
    """Plan, train and evaluate, saying each as it comes; what can be refused early is refused before torch loads."""
    budget, device = asked.budget.with_device(asked.execution.device)
    asked = replace(asked, budget=budget, execution=replace(asked.execution, device=device))
    memory = None if asked.execution.memory is None else size_in_bytes(asked.execution.memory)
    planned = _planned(asked, ctx)

    from isoembed.training.callbacks import tracker_named
    from isoembed.training.distributed import process_group
    from isoembed.training.distributed import rank as process_rank
    from isoembed.workflows.job import check_place

    execution = asked.execution.value(device, memory)
    execution.torch_device()
    out, dry_run = asked.output.out, asked.output.dry_run
    terminal.no_library_bars()
    terminal.set_logging(verbose=asked.output.saying.verbose)
    console = terminal.console(quiet=asked.output.as_json or asked.output.saying.quiet)
    with process_group(), Places.of(out, asked.data.cache, dry=dry_run) as places:
        check_place(out, places.work, resume=execution.resume or dry_run)
        trackers = [tracker_named(each, places.work) for each in asked.output.tracker or []]
        console.quiet = console.quiet or bool(process_rank())
        job = planned.job(console, places)
        if not process_rank():
            file.save(ctx)
        if job is None:
            return
        _say_recipe(asked, job, console, ctx, None if dry_run else execution.torch_device())
        if not dry_run:
            spend = job.recommendation.budget if planned.spend.epochs is not None else planned.spend
            _train(asked, job, execution, console, trackers, whole=spend.paid_flop, evaluate=evaluate)
        elif asked.output.as_json and not process_rank():
            terminal.print_json(recommendation_json(job.recommendation))


def _planned(asked: JobOptions, ctx: typer.Context) -> ChosenRecipe | GivenRecipe | ExtendedRun:
    """What turns the options into a job."""
    options = list(given(ctx))
    if asked.extend is not None:
        return ExtendedRun(asked, asked.extend, options)
    return ChosenRecipe(asked, ctx) if asked.recipe is None else GivenRecipe(asked, asked.recipe, options)


def _say_recipe(asked: JobOptions, job: Job, console: Console, ctx: typer.Context, device: torch.device | None) -> None:
    """What will be trained; device: where, so that the time there can be guessed."""
    from isoembed.report.terminal.outcome import recipe_text
    from isoembed.report.terminal.recommendation import recommendation_text, section
    from isoembed.training.speed import matrix_speed

    shown = flagged(job.recommendation, ctx)
    notes = [with_flags(each, ctx) for each in job.data.notes]
    if asked.output.saying.explain:
        console.print(section("Recipe"), recommendation_text(shown, asked.budget.gpu), section("Data"))
        console.print("\n".join(notes), markup=False)
    elif not console.quiet:
        speed = None if device is None else matrix_speed(device)
        console.print(recipe_text(shown, notes, speed, more="--explain says whole the lines that end in dots"))


class ChosenRecipe:
    """What turns the options into a job.  Made before torch is loaded, so that it refuses at once what it can."""

    def __init__(self, asked: JobOptions, ctx: typer.Context) -> None:
        self.asked, self.ctx = asked, ctx
        self.request = request_of(asked.budget, asked.model, asked.training, asked.limits)
        self.spend = self.request.budget
        self.law = asked.law.value()
        if asked.pilot is not None:
            fixed = {
                "--method": asked.model.method,
                "--model": asked.model.model,
                "--depth": asked.model.depth,
                "--law": asked.law.law,
            }
            pilot.check(self.request, **fixed, **{"--learning-rate": asked.training.learning_rate})

    def job(self, console: Console, places: Places) -> Job | None:
        """The job, after its pilot where one is asked for; None after a pilot's dry run."""
        from isoembed.workflows.job import plan_job

        asked = self.asked
        spend, law, piloted = self.spend, self.law, None
        if asked.pilot is not None:
            found = pilot.pilot_first(self, asked.pilot, console, places)
            if found is None:
                return None
            spend, law, piloted = found
        job = plan_job(
            self.request.model_copy(update={"budget": spend}),
            asked.data.value(),
            cache=places.tokens,
            law=law,
            other_settings=asked.law.other_settings,
            far=piloted is not None,
        )
        if piloted is None:
            return job
        noted = pilot.noted(job.recommendation, piloted, self.spend.paid_flop)
        return replace(job, recommendation=noted)


class GivenRecipe:
    """What makes a job of a recipe in a file: all that a recipe says must not be said again."""

    #: what it does not decide of `_DECIDED`
    _OPEN: ClassVar = ("gpu", "count", "recipe", "epochs")

    def __init__(self, asked: JobOptions, file: Path, options: list[Any]) -> None:
        _only_open("recipe", options, self._OPEN)
        self.asked, self.file, self.recipe = asked, file, Recipe.load(file)
        self.epochs = asked.budget.epochs
        self.spend = Budget.parse(self.recipe.total_flop) if self.epochs is None else Budget.from_epochs(self.epochs)
        self.names_data = "data" in [each.name for each in options]

    def job(self, _: Console, places: Places) -> Job:
        """The job of that very recipe."""
        from isoembed.workflows.job import plan_recipe

        made_for = self.recipe.data
        with _own_pairs(made_for, named=self.names_data):
            return plan_recipe(
                self.recipe,
                _own_data(self.asked, made_for, named=self.names_data),
                cache=places.tokens,
                place=self.file.absolute().parent,
                other_data=self.names_data or made_for.fingerprint is None,
                epochs=self.epochs,
            )


class ExtendedRun:
    """What makes a job of a finished run and a larger budget: all that its recipe says must not be said again."""

    _OPEN: ClassVar = (
        "extend", "budget", "epochs", "gpu", "count", "hours", "utilisation", "dollars", "dollars_per_hour"
    )  # fmt: skip

    def __init__(self, asked: JobOptions, folder: Path, options: list[Any]) -> None:
        _only_open("extend", options, self._OPEN)
        named = [each.name for each in options]
        if "budget" in named and "epochs" in named:
            raise InputError("`--extend` takes one budget; give `--budget` or `--epochs`.")
        self.asked, self.folder, self.record = asked, folder, RunRecord.load(folder / RECORD)
        self.spend = asked.budget.value()
        self.names_data = "data" in named

    def job(self, _: Console, places: Places) -> Job:
        """The job that goes on with that run."""
        from isoembed.workflows.job import plan_extension, trunk_of

        made_for = self.record.recipe.data
        with _own_pairs(made_for, named=self.names_data):
            return plan_extension(
                self.folder,
                _own_data(self.asked, made_for, named=self.names_data),
                budget=self.spend,
                cache=places.tokens,
                trunk=trunk_of(self.folder, self.asked.data.cache),
            )


#: panels of the help whose options a recipe decides
_DECIDED = ("Budget", "Model", "Training", "Law")
#: and those of the others: how often and in which batches the pairs are gone through
_DECIDED_OF_DATA = ("repeats", "batch_by", "clusters", "source_alpha")


def _only_open(by: str, options: list[Any], left_open: tuple[str, ...]) -> None:
    """Raise InputError where an option says again what a recipe, named by the option `by`, decides."""
    decided = [each for each in options if each.rich_help_panel in _DECIDED or each.name in _DECIDED_OF_DATA]
    if said := [each for each in decided if each.name not in left_open]:
        flags = " and ".join(max(each.opts, key=len) for each in said)
        raise InputError(f"`--{by}` says how the model is trained; leave {flags} out.")


@contextmanager
def _own_pairs(made_for: DataStats, *, named: bool) -> Iterator[None]:
    """Says of a file that is not there, and that the user did not name, where its name is from."""
    from isoembed.data.sources.files import NoFileError

    try:
        yield
    except NoFileError as error:
        if named:
            raise
        raise InputError(
            f"The recipe was made for the pairs of {made_for.source}, which are not here; a record stores no paths. "
            "Name them as `data`."
        ) from error


def _own_data(asked: JobOptions, made_for: DataStats, *, named: bool) -> DataOptions:
    """The pairs that a recipe was made for, unless others are `named`."""
    data = asked.data.value()
    return data if named or made_for.fingerprint is None else replace(data, spec=made_for.source)


def _train(
    asked: JobOptions,
    job: Job,
    execution: Execution,
    console: Console,
    trackers: list[Callback],
    *,
    whole: float,
    evaluate: bool,
) -> None:
    """Train, evaluate where asked, and say what came of it; `whole` is the budget before its pilot, in FLOP."""
    from isoembed.report.terminal.outcome import result_text
    from isoembed.report.terminal.recommendation import achieved_text, scores_text, section, spent_text
    from isoembed.training.callbacks import ProgressBar
    from isoembed.training.distributed import rank as process_rank
    from isoembed.workflows.job import evaluate_job, train_job

    out, explain = asked.output.out, asked.output.saying.explain
    record: RunRecord = train_job(
        job,
        out,
        cache=asked.data.cache,
        execution=execution,
        callbacks=[ProgressBar(console), *trackers],
        keep_adapter=asked.output.keep_adapter,
    )
    if process_rank():
        return
    scores = evaluate_job(job, out, record) if evaluate else None
    if explain:
        console.print(section("Training"), spent_text(record, whole))
        if scores is not None:
            console.print(section("Evaluation"), "[dim]every score is a fraction of 1[/dim]", sep="\n")
            console.print(scores_text(scores))
        console.print(section("Result"))
    outcome = achieved_text(job.recommendation, record)
    by_epochs = asked.recipe is not None or asked.budget.epochs is not None
    advised = [*advice(record, by_epochs=by_epochs)]
    console.print(result_text(record, scores, out=out, budget_flop=whole, outcome=outcome, advice=advised))
    if asked.output.as_json:
        terminal.print_json(
            {
                "out": str(out),
                "recommendation": recommendation_json(job.recommendation),
                "record": record.model_dump(mode="json", exclude={"loss_curve"}),
                "scores": None if scores is None else scores.metrics(),
            }
        )
