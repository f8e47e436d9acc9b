"""A sweep on disk planned as far as its ledger allows."""

from __future__ import annotations

from pathlib import Path

from isoembed.sweep.folder import SweepFolder
from isoembed.sweep.pilot import PilotPlanner
from isoembed.sweep.plan import Plan, Planner
from isoembed.sweep.request import SweepRequest, keep_request, load_request


def plan_sweep(ledger: Path, request: SweepRequest | None = None) -> tuple[Plan, int]:
    """Plan as far as the ledger allows and write the new runs; returns the plan and how many runs are new.

    request: kept as of `keep_request`; None goes on with the one that is there.
    """
    first = load_request(ledger) if request is None else keep_request(ledger, request)
    folder = SweepFolder(ledger)
    plan = explain(folder, first)
    return plan, folder.add_runs(list(plan.runs))


def explain(folder: SweepFolder, request: SweepRequest) -> Plan:
    """The plan as far as the outcomes in `folder` allow; writes nothing."""
    outcomes = {outcome.key: outcome for outcome in folder.ledger.outcomes()}
    runs = folder.runs()
    done = [(run, outcomes[run.key]) for run in runs if run.key in outcomes]
    before = {each.key: each.recipe.learning_rate for each in (*runs, *outcomes.values())}
    return (Planner if request.target_flop is None else PilotPlanner)(request, done, before).plan()
