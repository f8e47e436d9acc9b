"""`isoembed run --pilot`: explain the pilot, run it, say what it found and what is left to spend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from isoembed.budget import Budget
from isoembed.cache import begin_work
from isoembed.cli import terminal
from isoembed.cli.boundary import with_flags
from isoembed.cli.parse import share_of
from isoembed.cli.sweep import watching
from isoembed.cli.sweep_plan import plan_json
from isoembed.core import InputError
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import suited
from isoembed.notes import refusal_of
from isoembed.recommendation.notes import RecipeNote, note
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation

if TYPE_CHECKING:
    from rich.console import Console

    from isoembed.cache import Places
    from isoembed.cli.run import ChosenRecipe
    from isoembed.sweep.request import SweepRequest
    from isoembed.workflows.pilot import Pilot


def check(request: Request, **given: object) -> None:
    """Raise InputError where something is fixed (`given`, by option) that the pilot is there to choose, or where it
    could not run."""
    if fixed := [option for option, value in given.items() if value is not None]:
        raise InputError(f"A pilot chooses method and model itself; leave {' and '.join(fixed)} out.")
    if request.budget.epochs is not None:
        raise InputError("A pilot chooses within a budget of FLOP, time or money; give one beside --epochs.")
    if request.constraints.serving_tokens:
        raise InputError("A pilot decides for training alone; leave --serving-tokens out, or give `recipe` its law.")
    if len(request.family.models) < 2:
        raise InputError(f"A pilot compares sizes; {request.family.name} has one. Name a --family of several models.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "A pilot runs before torchrun: `isoembed sweep plan --adaptive`, `sweep run`, then this with --law."
        )


def pilot_first(
    chosen: ChosenRecipe, share: str, console: Console, places: Places
) -> tuple[Budget, LawSet | None, Pilot] | None:
    """Spend `share` of the budget on a pilot: what is left of it, the laws found (None: none to go by), and the pilot
    itself; None after a dry run.  Its laws and the records of its runs are left in the output folder."""
    from isoembed.report.terminal.recommendation import section
    from isoembed.report.terminal.sweep import pilot_text
    from isoembed.sweep.advance import explain
    from isoembed.sweep.folder import SweepFolder
    from isoembed.sweep.pilot import PilotTooSmallError
    from isoembed.sweep.request import REQUEST
    from isoembed.workflows.pilot import Pilot, run_pilot
    from isoembed.workflows.sweep import measure_pace

    asked, out = chosen.asked, chosen.asked.output.out
    folder = places.pilot
    if (folder / REQUEST).is_file() and not (asked.execution.resume or asked.output.dry_run):
        raise InputError(f"{out} holds a pilot already; go on with it by --resume, or give another --out.")
    flop = chosen.spend.paid_flop
    allowance = share_of(flop, share, "--pilot")
    methods = _allowed(chosen.request)

    def say(pilot: Pilot) -> None:
        console.print(found_note(pilot, flop).spoken(partial(with_flags, ctx=chosen.ctx)).describe(), markup=False)

    console.print(section("Pilot"))
    try:
        request = _request(chosen, flop - allowance, allowance, methods, places)
        plan = explain(SweepFolder(folder), request)
    except PilotTooSmallError as error:
        pilot = Pilot(laws=None, runs=0, flop=0.0, facts=(refusal_of(error),))
        say(pilot)
        return chosen.spend, None, pilot
    request = request.model_copy(update=measure_pace(request))
    console.print(pilot_text(request, plan, None))
    if asked.output.dry_run:
        if asked.output.as_json:
            terminal.print_json(plan_json(request, plan, None))
        return None
    begin_work(out, places.work, resume=asked.execution.resume)
    with watching(SweepFolder(folder), console) as watch:
        pilot = run_pilot(folder, request, watch=watch)
    ledger = SweepFolder(folder).ledger
    ledger.export(out / "pilot.jsonl.gz", [record.published() for record in ledger.records()])
    if pilot.laws is not None:
        pilot.laws.save(out / "law.json")
    say(pilot)
    left = flop - pilot.flop
    return Budget(stated=f"{flop:.3g} FLOP, {left:.3g} after the pilot", flop=left), pilot.laws, pilot


def _allowed(request: Request) -> Sequence[str]:
    from isoembed.sweep.pilot import PILOT_METHODS

    asked = request.constraints.methods
    if asked is None:
        return suited(PILOT_METHODS, request.family.models)
    if not (allowed := [name for name in PILOT_METHODS if name in asked]):
        raise InputError(f"A pilot runs {', '.join(PILOT_METHODS)}; --methods allows none of them.")
    return allowed


def _request(
    chosen: ChosenRecipe, target_flop: float, allowance_flop: float, methods: Sequence[str], places: Places
) -> SweepRequest:
    from isoembed.encoder.precision import precision_named
    from isoembed.workflows.pilot import memory_here, pilot_draft, prepare_pilot

    asked = chosen.request.complete()
    sizes = asked.constraints.within(asked.family, asked.family.models, asked, asked.data)
    family = asked.family.model_copy(update={"models": tuple(sizes)})
    draft = pilot_draft(family, asked.setup, methods, target_flop, allowance_flop)
    draft = draft.model_copy(update={"max_bytes": memory_here()})
    precision = precision_named(chosen.asked.execution.precision)
    return prepare_pilot(draft, chosen.asked.data.value(), cache=places.tokens, precision=precision)


def found_note(pilot: Pilot, flop: float) -> RecipeNote:
    """What the pilot cost and came to: what a recommendation rests on, or, where it came to nothing, a warning."""
    if not pilot.runs:
        return note("warning", "pilot-none", why=pilot.facts)
    cost = {"runs": pilot.runs, "flop": pilot.flop, "share": pilot.flop / flop, "why": pilot.facts}
    return note("warning", "pilot-in-vain", **cost) if pilot.laws is None else note("known", "pilot-ended", **cost)


def noted(recommendation: Recommendation, pilot: Pilot, flop: float) -> Recommendation:
    """The recommendation with the pilot among what it rests on, or among its warnings."""
    return recommendation.model_copy(update={"notes": (*recommendation.notes, found_note(pilot, flop))})
