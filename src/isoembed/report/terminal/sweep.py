"""Plans and the state of sweeps as aligned text for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.core import number_of
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, RunRecord
from isoembed.report.terminal.layout import columns_table, duration, pairs_table, si
from isoembed.report.terminal.recommendation import recipe_rows, spent_text
from isoembed.sweep.pilot import DEAR_SHARE, candidates, pilot_sizes
from isoembed.sweep.plan import Plan
from isoembed.sweep.repetition import Repeated
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.stage import AT_ODDS, OF_SEARCH, REMEDIES, REPETITION, SkipKind, Skipped, Stage, StageKind
from isoembed.sweep.status import RunState, SweepStatus, stage_costs
from isoembed.sweep.variations import Varied

_PURPOSE: dict[StageKind, str] = {
    "rates": "peak learning rate by method, size, hyperparameter and horizon",
    "noise": "how far losses differ by seed alone",
    "budget": "loss by method, hyperparameter and size",
    "pilot": "what most sharpens the decision, per FLOP",
    "replicates": "the best runs of the highest budget with the other seeds",
    "variations": "other pooling and options, on each method's best run of the highest budget",
    "repetition": "the best runs of the highest budget on few unique pairs, repeated",
}


def plan_text(
    request: SweepRequest, plan: Plan, most: Plan, new: int | None, worded: Callable[[str], str] = str
) -> RenderableType:
    """What a sweep runs next, what it can come to cost, what it leaves out and why; `new` is None in a dry run.

    worded: a remedy, which names fields, as it is printed.
    """
    speeds = ", ".join(f"{name} {si(speed, 'FLOP/s')}" for name, speed in request.speeds.items())
    limits = [
        f"{request.allowance_flop:.3g} FLOP" if request.allowance_flop else "",
        duration(request.allowance_seconds) if request.allowance_seconds else "",
    ]
    time = "" if most.seconds is None else f", {duration(most.seconds)} here"
    rows = [
        ("models", f"{', '.join(size.name for size in request.sizes) or 'none'} ({request.family.name})"),
        ("methods", ", ".join(request.methods)),
        ("budgets", ", ".join(f"{budget:.3g}" for budget in request.budgets) + " FLOP"),
        ("data", f"{request.data.pairs or 0:,} unique pairs, {request.data.tokens_per_pair:.1f} tokens per pair"),
        ("each run", f"batch {request.batch_pairs}, context {request.context_tokens}, {request.min_steps} steps or "
                      f"more, at most {number_of(request.max_epochs, 'epoch')}"),
        ("allowance", " and ".join(filter(None, limits)) or "none: all are run"),
        ("at most", f"{number_of(len(most.runs), 'run')}, {most.flop:.3g} FLOP{time}, before pruning"),
        *_variations_row(request),
        *_repetition_row(request),
        ("speed here", speeds or "not measured"),
        ("now", f"stage {plan.stage}: {'nothing written (dry run)' if new is None else number_of(new, 'new run')}"
                f"{', the sweep is complete' if plan.complete and new == 0 else ''}"),
    ]  # fmt: skip
    stages = columns_table(
        ("stage", "runs", "FLOP", "what it is for"),
        [
            (str(stage), f"{count:,}", f"{flop:.3g}", _PURPOSE[stage.kind])
            for stage, (count, flop) in stage_costs(most).items()
        ],
    )
    parts: list[RenderableType] = [pairs_table(rows), *((Text(""), stages) if most.runs else ())]
    if plan.rates:
        parts += [Text(""), rates_text(plan)]
    if most.skipped:
        left_out = (plan if plan.complete or plan.part == REPETITION else most).skipped
        parts += [Text(""), pairs_table((name, worded(why)) for name, why in skipped_rows(left_out))]
    if not most.runs:
        parts += [Text(""), Text("No run is planned: each is left out for a reason above.")]
    return Group(*parts)


def _variations_row(request: SweepRequest) -> list[tuple[str, str]]:
    if not request.variations:
        return []
    count = len(request.methods) * len(request.variations) * len(request.seeds)
    flop = count * request.budgets[-1]
    return [("variations", f"each method's best run with {number_of(len(request.variations), 'other setting')}: "
                           f"{number_of(count, 'run')} or fewer, {flop:.3g} FLOP more")]  # fmt: skip


def _repetition_row(request: SweepRequest) -> list[tuple[str, str]]:
    if not request.pairs:
        return []
    count = len(request.methods) * min(3, len(request.sizes)) * len(request.pairs)
    flop = count * request.budgets[-1]
    return [("repetition", f"each method's best size and those beside it on {_listed(request.pairs)} unique pairs "
                           f"alone, at most {number_of(request.max_pair_epochs, 'epoch')}: "
                           f"{number_of(count, 'run')} or fewer, {flop:.3g} FLOP more")]  # fmt: skip


def _listed(pairs: Sequence[int]) -> str:
    """`2,000, 8,000 or 16,000`."""
    *first, last = (f"{count:,}" for count in pairs)
    return f"{', '.join(first)} or {last}" if first else last


def pilot_text(request: SweepRequest, plan: Plan, new: int | None) -> RenderableType:
    """What a pilot runs next, for which decision, and what its runs say so far; `new` is None in a dry run."""
    assert request.allowance_flop is not None
    assert request.target_flop is not None
    unpaid = {skip.method_name for skip in plan.skipped if skip.kind == "method-unpaid"}
    decided = [r for r in candidates(request).values() if r.method.name not in unpaid]
    slowest = min(request.speeds.values(), default=None)
    time = "" if slowest is None else f", at most {duration(request.allowance_flop / slowest)} here"
    grid = f"{request.budgets[0]:.3g} to {request.budgets[-1]:.3g} FLOP"
    rows = [
        ("decides", f"between {len(decided)} candidates at {request.target_flop:.3g} FLOP: "
                    f"{', '.join(dict.fromkeys(r.method.name for r in decided))} on "
                    f"{', '.join(dict.fromkeys(r.model.name for r in decided))}"),
        *_limits_row(request),
        ("spends", f"at most {request.allowance_flop:.3g} FLOP{time}"),
        ("runs", f"{', '.join(request.models)}, {grid} each, {request.min_steps} steps or more, at most "
                 f"{number_of(request.max_epochs, 'epoch')}"),
        ("data", f"{request.data.pairs or 0:,} unique pairs, {request.data.tokens_per_pair:.1f} tokens per pair"),
        ("stops", "when the same candidate was chosen 3 times in a row at a small expected regret, or the allowance "
                  "is spent"),
        ("now", f"stage {plan.stage}: {'nothing written yet' if new is None else number_of(new, 'new run')}"),
    ]  # fmt: skip
    share = request.allowance_flop / (request.allowance_flop + request.target_flop)
    if share > DEAR_SHARE:
        dear = "the one pilot that was measured at such a share, of 47%, ended behind the rule that costs nothing"
        rows.append(("price", f"{share:.0%} of all FLOP: {dear}"))
    if plan.pilot is not None:
        rows.append(("so far", plan.pilot.decision.describe()))
        if plan.pilot.stop is not None:
            rows.append(("ended", plan.pilot.why))
    rows += [("left out", f"{skip.reason}: {skip.why}") for skip in plan.skipped if skip.kind == "method-unpaid"]
    stages = columns_table(
        ("stage", "runs", "FLOP", "of which"),
        [
            (str(stage), f"{count:,}", f"{flop:.3g}", _runs(plan, stage))
            for stage, (count, flop) in stage_costs(plan).items()
        ],
    )
    return Group(pairs_table(rows), Text(""), stages)


def _limits_row(request: SweepRequest) -> list[tuple[str, str]]:
    if not request.size_limits:
        return []
    left, every = pilot_sizes(request), request.family.models
    return [("limits", f"{len(left)} of {number_of(len(every), 'size')} are left, up to {left[-1].name}")]


def _runs(plan: Plan, stage: Stage) -> str:
    """How many runs of which method: `6 full, 6 lora`."""
    counts = Counter(run.recipe.method.name for run in plan.runs if run.part == stage)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def skipped_rows(skipped: Sequence[Skipped]) -> Iterator[tuple[str, str]]:
    """Runs left out, summed by reason, with what would have them planned; those of the search for learning rates
    apart, whose budgets nobody asked for."""
    groups: dict[tuple[bool, SkipKind, str], list[Skipped]] = {}
    for each in skipped:
        groups.setdefault((each.of_search, each.kind, each.reason), []).append(each)
    small, large = (
        {each.budget for each in skipped if each.kind in kinds and not each.of_search}
        for kinds in (("no-recipe", "few-steps"), ("repeats",))
    )
    for (of_search, kind, reason), found in groups.items():
        budgets = {each.budget for each in found}
        at_odds = not of_search and bool(budgets & small & large)
        remedy = (OF_SEARCH if of_search else AT_ODDS if at_odds else REMEDIES).get(kind, REMEDIES[kind])
        models = list(dict.fromkeys(each.model for each in found))
        sizes = models[0] if len(models) == 1 else f"{models[0]} to {models[-1]}"
        where = "in the search for learning rates" if of_search else f"at {_ranged([*budgets])} FLOP"
        yield f"{number_of(len(found), 'run')} left out", f"{reason}, {where} on {sizes}: {remedy}"


def _ranged(values: Sequence[float]) -> str:
    """`1e+11`, or `1e+11 to 4e+11`."""
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values))))


def rates_text(plan: Plan) -> RenderableType:
    """The measured rule for the learning rate of each method."""
    rows = [
        (
            name,
            f"{fit.law.params:+.2f}",
            f"{fit.law.steps:+.2f}",
            f"{fit.law.share:+.2f}",
            f"{fit.noise:.2f}",
            f"{len(fit.optima)}",
            f"{sum(optimum.edge is not None for optimum in fit.optima)}",
        )
        for name, fit in plan.rates.items()
    ]
    header = ("learning rate", "ln N", "ln steps", "ln share", "noise", "settings", "best on the edge")
    return columns_table(header, rows)


def status_text(status: SweepStatus) -> RenderableType:
    """Runs by stage and state, FLOP spent, time left; what failed and what is damaged."""
    rows = [
        (
            stage.stage,
            f"{stage.done:,}",
            f"{stage.running:,}",
            f"{stage.failed:,}",
            f"{stage.left:,}",
            f"{stage.flop_done:.3g}",
            f"{stage.flop_planned:.3g}",
        )
        for stage in status.stages
    ]
    left = "no run has ended yet"
    if status.seconds_left is not None:
        left = duration(status.seconds_left / max(1, status.count("running")))
    parts: list[RenderableType] = [
        columns_table(("stage", "done", "running", "failed", "left", "FLOP spent", "FLOP planned"), rows),
        Text(f"time spent by workers on the runs that ended well: {duration(status.seconds_spent)}"),
        Text(f"time left in the stages planned so far: {left}"),
    ]
    if not rows:
        parts = [Text("no run is planned")]
    if status.variations:
        parts += [Text(""), variations_text(status.variations)]
    if status.repetition:
        parts += [Text(""), repetition_text(status.repetition)]
    parts += [
        Text(
            f"running {key}: no sign of life from its worker, on another machine or in another container, for "
            f"{seconds:.0f} s; a `sweep run` takes it over after watching it"
        )
        for key, seconds in status.silent.items()
    ]
    parts += [Text(f"failed {key}: {why}") for key, why in status.failures.items()]
    parts += [Text(f"passed over {file}: {why}") for file, why in status.damaged.items()]
    return Group(*parts)


def variations_text(found: Sequence[Varied]) -> RenderableType:
    """Other pooling and options beside the sweep's own; below zero they are better."""
    rows = [
        (
            each.variation,
            each.method,
            each.model,
            f"{each.loss:.3f}",
            f"{each.plain_loss:.3f}",
            f"{each.difference:+.3f}",
            f"{each.runs}",
        )
        for each in found
    ]
    return columns_table(("variation", "method", "model", "held-out loss", "without", "difference", "runs"), rows)


def repetition_text(found: Sequence[Repeated]) -> RenderableType:
    """Repeated pairs beside the same recipes on data that do not repeat."""
    rows = [
        (
            each.method,
            each.model,
            f"{each.unique_pairs:,}",
            f"{each.epochs:.1f}",
            f"{each.loss:.3f}",
            f"{each.fresh_loss:.3f}",
            f"{each.difference:+.3f}",
            f"{each.runs}",
        )
        for each in found
    ]
    header = ("method", "model", "unique pairs", "epochs", "held-out loss", "one epoch", "difference", "runs")
    return columns_table(header, rows)


def runs_text(runs: Sequence[RunState]) -> RenderableType:
    """Every planned run: what it is and where it stands."""
    rows = [
        (
            run.key,
            run.stage,
            run.model,
            run.method,
            f"{run.flop:.3g}",
            f"{run.seed}",
            run.state,
            "" if run.loss is None else f"{run.loss:.3f}",
        )
        for run in runs
    ]
    return columns_table(("key", "stage", "model", "method", "FLOP", "seed", "state", "held-out loss"), rows)


def planned_run_text(recipe: Recipe, outcome: RunRecord | FailedRun | None) -> RenderableType:
    """One run: its recipe and what came of it."""
    parts: list[RenderableType] = [pairs_table([("key", recipe.key), *recipe_rows(recipe)]), Text("")]
    if outcome is None:
        parts.append(Text("not run yet"))
    elif isinstance(outcome, FailedRun):
        parts.append(pairs_table([("failed", failure) for failure in outcome.failures]))
    else:
        parts.append(spent_text(outcome))
        parts.append(pairs_table([(name, f"{value:.3f}") for name, value in outcome.scores.items()]))
    return Group(*parts)
