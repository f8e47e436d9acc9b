"""The command line: parse, call, print.  Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoembed.budget import DEVICES, Budget
from isoembed.cli import boundary, terminal
from isoembed.cli import pilot as cli_pilot
from isoembed.cli.options import (
    Alpha,
    AsJson,
    BatchPairs,
    Bidirectional,
    BudgetText,
    Cache,
    Checkpointing,
    CheckpointSeconds,
    Compile,
    ContextTokens,
    Count,
    DataSpec,
    DeviceName,
    Dollars,
    DollarsPerHour,
    DryRun,
    FamilyName,
    Fraction,
    HeldoutSpec,
    Hours,
    KeepAdapter,
    LawPath,
    LearningRate,
    MaskMargin,
    Matryoshka,
    MaxParams,
    MaxRowBytes,
    MemoryText,
    MethodName,
    MethodNames,
    ModelName,
    NegativeKey,
    Negatives,
    OnBadRows,
    OtherSettings,
    Out,
    PilotShare,
    PoolingChoice,
    PoolPrompt,
    PositiveKey,
    PositivePrompt,
    PrecisionName,
    QueryKey,
    QueryPrompt,
    Rank,
    ResizeEmbeddings,
    Resume,
    Seed,
    ServingTokens,
    Shard,
    Tracker,
    Utilisation,
)
from isoembed.cli.report import report_app
from isoembed.cli.sweep import ledger_app, size_in_bytes, sweep_app
from isoembed.core import InputError, expanded
from isoembed.families import FAMILIES, NANO, Family, ModelSpec, family_named
from isoembed.families.base import BORROWED_RATES
from isoembed.families.counted import counted
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import Adapters, Method, method_named
from isoembed.recipe import Options, Prompts, Recipe, dims_named
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import default_family, recommend
from isoembed.recommendation.result import Recommendation

if TYPE_CHECKING:
    from rich.console import RenderableType

    from isoembed.evaluation.mteb.scores import BenchmarkScores
    from isoembed.evaluation.score import Scores

#: the family that is one model of the user's
_CUSTOM = "custom"

app = typer.Typer(
    cls=boundary.Bounded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if terminal.is_one() else None,  # no boxes into a pipe
    help="Name a compute budget; get the best recipe for a text embedding model, trained and proven.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on them.")
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")
app.add_typer(ledger_app, name="ledger")
app.add_typer(report_app)


def _budget(
    budget: str | None,
    device: str | None,
    count: int,
    hours: float | None,
    utilisation: float | None,
    dollars: float | None,
    dollars_per_hour: float | None,
) -> Budget:
    given = [
        name for name, value in (("--budget", budget), ("--hours", hours), ("--dollars", dollars)) if value is not None
    ]
    if len(given) != 1:
        raise InputError(
            f"Exactly one of --budget, --hours and --dollars must be given; got {' and '.join(given) or 'none'}."
        )
    if budget is not None:
        return Budget.parse(budget, count=count, utilisation=utilisation)
    if device is None:
        raise InputError(
            f"`{given[0]}` must come with --device: FLOP follow from its speed. Give one, as --device h100."
        )
    if hours is not None:
        return Budget.from_devices(device, count=count, hours=hours, utilisation=utilisation)
    if dollars_per_hour is None or dollars is None:
        raise InputError("`--dollars` must come with `--dollars-per-hour`, the price of one device for an hour.")
    return Budget.from_dollars(dollars, dollars_per_hour, device=device, count=count, utilisation=utilisation)


def _method(name: str | None, fraction: float | None, rank: int | None, alpha: float | None) -> Method | None:
    if name is None:
        given = [option for option, value in (("--fraction", fraction), ("--rank", rank), ("--alpha", alpha)) if value]
        if given:
            raise InputError(f"{' and '.join(given)} must come with --method; name the method too.")
        return None
    method = method_named(name, fraction=fraction, rank=rank, alpha=alpha)
    if isinstance(method, Adapters) and rank is not None and alpha is None:
        return method.model_copy(update={"alpha": type(method)().resized(rank).alpha})  # the one that goes with it
    return method


def _family(family: str | None, model: str | None, budget: Budget | None = None) -> tuple[Family, str | None]:
    """The family, and the model's name where one was asked for.  A hub id or folder is counted from its config; with
    neither named the family that ships, if it is one for the `budget`."""
    for known in FAMILIES:
        for spec in known.models:
            if model in (spec.name, spec.source) and (family is None or known.is_called(family)):
                return known, spec.name
    if family is not None:
        return family_named(family), model
    if model is None:
        return default_family(budget) if budget is not None else NANO, None
    if expanded(model).is_dir():
        model = str(expanded(model).resolve())  # the same folder from any working directory
    spec = counted(model, _count)
    return Family(name=_CUSTOM, models=(spec,), rates=BORROWED_RATES, about=f"the model at {model}"), spec.name


def _count(source: str) -> ModelSpec:
    from isoembed.encoder.shapes import spec_from_config

    return spec_from_config(source)


def _grown(family: Family, asked: bool) -> tuple[Family, bool]:
    """The family of one model with its token table grown, where that is `asked` and it is too small; and whether it
    was.  Those of built-in families never are."""
    if not asked or family.name != _CUSTOM:
        return family, False
    from isoembed.encoder.shapes import spec_from_config
    from isoembed.encoder.tokenizer import missing_rows

    spec = family.models[0]
    missing = missing_rows(spec.source)
    if not missing:
        return family, False
    grown = spec_from_config(spec.source, rows=spec.vocab + missing)
    return family.model_copy(update={"models": (grown,)}), True


def _constraints(methods: str | None, **limits: Any) -> Constraints:
    return Constraints(methods=None if methods is None else tuple(methods.split(",")), **limits)


def _law(file: Path | None) -> LawSet | None:
    return None if file is None else LawSet.load(file)


def _bytes(text: str | None, option: str = "--memory") -> float | None:
    return None if text is None else size_in_bytes(text, option)


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, with the numbers that follow from its fields beside them."""
    return {
        **recipe.model_dump(mode="json"),
        "key": recipe.key,
        "flop": recipe.flop,
        "pairs": recipe.pairs,
        "steps": recipe.steps,
        "epochs": recipe.epochs,
        "forward_params": recipe.cost.forward,
        "backward_params": recipe.cost.backward,
        "updated_params": recipe.cost.updated,
    }


def recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON."""
    value = recommendation.model_dump(mode="json")
    value["recipe"] = recipe_json(recommendation.recipe)
    for name, candidates in (("runners_up", recommendation.runners_up), ("methods", recommendation.methods)):
        for entry, candidate in zip(value[name], candidates, strict=True):
            entry["recipe"] = recipe_json(candidate.recipe)
    if recommendation.next_run is not None:
        value["next_run"]["recipe"] = recipe_json(recommendation.next_run.recipe)
    return value


# ---- commands ---------------------------------------------------------------------------------------------------


@app.command()
def recipe(
    budget: BudgetText = None,
    family: FamilyName = None,
    model: ModelName = None,
    method: MethodName = None,
    fraction: Fraction = None,
    rank: Rank = None,
    alpha: Alpha = None,
    device: DeviceName = None,
    count: Count = 1,
    hours: Hours = None,
    utilisation: Utilisation = None,
    dollars: Dollars = None,
    dollars_per_hour: DollarsPerHour = None,
    batch_pairs: BatchPairs = None,
    context_tokens: ContextTokens = None,
    learning_rate: LearningRate = None,
    seed: Seed = 0,
    pooling: PoolingChoice = "mean",
    mask_margin: MaskMargin = None,
    matryoshka: Matryoshka = None,
    bidirectional: Bidirectional = False,
    resize_embeddings: ResizeEmbeddings = False,
    law: LawPath = None,
    other_settings: OtherSettings = False,
    methods: MethodNames = None,
    max_params: MaxParams = None,
    pairs: Annotated[int | None, typer.Option(help="unique training pairs at hand")] = None,
    repeats: Annotated[
        str,
        typer.Option(
            help="none: one pass at most; muennighoff: repeat, at the worth measured on pretraining; measured: at that "
            "of the law's own runs"
        ),
    ] = "none",
    serving_tokens: ServingTokens = 0.0,
    device_memory: Annotated[
        str | None, typer.Option(help="training must fit: a size, as 24GB, or a device's name")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the best recipe for a budget, with what is known and what is assumed."""
    spend = _budget(budget, device, count, hours, utilisation, dollars, dollars_per_hour)
    chosen, name = _family(family, model, spend)
    chosen, grown = _grown(chosen, resize_embeddings)
    a_device = device_memory in [known.name for known in DEVICES]
    recommendation = recommend(
        spend,
        chosen,
        method=_method(method, fraction, rank, alpha),
        model=name,
        batch_pairs=batch_pairs,
        context_tokens=context_tokens,
        learning_rate=learning_rate,
        seed=seed,
        pooling=pooling,
        options=Options(
            mask_margin=mask_margin,
            matryoshka=dims_named(matryoshka),
            bidirectional=bidirectional,
            resize_embeddings=grown,
        ),
        law=_law(law),
        other_settings=other_settings,
        constraints=_constraints(
            methods,
            max_params=max_params,
            pairs=pairs,
            repeats=repeats,
            serving_tokens=serving_tokens,
            device_memory=device_memory if a_device else _bytes(device_memory, "--device-memory"),
        ),
    )
    if as_json:
        terminal.print_json(recommendation_json(recommendation))
    else:
        from isoembed.report.terminal.recommendation import recommendation_text

        terminal.console().print(recommendation_text(recommendation, device))


def _run_or_train(evaluate: bool) -> Callable[..., None]:
    """`run` and `train` take the same options; `run` also scores the model beside its baselines."""

    def command(
        out: Out,
        budget: BudgetText = None,
        family: FamilyName = None,
        model: ModelName = None,
        data: DataSpec = "docstrings",
        heldout: HeldoutSpec = None,
        query_key: QueryKey = None,
        positive_key: PositiveKey = None,
        negative_key: NegativeKey = None,
        negatives: Negatives = None,
        on_bad_rows: OnBadRows = "error",
        max_row_bytes: MaxRowBytes = 1 << 24,
        method: MethodName = None,
        fraction: Fraction = None,
        rank: Rank = None,
        alpha: Alpha = None,
        device: DeviceName = None,
        count: Count = 1,
        hours: Hours = None,
        utilisation: Utilisation = None,
        dollars: Dollars = None,
        dollars_per_hour: DollarsPerHour = None,
        batch_pairs: BatchPairs = None,
        context_tokens: ContextTokens = None,
        learning_rate: LearningRate = None,
        seed: Seed = 0,
        pooling: PoolingChoice = "mean",
        mask_margin: MaskMargin = None,
        matryoshka: Matryoshka = None,
        bidirectional: Bidirectional = False,
        resize_embeddings: ResizeEmbeddings = False,
        query_prompt: QueryPrompt = "",
        positive_prompt: PositivePrompt = "",
        pool_prompt: PoolPrompt = True,
        cache: Cache = None,
        memory: MemoryText = None,
        gradient_checkpointing: Checkpointing = False,
        precision: PrecisionName = "auto",
        compile_blocks: Compile = False,
        shard: Shard = False,
        checkpoint_seconds: CheckpointSeconds = 120.0,
        resume: Resume = False,
        tracker: Tracker = None,
        keep_adapter: KeepAdapter = False,
        law: LawPath = None,
        other_settings: OtherSettings = False,
        methods: MethodNames = None,
        max_params: MaxParams = None,
        serving_tokens: ServingTokens = 0.0,
        pilot: PilotShare = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        spend = _budget(budget, device, count, hours, utilisation, dollars, dollars_per_hour)
        chosen, name = _family(family, model, spend)
        chosen, grown = _grown(chosen, resize_embeddings)
        recipe_method = _method(method, fraction, rank, alpha)
        prompts = Prompts.of(query_prompt, positive_prompt, pooled=pool_prompt)
        options = Options(
            mask_margin=mask_margin,
            matryoshka=dims_named(matryoshka),
            bidirectional=bidirectional,
            prompts=prompts,
            resize_embeddings=grown,
        )
        memory_bytes = _bytes(memory)
        limits = _constraints(methods, max_params=max_params, serving_tokens=serving_tokens)
        measured = _law(law)
        if pilot is not None:
            fixed = {"--method": method, "--model": model, "--law": law, "--learning-rate": learning_rate}
            cli_pilot.check(chosen, limits, **fixed)

        from isoembed.report.terminal.recommendation import (
            achieved_text,
            recommendation_text,
            scores_text,
            section,
            spent_text,
        )
        from isoembed.training.distributed import process_group
        from isoembed.training.distributed import rank as process_rank
        from isoembed.training.loop import Execution, precision_named
        from isoembed.training.watchers import ProgressBar, tracker_named
        from isoembed.workflows.job import DataOptions, evaluate_job, plan_job, train_job

        products = precision_named(precision)
        terminal.no_library_bars()
        console = terminal.console(quiet=as_json)
        with process_group():
            if process_rank():
                console.quiet = True
            pairs = DataOptions(
                data, heldout, query_key, positive_key, on_bad_rows, negative_key, negatives, max_row_bytes
            )
            tokens = cache or out / "tokens"
            piloted, whole = None, spend.flop_at()[0]
            if pilot is not None:
                found = cli_pilot.pilot_first(
                    spend, chosen, pairs, pilot, limits, out=out, cache=tokens, batch_pairs=batch_pairs,
                    context_tokens=context_tokens, pooling=pooling, recipe_options=options, dry_run=dry_run,
                    resume=resume, as_json=as_json, console=console,
                )  # fmt: skip
                if found is None:
                    return
                spend, measured, piloted = found
            job = plan_job(
                spend,
                chosen,
                pairs,
                cache=tokens,
                model=name,
                method=recipe_method,
                batch_pairs=batch_pairs,
                context_tokens=context_tokens,
                learning_rate=learning_rate,
                seed=seed,
                pooling=pooling,
                recipe_options=options,
                law=measured,
                other_settings=other_settings,
                constraints=limits,
                far=piloted is not None,
            )
            if piloted is not None:
                noted = cli_pilot.noted(job.recommendation, piloted, whole)
                job = replace(job, recommendation=noted)
            console.print(section("Recipe"), recommendation_text(job.recommendation, device), section("Data"))
            console.print("\n".join(job.data.notes), markup=False)
            if dry_run:
                if as_json and not process_rank():
                    terminal.print_json(recommendation_json(job.recommendation))
                return
            console.print(section("Training"))
            record = train_job(
                job,
                out,
                execution=Execution(
                    memory_bytes=memory_bytes,
                    checkpointing=gradient_checkpointing,
                    precision=products,
                    compile=compile_blocks,
                    shard=shard,
                    checkpoint_seconds=checkpoint_seconds,
                    resume=resume,
                ),
                watchers=[ProgressBar(console), *(tracker_named(each, out) for each in tracker or [])],
                keep_adapter=keep_adapter,
            )
            if process_rank():
                return
            console.print(spent_text(record, whole))
            if piloted is not None:
                console.print(achieved_text(job.recommendation, record), markup=False)
            scores = None
            if evaluate:
                console.print(section("Evaluation"), "[dim]every score is a fraction of 1[/dim]", sep="\n")
                scores = evaluate_job(job, out, record)
                console.print(scores_text(scores))
            console.print(section("Done"), f"model, card and record in {out}", sep="\n", markup=False)
            if as_json:
                terminal.print_json(
                    {
                        "out": str(out),
                        "recommendation": recommendation_json(job.recommendation),
                        "record": record.model_dump(mode="json", exclude={"loss_curve"}),
                        "scores": None if scores is None else scores.metrics(),
                    }
                )

    return command


app.command("run", help="The whole job: recipe, training, evaluation beside baselines, export.")(_run_or_train(True))
app.command("train", help="Recipe, training and export, without the evaluation.")(_run_or_train(False))


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet of runs, or a ledger")],
    law: Annotated[
        str,
        typer.Option(
            help="hoffmann, tied, embedding, power, multiplicative, frantar, rectified, interaction; hoffmann-odds, "
            "frantar-odds, interaction-odds, bounded by chance; several (a,b) or best are compared on what is held out"
        ),
    ] = "hoffmann",
    params_col: Annotated[str | None, typer.Option(help="column of N; in a ledger params or total_params")] = None,
    tokens_col: Annotated[str | None, typer.Option(help="column of D")] = None,
    loss_col: Annotated[str | None, typer.Option(help="column of the loss")] = None,
    flop_col: Annotated[str | None, typer.Option(help="column of C; in a ledger model_flop or all_in_flop")] = None,
    fraction_col: Annotated[str | None, typer.Option(help="column of S, the trained share")] = None,
    run_col: Annotated[
        str | None, typer.Option(help="column of the run that a row is a checkpoint of; default: run, run_id")
    ] = None,
    weight_col: Annotated[str | None, typer.Option(help="column of weights")] = None,
    method_col: Annotated[str | None, typer.Option(help="column of the method: one law each")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=2, help="texts among which a table's loss finds the right one: for odds laws")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="family of the models in a table whose losses are contrastive; without it the law serves fits and "
            "figures, and no recipe"
        ),
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Huber width in ln loss; default: tied to the noise")] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, max=100_000, help="refits to resampled runs; 0: no intervals")
    ] = 1000,
    holdout: Annotated[str, typer.Option(help="largest-size, largest-budget, largest (both) or none")] = "largest",
    target: Annotated[str, typer.Option(help="loss of a ledger's runs: heldout or training")] = "heldout",
    out: Annotated[Path, typer.Option(help="file that --law of recipe, run and train takes")] = Path("law.json"),
    as_json: AsJson = False,
) -> None:
    """Fit a scaling law to runs of anybody's, with intervals and its forecast of what was held out."""
    from isoembed.fitting.study import HOLDOUTS, study_source
    from isoembed.laws import COMPARED, law_named

    if holdout not in HOLDOUTS:
        raise InputError(f"`--holdout` must be one of {', '.join(HOLDOUTS)}; got {holdout!r}.")
    if target not in ("heldout", "training"):
        raise InputError(f"`--target` must be heldout or training, the loss to fit; got {target!r}.")
    columns = {"params": params_col, "tokens": tokens_col, "loss": loss_col, "flop": flop_col}
    columns |= {"fraction": fraction_col, "run": run_col, "weight": weight_col}
    laws = study_source(
        table,
        COMPARED if law == "best" else [law_named(name) for name in law.split(",")],
        names={column: name for column, name in columns.items() if name is not None},
        method_column=method_col,
        family=family,
        candidates=candidates,
        target="training" if target == "training" else "heldout",
        draws=bootstrap,
        delta=delta,
        by=HOLDOUTS[holdout],
    )
    laws.save(out)
    if as_json:
        shown = [
            each.model_dump(
                mode="json", exclude={"draws": True, "repetition": {"draws"}, "forms": {"__all__": {"draws"}}}
            )
            for each in laws.laws
        ]
        terminal.print_json(shown[0] if len(shown) == 1 else {"format": laws.format, "laws": shown})
    else:
        from isoembed.report.terminal.laws import laws_text

        terminal.console().print(laws_text(laws), f"\nlaw in {out}", markup=False)


@app.command()
def validate(
    law: Annotated[Path, typer.Argument(help="law.json of `isoembed fit` to a ledger")],
    ledger: Annotated[Path, typer.Argument(help="runs on the same pairs at other batches or contexts")],
    out: Annotated[
        Path | None, typer.Option(help="write the law with what was seen; where it holds, recipe, run and train use it")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a law at other batches and contexts: does it forecast runs there where D counts training steps?"""
    from isoembed.fitting.validate import check_ledger

    found = check_ledger(LawSet.load(law), ledger)
    if out is not None:
        found.laws.save(out)
    if as_json:
        shown = found.model_dump(mode="json", exclude={"laws"})
        terminal.print_json({**shown, "out": None if out is None else str(out)})
    else:
        from isoembed.report.terminal.laws import check_text

        terminal.console().print(check_text(found))
        if out is not None:
            terminal.console().print(f"\nlaw in {out}", markup=False)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="folder of an exported model, or a base model's name, hub id or folder")],
    data: Annotated[
        Path | None, typer.Option(help="folder of one task, or of tasks as retrieval/NAME and sts/NAME")
    ] = None,
    task: Annotated[str | None, typer.Option(help="retrieval, sts or another kind, where --data is one task")] = None,
    truncate_dim: Annotated[
        int | None, typer.Option(help="score by the first so many dimensions of the embeddings alone")
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="score embeddings kept as int8 and as single bits too")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="also write the scores to this file")] = None,
    mteb: Annotated[
        list[str] | None,
        typer.Option(
            help="with the MTEB library: paper, nano-beir, eng-v2, a benchmark or a task; with --data local, KIND or "
            "KIND/NAME; may be repeated"
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="with --mteb: query=TEXT, document=TEXT or TASK=TEXT; may be repeated")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="with --mteb: folder of the library's results [default: mteb/ in the model's]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on retrieval and STS files beside its untrained base, the static table and BM25; or, with --mteb,
    on the tasks of the MTEB library or on local files through it."""
    from isoembed.core import write_atomically

    terminal.no_library_bars()
    scores: BenchmarkScores | Scores
    text: RenderableType
    if mteb:
        if truncate_dim is not None or quantized:
            raise InputError(
                "`--truncate-dim` and `--quantized` do not go with --mteb, which scores whole embeddings; leave them "
                "out."
            )
        from isoembed.report.terminal.scores import benchmark_text, times_100
        from isoembed.workflows.benchmark import benchmark

        scores = benchmark(
            Path(model),
            mteb,
            data=data,
            kind=task,
            prompts=_prompts(prompt),
            results=results,
            progress=lambda score: terminal.say(f"{score.task}: {times_100(score.score)} {score.metric}", err=True),
        )
        text = benchmark_text(scores)
    else:
        from isoembed.report.terminal.recommendation import scores_text
        from isoembed.workflows.job import evaluate_folder

        if data is None or prompt or results:
            raise InputError(
                "`isoembed eval` needs --data FOLDER or --mteb NAME; --prompt and --results go with --mteb."
            )
        scores = evaluate_folder(model, data, kind=task, dims=truncate_dim, quantized=quantized)
        text = scores_text(scores)
    if out is not None:
        write_atomically(out, scores.model_dump_json(indent=1) + "\n")
    if as_json:
        terminal.print_json(scores.model_dump(mode="json"))
    else:
        terminal.console().print(text)


def _prompts(given: list[str] | None) -> dict[str, str]:
    """`query=TEXT` -> the prompt named query."""
    prompts = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise InputError(f"`--prompt` must be NAME=TEXT, as query='query: '; got {each!r}.")
        prompts[name] = text
    return prompts


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="folder of an exported model")],
    query: Annotated[str, typer.Argument(help="what to look for")],
    documents: Annotated[
        Path | None, typer.Option(help="JSONL of {title, text} to search; default: this environment's docstrings")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="how many to show")] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the documents nearest to a query; the first search embeds them all and keeps the index in the folder."""
    from isoembed.data.sources.docstrings import documents as docstrings
    from isoembed.report.terminal.recommendation import hits_text
    from isoembed.workflows.search import Index, read_documents

    terminal.no_library_bars()
    console = terminal.console(stderr=True)
    if documents is None and (folder / "index").is_dir():
        index = Index.load(folder)
    else:
        with console.status("embedding documents ..."):
            index = Index.build(folder, docstrings() if documents is None else read_documents(documents))
    hits = index.search(query, k)
    if as_json:
        terminal.print_json([{"score": hit.score, "title": hit.title, "text": hit.text} for hit in hits])
    else:
        terminal.console().print(hits_text(hits))


@data_app.command("inspect")
def inspect(
    source: Annotated[str, typer.Argument(help="as --data of run: docstrings, a file, hub:ORG/NAME, a mixture")],
    family: FamilyName = None,
    model: ModelName = None,
    method: MethodName = None,
    fraction: Fraction = None,
    rank: Rank = None,
    alpha: Alpha = None,
    query_key: QueryKey = None,
    positive_key: PositiveKey = None,
    negative_key: NegativeKey = None,
    negatives: Negatives = None,
    on_bad_rows: OnBadRows = "error",
    max_row_bytes: MaxRowBytes = 1 << 24,
    query_prompt: QueryPrompt = "",
    positive_prompt: PositivePrompt = "",
    resize_embeddings: ResizeEmbeddings = False,
    context_tokens: ContextTokens = None,
    cache: Annotated[Path | None, typer.Option(help="folder for tokenised data; default: a temporary one")] = None,
    as_json: AsJson = False,
) -> None:
    """Count pairs, tokens, duplicates and truncation, and say how many FLOP one epoch buys on each model."""
    from isoembed.data.inspect import inspect as inspect_source
    from isoembed.encoder.tokenizer import load_tokenizer
    from isoembed.report.terminal.recommendation import inspection_text
    from isoembed.scratch import own_folder, scratch
    from isoembed.workflows.job import DataOptions

    chosen, _ = _family(family, model)
    chosen, grown = _grown(chosen, resize_embeddings)
    options = DataOptions(source, None, query_key, positive_key, on_bad_rows, negative_key, negatives, max_row_bytes)
    prompts = Prompts.of(query_prompt, positive_prompt, pooled=True)
    with scratch(own_folder(), "inspect-") as place:
        inspection = inspect_source(
            options.source(source, prompts.query),
            load_tokenizer(chosen.models[0].source, rows=chosen.models[0].vocab if grown else None),
            context_tokens=context_tokens or chosen.context_tokens,
            folder=cache or place,
            family=chosen,
            method=_method(method, fraction, rank, alpha) or method_named("full"),
            prompts=prompts,
        )
    if as_json:
        terminal.print_json(inspection.model_dump(mode="json"))
    else:
        terminal.console().print(inspection_text(inspection))


@data_app.command("mine")
def mine(
    model: Annotated[Path, typer.Argument(help="folder of an exported model")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="pairs, as --data of run")],
    out: Annotated[Path, typer.Option("--out", help="JSONL file for the pairs with their hard negatives")],
    negatives: Annotated[int, typer.Option(help="hard negatives a query at most")] = 3,
    margin: Annotated[
        float, typer.Option(help="cosine by which a negative must stay under the query's positives")
    ] = 0.05,
    query_key: QueryKey = None,
    positive_key: PositiveKey = None,
    on_bad_rows: OnBadRows = "error",
    max_row_bytes: MaxRowBytes = 1 << 24,
    as_json: AsJson = False,
) -> None:
    """Find hard negatives with a model: other queries' positives that it finds near, but not too near."""
    from isoembed.workflows.job import DataOptions
    from isoembed.workflows.mine import mine as mine_negatives

    terminal.no_library_bars()
    options = DataOptions(source, None, query_key, positive_key, on_bad_rows, max_row_bytes=max_row_bytes)
    pairs = options.source(source)
    mined = mine_negatives(model, pairs, out, negatives=negatives, margin=margin)
    if as_json:
        terminal.print_json(mined.model_dump(mode="json"))
    else:
        terminal.say(
            f"{mined.negatives:,} hard negatives for {mined.queries:,} queries ({mined.bare:,} have none) in {out}"
        )


@app.command()
def models(family: FamilyName = None, model: ModelName = None, as_json: AsJson = False) -> None:
    """List families; or one family's or one model's counts, FLOP a token and memory to train, method by method."""
    from isoembed.recommendation.catalogue import facts
    from isoembed.report.terminal.models import families_text, models_text

    if family is None and model is None:
        if as_json:
            terminal.print_json(
                [
                    {"family": known.name, "about": known.about, "models": [spec.name for spec in known.models]}
                    for known in FAMILIES
                ]
            )
        else:
            terminal.console().print(families_text(FAMILIES))
        return
    chosen, name = _family(family, model)
    found = [each for each in facts(chosen) if name in (None, each.name)]
    if as_json:
        shown = [each.model_dump(mode="json") for each in found]
        terminal.print_json({"family": chosen.name, "about": chosen.about, "models": shown})
    else:
        terminal.console().print(models_text(chosen, found))


def main() -> None:
    """Run the command line.  What went wrong is one line on standard error; `--debug` shows the traceback.

    Exit status: 0 done, 1 the job failed (diverged, no room or right to write), 2 wrong use, 130 stopped by a signal.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    terminal.guard()
    try:
        if sys.flags.optimize > 1:
            raise InputError("`python -OO` leaves out docstrings, which transformers reads; use -O at most.")
        app()
    except Exception as error:
        line = None if debug else boundary.line_of(error)
        if line is None:
            sys.excepthook = terminal.print_traceback
            raise
        if line:
            terminal.complain(line)
        sys.exit(boundary.status_of(error))


if __name__ == "__main__":
    main()
