"""The command line: which commands there are.  Each has a file; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from isoembed.cli import (
    boundary,
    cache,
    catalogue,
    certify,
    data,
    ledger,
    merge,
    published,
    push,
    recipe,
    report,
    run,
    search,
    sweep,
    sweep_plan,
    terminal,
    trim,
    validate,
)
from isoembed.cli import eval as evaluation
from isoembed.cli import fit as fitting
from isoembed.cli.boundary import Bounded, Command, Commands
from isoembed.cli.groups import grouped
from isoembed.core import InputError

MARKUP: Literal["rich"] | None = "rich" if terminal.is_one() else None  # no boxes into a pipe
HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=Bounded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings=HELP,
    help="Name a compute budget; get the best recipe for a text embedding model, trained and proven.",
)
COMMANDS: dict[str | None, dict[str, Callable[..., None]]] = {
    None: {
        "recipe": recipe.recipe,
        "run": run.run,
        "train": run.train,
        "fit": fitting.fit,
        "validate": validate.validate,
        "eval": evaluation.evaluate,
        "certify": certify.certify,
        "push": push.push,
        "search": search.search,
        "models": catalogue.models,
        "published": published.published,
        "trim": trim.trim,
        "merge": merge.merge,
        "report": report.report,
        "figure": report.figure,
        "cache": cache.cache,
    },
    "data": {"inspect": data.inspect, "mine": data.mine},
    "sweep": {
        "plan": sweep_plan.plan,
        "run": sweep.run,
        "status": sweep.status,
        "list": sweep.list_runs,
        "retry": sweep.retry,
        "show": sweep.show,
    },
    "ledger": {"export": ledger.export, "correlate": ledger.correlate, "subset": ledger.subset},
}
ABOUT = {
    "data": "Look at data before training on them.",
    "sweep": "Plan and run IsoFLOP sweeps: your models, your data, any budgets.",
    "ledger": "Work with the records of a sweep.",
}


def _assemble() -> None:
    for group, commands in COMMANDS.items():
        place = app if group is None else typer.Typer(cls=Commands, no_args_is_help=True, help=ABOUT[group])
        for name, command in commands.items():
            place.command(name, cls=Command)(grouped(command))
        if group is not None:
            app.add_typer(place, name=group)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        terminal.say(f"isoembed {version('isoembed')}")
        raise typer.Exit


@app.callback()
def general(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and stop", callback=_say_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error too")] = False,
) -> None:
    """Options of every command."""


_assemble()


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
