"""The pilot of a job: ask, run, fit.  Its folder is a sweep's, so that it survives whatever a sweep survives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from isoembed.core import InputError, StoppedError
from isoembed.encoder.precision import AskedPrecision
from isoembed.families.base import Family, ModelSpec
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.notes import FitNote, remark
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.notes import Refusal, refusal, refusal_of
from isoembed.pilot.choose import PilotBatch
from isoembed.pilot.notes import PilotNote
from isoembed.pilot.posterior import NEAR
from isoembed.pilot.runs import LEAST_STEPS, PilotRun, least_runs, near_envelope, relative_variance
from isoembed.recipe import DataStats, Setup, check_width
from isoembed.records import RunRecord
from isoembed.sweep.advance import explain, plan_sweep
from isoembed.sweep.folder import SweepFolder
from isoembed.sweep.pilot import as_possible_run, pilot_budgets, pilot_methods, pilot_stage, pilot_target
from isoembed.sweep.request import SweepRequest
from isoembed.workflows.job import DataOptions
from isoembed.workflows.sweep import prepare_request, run_sweep, tokenizer_of

#: of each law's bootstrap
DRAWS = 400


@dataclass(frozen=True)
class Pilot:
    """What a pilot came to."""

    laws: LawSet | None
    """None: no basis for a recommendation"""
    runs: int
    flop: float
    """spent on all its runs, failed ones and the search for learning rates included"""
    facts: tuple[PilotNote | FitNote | Refusal, ...]
    """why it ended; where there are no laws, why not"""


def pilot_draft(
    family: Family, setup: Setup, methods: Sequence[str], target_flop: float, allowance_flop: float
) -> SweepRequest:
    """What a pilot on all sizes of `family` is asked for, before its data and weights are read."""
    if setup.options.teacher is not None:
        raise InputError("A pilot compares runs by their own FLOP, not a teacher's; leave `teacher` out, or the pilot.")
    return SweepRequest(
        **dict(setup),
        family=family,
        models=tuple(model.name for model in family.models),
        methods=tuple(methods),
        budgets=(target_flop,),
        data=DataStats.assumed(setup.context_tokens),
        target_flop=target_flop,
        allowance_flop=allowance_flop,
    )


def prepare_pilot(
    request: SweepRequest,
    data: DataOptions,
    *,
    cache: Path,
    budgets: Sequence[float] | None = None,
    precision: AskedPrecision = "fp32",
) -> SweepRequest:
    """The request of a pilot for its `target_flop`: data tokenised, and the weights hashed of every size that it may
    run.

    budgets: of its runs, FLOP; default: `pilot_budgets`.
    precision: as in `prepare_request`.
    Raises PilotTooSmallError where the allowance does not pay for the runs that a recommendation needs.
    """
    pairs = data.prepare(tokenizer_of(request), request, cache=cache)
    if not len(pairs.heldout):
        raise InputError("A pilot compares losses on held-out pairs, and the data leave none; give `heldout`.")
    request = request.model_copy(update={"data": pairs.stats, "min_steps": LEAST_STEPS})
    grid = tuple(sorted(budgets)) if budgets else pilot_budgets(request)
    step_tokens = request.batch_pairs * pairs.stats.tokens_per_pair
    names = [
        model.name
        for model in _wide_enough(request)
        if any(
            method.cost(model).flop_per_token * LEAST_STEPS * step_tokens <= grid[-1]
            for method in pilot_methods(request, model)
        )
    ]
    request = request.model_copy(update={"models": tuple(names), "budgets": grid})
    return prepare_request(request, data, cache=cache, precision=precision)


def _wide_enough(request: SweepRequest) -> list[ModelSpec]:
    """The sizes whose embeddings can have the dimensions that are asked for; raises InputError where none can."""
    found, errors = [], []
    for model in request.sizes:
        try:
            check_width(model, request.options)
        except InputError as error:
            errors.append(error)
        else:
            found.append(model)
    if errors and not found:
        raise errors[-1]  # of the widest
    return found


def run_pilot(
    folder: Path, request: SweepRequest, *, workers: int | None = None, watch: Callable[[SweepFolder], None]
) -> Pilot:
    """Plan and run the pilot in `folder`, from wherever it stands, and fit what it measured.

    Raises InputError where `folder` holds another sweep, StoppedError where the pilot was stopped before its end.
    """
    plan_sweep(folder, request)
    run_sweep(folder, workers=workers or workers_here(), watch=watch)
    plan = explain(SweepFolder(folder), request)
    if not plan.complete or plan.pilot is None:
        raise StoppedError(f"The pilot in {folder} was stopped before its end; go on with `resume`.")
    return fit_pilot(SweepFolder(folder), request, plan.pilot)


def fit_pilot(folder: SweepFolder, request: SweepRequest, choice: PilotBatch) -> Pilot:
    """The laws of a finished pilot, for `isoembed.recommendation.recommend`, fitted as the planner fits them."""
    stages = {run.key: run for run in folder.runs()}
    outcomes = [outcome for outcome in folder.ledger.outcomes() if outcome.key in stages]
    inherited = sum(outcome.inherited_flop for outcome in outcomes if isinstance(outcome, RunRecord))
    flop = sum(outcome.recipe.flop for outcome in outcomes) - inherited
    records = [o for o in outcomes if isinstance(o, RunRecord) and o.heldout and pilot_stage(stages[o.key])]
    if not choice.decision.trusted:
        return Pilot(None, len(records), flop, choice.decision.notes)
    laws, left_out = pilot_laws(records, request)
    return Pilot(laws, len(records), flop, (choice.reason,) if laws else left_out)


def pilot_laws(records: Sequence[RunRecord], request: SweepRequest) -> tuple[LawSet | None, tuple[FitNote, ...]]:
    """One Hoffmann law per method, of the runs near the envelope, those near the target weighing more; None where no
    method has the runs for it.

    The methods that have not are the other value, and named in the laws' notes.
    """
    assert request.target_flop is not None
    target = pilot_target(request)
    found: list[LawFile] = []
    left_out: list[FitNote] = []
    # the embedding law reads the trained share, and so groups by the method's name whatever the rank on each size
    for group in group_runs(records, [law_named("embedding")], source="the pilot"):
        own = [records[row - 1] for row in group.rows]
        runs = [
            PilotRun(planned=as_possible_run(record.key, record.recipe), loss=record.heldout.loss)
            for record in own
            if record.heldout is not None
        ]
        near = {run.planned.key for run in near_envelope(runs, NEAR, least_runs(HOFFMANN))}
        keep_R = np.array([record.key in near for record in own])
        kept = [run.planned for run in runs if run.planned.key in near]
        chosen = group.only(keep_R)
        far = len(own) - len(kept)
        chosen = replace(
            chosen,
            points=replace(chosen.points, weight=1 / relative_variance(kept, target)),
            facts=(*group.facts, remark("far-above", runs=far)) if far else group.facts,
            repeats=None,
            widths=(),
        )
        try:
            if len(kept) < least_runs(HOFFMANN):
                raise InputError(refusal("few-for-law", runs=len(kept), least=least_runs(HOFFMANN)))
            found.append(study([HOFFMANN], chosen, source="pilot", draws=DRAWS, by=("largest-budget",)))
        except InputError as error:
            left_out.append(remark("left-out", method=str(group.method), error=refusal_of(error)))
    laws = LawSet(laws=tuple(law.with_facts(*left_out) for law in found)) if found else None
    return laws, tuple(left_out)


def workers_here() -> int:
    """Processes for a pilot's small runs: one a core, or one where a GPU runs them."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def memory_here() -> float:
    """Bytes that a run on this machine can have: the GPU's memory, or the machine's."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total)
