"""A pilot as a sweep: each batch of runs that the planner chooses is one stage, planned when the one before has ended.

What could be run: each method at its middle hyperparameter, every size, a grid of budgets far below the target.  What
is decided: which of those methods on which size of the family is best at the target budget, one epoch of the data at
most.  `isoembed.pilot.choose` chooses; whatever runs sweeps runs this one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from isoembed.budget import Budget
from isoembed.core import InputError, number_of
from isoembed.families.base import ModelSpec
from isoembed.laws.hoffmann import HOFFMANN
from isoembed.methods import Method
from isoembed.notes import refusal
from isoembed.pilot.choose import PilotBatch, eligible, plan_next
from isoembed.pilot.decide import Decision
from isoembed.pilot.runs import LEAST_RUNS, LEAST_STEPS, PilotRun, PilotTarget, PossibleRun, cheapest, least_runs, price
from isoembed.pilot.start import START_MOST, START_SHARE, methods_paid_for
from isoembed.recipe import Recipe
from isoembed.recommendation.constraints import Constraints, SizeLimits
from isoembed.recommendation.request import MIN_STEPS, CompleteRequest, Request
from isoembed.records import RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.plan import Planner, branch_of, variants
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.stage import SkipCount, SkipRemedy, Stage, skip

#: in this order methods enter while the allowance pays for their start
PILOT_METHODS = ("full", "lora", "freeze", "bias")
#: from one budget of the grid to the next
BUDGET_FACTOR = 1.25
#: of all FLOP, above which a pilot's price is spoken of: at .09 one paid, at .47 one did not (docs/pilot.md)
DEAR_SHARE = 0.25
#: the most expensive run, as a share of the allowance
LARGEST_SHARE = START_SHARE


class PilotTooSmallError(InputError):
    """An allowance that does not pay for the runs that a recommendation needs."""


def pilot_budgets(request: SweepRequest) -> tuple[float, ...]:
    """The budget grid: from `LEAST_STEPS` steps of the cheapest model to `LARGEST_SHARE` of the allowance, in FLOP."""
    if request.target_flop is None or request.allowance_flop is None:
        raise InputError("A pilot needs a target budget and an allowance in FLOP; give both.")
    every = [request.family.model(name) for name in request.models]
    left = request.within(request.family, every, request, request.data)
    lowest = min(_least_flop(request, left))
    highest = max(LARGEST_SHARE * request.allowance_flop, lowest)
    steps = math.floor(math.log(highest / lowest) / math.log(BUDGET_FACTOR) + 1e-9)
    return tuple(lowest * BUDGET_FACTOR**step for step in range(steps + 1))


def _least_flop(request: SweepRequest, sizes: Sequence[ModelSpec]) -> list[float]:
    """What `LEAST_STEPS` steps of the first method cost on each size, FLOP; a step more than needed: recipes round."""
    tokens = 1.02 * LEAST_STEPS * request.batch_pairs * request.data.tokens_per_pair
    return [pilot_methods(request, size)[0].cost(size).flop_per_token * tokens for size in sizes]


def pilot_methods(request: SweepRequest, model: ModelSpec) -> list[Method]:
    """Each method of the request on `model`, as a pilot runs it."""
    return [middle(name, model, request.alpha_per_rank) for name in request.methods]


def middle(name: str, model: ModelSpec, alpha_per_rank: float) -> Method:
    """The method at the middle one of the hyperparameters that a sweep would try."""
    found = variants(name, model, alpha_per_rank)
    return found[len(found) // 2]


def candidates(request: SweepRequest) -> dict[str, Recipe]:
    """What could be run at the target budget, by name: a pilot decides between these."""
    assert request.target_flop is not None
    asked = _asked(request)
    found: dict[str, Recipe] = {}
    for model in asked.models:
        for method in pilot_methods(request, model):
            try:
                recipe = asked.recipe(request.target_flop, model, method, most_epochs=1.0)
            except InputError:
                continue  # too expensive for one step, or too large for the memory
            if recipe.steps >= MIN_STEPS:
                found[f"{method.label} on {model.name}"] = recipe
    pairs = request.data.pairs
    if not found and pairs is not None and pairs // request.batch_pairs < MIN_STEPS:
        raise PilotTooSmallError(
            f"A pilot decides between recipes of {MIN_STEPS} steps or more and one epoch at most; {pairs:,} pairs are "
            f"{number_of(pairs // request.batch_pairs, 'step')} of {request.batch_pairs}. "
            "Lower `batch_pairs`, or add pairs."
        )
    if not found:
        raise InputError(
            f"The target budget must pay for {MIN_STEPS} steps of a model; {request.target_flop:.3g} FLOP do not."
        )
    return found


def pilot_sizes(request: SweepRequest) -> tuple[ModelSpec, ...]:
    """The sizes that a pilot decides between, smallest first: those that no limit leaves out.  Raises InputError where
    that leaves none."""
    return _asked(request).models


def _asked(request: SweepRequest) -> CompleteRequest:
    """The recommendation that a pilot is run for."""
    return Request(
        budget=Budget.parse(repr(request.target_flop)),
        family=request.family,
        data=request.data,
        constraints=Constraints(
            device_memory=request.max_bytes,
            **{name: getattr(request, name) for name in SizeLimits.model_fields},
        ),
    ).complete(request.setup)


def pilot_target(request: SweepRequest) -> PilotTarget:
    """The target budget with all of its candidates."""
    assert request.target_flop is not None
    found = tuple(as_possible_run(key, recipe) for key, recipe in candidates(request).items())
    return PilotTarget(flop=request.target_flop, candidates=found)


def as_possible_run(key: str, recipe: Recipe) -> PossibleRun:
    """A recipe as the planner sees it.  Methods are told apart by name: each has one hyperparameter here."""
    return PossibleRun(
        key=key,
        params=recipe.model.params,
        tokens=recipe.train_tokens,
        flop=recipe.flop,
        method=recipe.method.name,
        fraction=recipe.cost.trained_share,
        steps=recipe.steps,
        branch=branch_of(recipe),
        trunk_flop=recipe.trunk_flop,
    )


def pilot_stage(run: PlannedRun) -> bool:
    """Whether the run is one of the pilot itself, not of the search for learning rates."""
    return run.part.kind == "pilot"


class PilotPlanner(Planner):
    """Plans a pilot as far as what has ended allows."""

    def _stages(self) -> Iterator[tuple[Stage, list[PlannedRun]]]:
        request = self.request
        assert request.allowance_flop is not None
        yield from self._rate_stages()
        target = pilot_target(request)
        runs = self._paid_for(self._pool(), target)
        methods = {run.recipe.method.name for run in runs.values()}
        decided = tuple(run for run in target.candidates if run.method in methods)
        if not decided:
            raise InputError("No run of the pilot is long enough within its allowance; raise it or the budget.")
        target = target.model_copy(update={"candidates": decided})
        decisions: list[Decision] = []
        for number in count(1):
            open_runs = tuple(as_possible_run(key, run.recipe) for key, run in runs.items())
            self.pilot = _choice(
                self._ended(),
                open_runs,
                target,
                max(0.0, request.allowance_flop - self.flop),
                tuple(decisions),
            )
            if self.pilot.stop is not None:
                return
            decisions.append(self.pilot.decision)
            part = Stage(kind="pilot", batch=number)
            # a run is asked for once, whether it fails or the allowance refuses it
            chosen = [runs.pop(each.key).model_copy(update={"part": part}) for each in self.pilot.runs]
            for together in _rungs(chosen):
                yield part, together

    def _ended(self) -> tuple[PilotRun, ...]:
        """What the pilot's runs came to."""
        return tuple(
            PilotRun(planned=as_possible_run(key, run.recipe), loss=outcome.heldout.loss)
            for key, run in self.runs.items()
            if pilot_stage(run)
            and isinstance(outcome := self.outcomes.get(key), RunRecord)
            and outcome.heldout is not None
        )

    def _pool(self) -> dict[str, PlannedRun]:
        """All runs that the pilot could make, by key."""
        found: dict[str, PlannedRun] = {}
        for budget in self.request.budgets:
            for model in self.models:
                for method in pilot_methods(self.request, model):
                    for run in self._planned(model, method, budget, Stage(kind="pilot", batch=0)):
                        found[run.key] = run
        return found

    def _paid_for(self, runs: dict[str, PlannedRun], target: PilotTarget) -> dict[str, PlannedRun]:
        """The runs of the first methods whose starts the allowance pays for together.

        Raises PilotTooSmallError where it does not pay for `LEAST_RUNS` runs of the first one.
        """
        assert self.request.allowance_flop is not None
        most = START_MOST * self.request.allowance_flop
        possible = eligible([as_possible_run(key, run.recipe) for key, run in runs.items()], target, HOFFMANN)
        first = cheapest([run for run in possible if run.method == self.request.methods[0]], LEAST_RUNS)
        if len(first) < LEAST_RUNS or price(first) > most:
            needed = self._needed(first)
            known: dict[str, float] = {"runs": LEAST_RUNS, "steps": LEAST_STEPS}
            if needed <= self.request.allowance_flop and self.skipped:
                raise PilotTooSmallError(refusal("pilot-runs", possible=len(first), **self._left_out_most(), **known))
            known["allowance"] = self.request.allowance_flop
            raise PilotTooSmallError(refusal("pilot-allowance", needed=needed, **known))
        kept, cost = methods_paid_for(self.request.methods, possible, self.request.allowance_flop)
        for name in self.request.methods:
            if name not in kept:
                method = next(m for m in pilot_methods(self.request, self.models[0]) if m.name == name)
                unpaid = skip(
                    "method-unpaid",
                    runs=least_runs(HOFFMANN),
                    method=name,
                    flop=cost[name],
                    allowance=self.request.allowance_flop,
                )
                self._skip(self.models[0], method, self.request.budgets[0], unpaid)
        return {key: run for key, run in runs.items() if run.recipe.method.name in kept}

    def _needed(self, first: Sequence[PossibleRun]) -> float:
        """The allowance, FLOP, of which the runs of the first method can be a start: those `first` ones, or where there
        are too few, the cheapest of the grid that a larger allowance would have."""
        if len(first) < LEAST_RUNS:
            least = _least_flop(self.request, self.models)
            steps = math.ceil(math.log(max(least) / min(least)) / math.log(BUDGET_FACTOR)) + LEAST_RUNS
            budgets = [min(least) * BUDGET_FACTOR**step for step in range(steps)]
            larger = [
                self._stand_in(budget, model)
                for budget in budgets
                for model, flop in zip(self.models, least, strict=True)
                if budget >= flop
            ]
            first = cheapest(larger, LEAST_RUNS)
        return max(price(first) / START_MOST, max(run.flop for run in first) / LARGEST_SHARE)

    def _stand_in(self, budget: float, model: ModelSpec) -> PossibleRun:
        """What a run of the first method on `model` would cost, alone and on its branch."""
        branches, share = self.request.branches, 1 - self.request.options.decay_fraction
        return PossibleRun(
            key=f"{model.name} {budget:.3g}",
            params=model.params,
            tokens=budget / pilot_methods(self.request, model)[0].cost(model).flop_per_token,
            flop=budget,
            branch=model.name if branches else None,
            trunk_flop=share * budget if branches else 0.0,
        )

    def _left_out_most(self) -> dict[str, Any]:
        """Why runs are left out, and what would have those of the most frequent reason."""
        reasons = Counter(each.fact.code for each in self.skipped).most_common()
        why = tuple(SkipCount(code=code, fields={"runs": count}) for code, count in reasons)
        return {"why": why, "remedy": SkipRemedy(code=reasons[0][0])}


def _rungs(runs: Sequence[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """The runs of a batch, those that go on from others of it after them."""
    left = list(runs)
    while left:
        shortest: dict[str, PlannedRun] = {}
        for run in sorted(left, key=lambda run: run.recipe.train_tokens):
            shortest.setdefault(branch_of(run.recipe) or run.key, run)
        now = [run for run in left if run in shortest.values()]
        yield now
        left = [run for run in left if run not in now]


@lru_cache(maxsize=64)
def _choice(
    done: tuple[PilotRun, ...],
    runs: tuple[PossibleRun, ...],
    target: PilotTarget,
    allowance_left: float,
    earlier: tuple[Decision, ...],
) -> PilotBatch:
    """`plan_next`, remembered: a plan is made again from the start each time, and each choice takes a bootstrap."""
    return plan_next(done, runs, target, allowance_left=allowance_left, earlier=earlier)
