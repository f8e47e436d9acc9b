"""`isoembed fit`: scaling laws of anybody's runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from isoembed.cli import terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.options import AsJson
from isoembed.core import InputError, check_named

if TYPE_CHECKING:
    from isoembed.fitting.drift import Drift
    from isoembed.fitting.io.law_file import LawFile, LawSet
    from isoembed.fitting.io.runs import RunsSchema


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """What the columns of a table are called."""

    panel: ClassVar[str] = "Data"

    params_col: Annotated[str | None, typer.Option(help="column of N; in a ledger params or total_params")] = None
    tokens_col: Annotated[str | None, typer.Option(help="column of D")] = None
    loss_col: Annotated[str | None, typer.Option(help="column of the loss")] = None
    flop_col: Annotated[str | None, typer.Option(help="column of C; in a ledger model_flop or all_in_flop")] = None
    fraction_col: Annotated[str | None, typer.Option(help="column of S, the trained share")] = None
    run_col: Annotated[
        str | None, typer.Option(help="column of the run that a row is a checkpoint of; default: run, run_id")
    ] = None
    weight_col: Annotated[str | None, typer.Option(help="column of weights")] = None
    method_col: Annotated[str | None, typer.Option(help="column of the method: one law per method")] = None

    def named(self) -> dict[str, str]:
        """Column of a run -> its name in the table, where one was given; the method's is apart."""
        given = {each.name.removesuffix("_col"): getattr(self, each.name) for each in fields(ColumnOptions)}
        return {column: name for column, name in given.items() if name is not None and column != "method"}


@dataclass(frozen=True, kw_only=True)
class TableOptions(ColumnOptions):
    """What the runs of a table are, with their columns; of a ledger, the loss that is fitted."""

    candidates: Annotated[
        int | None, typer.Option(min=2, help="texts among which a table's loss finds the right one: for odds laws")
    ] = None
    family: Annotated[
        str | None,
        typer.Option(
            help="family of the models in a table whose losses are contrastive; without it the law serves fits and "
            "figures, and no recipe"
        ),
    ] = None
    target: Annotated[str, typer.Option(help="loss of a ledger's runs: heldout or training")] = "heldout"

    def schema(self) -> RunsSchema:
        """The same for reading; raises InputError for a loss that is none."""
        from isoembed.fitting.io.runs import RunsSchema

        if self.target not in ("heldout", "training"):
            raise InputError(f"`--target` must be heldout or training, the loss to fit; got {self.target!r}.")
        return RunsSchema(
            columns=self.named(),
            method_column=self.method_col,
            candidates=self.candidates,
            family=self.family,
            target="training" if self.target == "training" else "heldout",
        )


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Which laws are fitted, and how."""

    panel: ClassVar[str] = "Law"

    law: Annotated[
        str | None,
        typer.Option(
            help="hoffmann, tied, embedding, power, multiplicative, frantar, rectified, interaction; hoffmann-odds, "
            "frantar-odds, interaction-odds, bounded by chance; several (a,b) or best are compared on hold-outs; "
            "default hoffmann"
        ),
    ] = None
    level_from: Annotated[
        Path | None, typer.Option(help="law.json whose shape holds: these runs on other pairs set its level alone")
    ] = None
    delta: Annotated[float | None, typer.Option(help="Huber width in ln loss; default: tied to the noise")] = None
    bootstrap: Annotated[int, typer.Option(min=0, max=100_000, help="refits to resampled runs; 0: no intervals")] = 1000
    holdout: Annotated[str, typer.Option(help="largest-size, largest-budget, largest (both) or none")] = "largest"


def fit(
    ctx: typer.Context,
    table: Annotated[Path, typer.Argument(help="CSV or Parquet of runs, or a ledger")],
    how: FitOptions,
    runs: TableOptions,
    out: Annotated[
        Path, typer.Option(help="file that --law of recipe, run and train takes", rich_help_panel="Output")
    ] = Path("law.json"),
    as_json: AsJson = False,
) -> None:
    """Fit a scaling law to runs of anybody's, with intervals and its forecast of what was held out."""
    from isoembed.fitting.study import HOLDOUTS

    check_named("--holdout", how.holdout, HOLDOUTS)
    schema = runs.schema()
    laws = _fitted(table, how, schema) if how.level_from is None else _levelled(table, how, schema)
    laws.save(out)
    if as_json:
        shown = [
            each.model_dump(
                mode="json", exclude={"draws": True, "repetition": {"draws"}, "forms": {"__all__": {"draws"}}}
            )
            | {"optimum": found and found.model_dump(mode="json"), "drift": _drift_json(each.drift)}
            for each in laws.laws
            for found in [each.compute_optimum()]
        ]
        terminal.print_json(shown[0] if len(shown) == 1 else {"format": laws.format, "laws": shown})
    else:
        from isoembed.report.terminal.laws import laws_text

        flagged = tuple(_flagged(law, ctx) for law in laws.laws)
        terminal.console().print(laws_text(laws.model_copy(update={"laws": flagged})), f"\nlaw in {out}", markup=False)


def _drift_json(drift: Drift) -> dict[str, float | None] | None:
    if not drift.tests:
        return None
    error = drift.error if math.isfinite(drift.error) else None
    return {**asdict(drift), "error": error, "shift": drift.shift}


def _flagged(law: LawFile, ctx: typer.Context) -> LawFile:
    """The law as it is shown: its notes name the command's options, not fields."""
    voice = partial(with_flags, ctx=ctx)
    return law.model_copy(update={"facts": tuple(fact.spoken(voice) for fact in law.facts)})


def _fitted(table: Path, how: FitOptions, schema: RunsSchema) -> LawSet:
    from isoembed.fitting.study import HOLDOUTS, study_source
    from isoembed.laws import laws_named

    laws = laws_named(how.law or "hoffmann")
    return study_source(table, laws, schema, draws=how.bootstrap, delta=how.delta, by=HOLDOUTS[how.holdout])


def _levelled(table: Path, how: FitOptions, schema: RunsSchema) -> LawSet:
    """The laws of `--level-from` at the level of the runs in `table`."""
    from isoembed.fitting.io.law_file import LawSet
    from isoembed.fitting.io.runs import read_runs
    from isoembed.fitting.level import levelled
    from isoembed.laws import law_named

    unset = FitOptions()
    given = [name for name in ("law", "delta", "bootstrap", "holdout") if getattr(how, name) != getattr(unset, name)]
    if given:
        raise InputError(
            f"`--level-from` moves a law that is fitted already; got --{given[0]} too: leave out one of the two."
        )
    assert how.level_from is not None
    laws = LawSet.load(how.level_from)
    forms = [law_named(name) for name in dict.fromkeys(law.law for law in laws.laws)]
    return levelled(laws, read_runs(table, forms, schema), table.name)
