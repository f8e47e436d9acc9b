"""The command line: parse, call, print.  Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoembed.budget import DEVICES, Budget
from isoembed.core import InputError
from isoembed.families import FAMILIES, Family, family_named
from isoembed.frontier import Recommendation, recommend
from isoembed.methods import Method, method_named

if TYPE_CHECKING:
    from isoembed.workflows.setup import DataOptions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Name a compute budget; get the best recipe for a text embedding model, trained and proven.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on them.")
app.add_typer(data_app, name="data")

# ---- options that several commands share ------------------------------------------------------------------------

BudgetText = Annotated[str | None, typer.Option("--budget", help="training budget in FLOP, as 1.5e18")]
DeviceName = Annotated[str, typer.Option("--device", help=f"one of {', '.join(device.name for device in DEVICES)}")]
Count = Annotated[int, typer.Option(help="number of devices")]
Hours = Annotated[float | None, typer.Option(help="budget as hours on --count devices")]
Utilisation = Annotated[float | None, typer.Option(help="share of peak that your training reaches")]
Dollars = Annotated[float | None, typer.Option(help="budget as money")]
DollarsPerHour = Annotated[float | None, typer.Option(help="price of one device for an hour")]
FamilyName = Annotated[str | None, typer.Option("--family", help=f"{', '.join(f.name for f in FAMILIES)}")]
ModelName = Annotated[str | None, typer.Option("--model", help="a model of the family, a hub id or a folder")]
MethodName = Annotated[str | None, typer.Option("--method", help="full, freeze, bias or lora; default: the rule's")]
Fraction = Annotated[float | None, typer.Option(help="freeze: active share of the blocks")]
Rank = Annotated[int | None, typer.Option(help="lora: rank")]
Alpha = Annotated[float | None, typer.Option(help="lora: alpha")]
BatchPairs = Annotated[int | None, typer.Option(help="pairs a batch; default: the family's")]
ContextTokens = Annotated[int | None, typer.Option(help="longest query or positive in tokens")]
LearningRate = Annotated[float | None, typer.Option(help="peak learning rate; default: the rule's")]
Seed = Annotated[int, typer.Option(help="seed of data order and initialisation")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
DataSpec = Annotated[
    str, typer.Option("--data", help="docstrings, a .jsonl/.csv/.parquet file, hub:ORG/NAME, or a mixture a:3,b:1")
]
QueryKey = Annotated[str | None, typer.Option(help="name of the query field")]
PositiveKey = Annotated[str | None, typer.Option(help="name of the positive field")]
HeldoutSpec = Annotated[str | None, typer.Option("--heldout", help="held-out pairs; default: split off the data")]
OnBadRows = Annotated[str, typer.Option(help="error or skip")]
Cache = Annotated[Path | None, typer.Option(help="folder for tokenised data, reused between runs [default: in --out]")]
Out = Annotated[Path, typer.Option("--out", help="folder for the model, its record and checkpoints")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")]
MemoryText = Annotated[
    str | None, typer.Option("--memory", help="memory for activations, as 4GiB; default: half of free")
]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="recompute activations inside the model")]
CheckpointSeconds = Annotated[float, typer.Option(help="seconds between checkpoints")]
Tracker = Annotated[list[str] | None, typer.Option(help="tensorboard, trackio or wandb; may be repeated")]
KeepAdapter = Annotated[bool, typer.Option(help="lora: keep the adapter beside the merged model")]
RandomInit = Annotated[bool, typer.Option("--random-init", help="start from random weights instead of pretrained ones")]


def _budget(
    budget: str | None,
    device: str,
    count: int,
    hours: float | None,
    utilisation: float | None,
    dollars: float | None,
    dollars_per_hour: float | None,
) -> Budget:
    given = [name for name, value in (("--budget", budget), ("--hours", hours), ("--dollars", dollars)) if value]
    if len(given) != 1:
        raise InputError(
            f"Exactly one of --budget, --hours and --dollars must be given; got {' and '.join(given) or 'none'}."
        )
    if budget is not None:
        return Budget.parse(budget)
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
    if name == "lora" and rank is not None and alpha is None:
        alpha = 2.0 * rank
    return method_named(name, fraction=fraction, rank=rank, alpha=alpha)


def _family(family: str | None, model: str | None) -> tuple[Family, str | None]:
    """The family, and the model's name where one was asked for.  A hub id or folder is counted by loading its config."""
    for known in FAMILIES:
        for spec in known.models:
            if model in (spec.name, spec.source) and family in (None, known.name):
                return known, spec.name
    if model is None or family is not None:
        return family_named(family or "nano"), model
    from isoembed.encoder.shapes import spec_from_config

    spec = spec_from_config(model)
    return Family(name="custom", models=(spec,), about=f"the model at {model}"), spec.name


def _bytes(text: str | None) -> float | None:
    """`4GiB`, `500MB`, `2e9` -> bytes."""
    if text is None:
        return None
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "": 1}
    for unit, scale in units.items():
        if unit and not text.endswith(unit):
            continue
        try:
            value = float(text.removesuffix(unit)) * scale
        except ValueError:
            break
        if value > 0:
            return value
    raise InputError(f"`--memory` must be a size, as 4GiB or 500MB; got {text!r}.")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, width=None if sys.stdout.isatty() else 140)


def recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON, with the recipe's derived numbers beside its fields."""
    value = recommendation.model_dump(mode="json")
    for entry, recipe in [
        (value["recipe"], recommendation.recipe),
        *(
            (other["recipe"], candidate.recipe)
            for other, candidate in zip(value["runners_up"], recommendation.runners_up)
        ),
    ]:
        entry.update(
            key=recipe.key,
            flop=recipe.flop,
            pairs=recipe.pairs,
            steps=recipe.steps,
            epochs=recipe.epochs,
            forward_params=recipe.cost.forward,
            backward_params=recipe.cost.backward,
            updated_params=recipe.cost.updated,
        )
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
    device: DeviceName = "h100",
    count: Count = 1,
    hours: Hours = None,
    utilisation: Utilisation = None,
    dollars: Dollars = None,
    dollars_per_hour: DollarsPerHour = None,
    batch_pairs: BatchPairs = None,
    context_tokens: ContextTokens = None,
    learning_rate: LearningRate = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Name the best recipe for a budget, with what is known and what is assumed."""
    chosen, name = _family(family, model)
    recommendation = recommend(
        _budget(budget, device, count, hours, utilisation, dollars, dollars_per_hour),
        chosen,
        method=_method(method, fraction, rank, alpha),
        model=name,
        batch_pairs=batch_pairs,
        context_tokens=context_tokens,
        learning_rate=learning_rate,
        seed=seed,
    )
    if as_json:
        _print_json(recommendation_json(recommendation))
    else:
        from isoembed.report.text import recommendation_text

        _console().print(recommendation_text(recommendation, device))


def main() -> None:
    """Run the command line.  A user's mistake is one line on standard error and exit status 2; `--debug` shows more."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except InputError as error:
        if debug:
            raise
        typer.echo(f"isoembed: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
