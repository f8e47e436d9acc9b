"""What a sweep runs, stage by stage, as a pure function of what was asked for and what has ended so far.

1. `rates`: the peak learning rate per method, size, hyperparameter and horizon (`isoembed.sweep.rates`).
2. `noise`: a few runs of the second budget with every seed of the replicates, before anything is compared.
3. one stage a budget, cheapest first: every method with its hyperparameters on every size.  From the third budget on
   only sizes within a factor of the method's best so far, moved along with the budget, and only hyperparameters beside
   the best one: where the optimum cannot be, nothing is spent.
4. `replicates`: the best few runs of the highest budget with the other seeds.
5. `variations`: the best run of each method at the highest budget with every pooling and option that was asked for.
6. `repetition`: the best run of each method at the highest budget, and those of the sizes beside it, on so many unique
   pairs alone, repeated for as many epochs as the budget pays for.

With the schedule wsd a run of a larger budget extends that of a smaller one (`Recipe.extended`): at its rate, which is
searched for at the smallest budget alone, and with its warm-up, so that a budget grid costs about its largest run
and the ends of the others.

Near-optimum runs come first within a stage, so that an allowance that ends early has been spent well.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import ClassVar

from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.estimates import recipe_memory
from isoembed.families.base import ModelSpec
from isoembed.methods import Method, method_type
from isoembed.notes import refusal_of
from isoembed.pilot.choose import PilotBatch
from isoembed.recipe import Recipe, Setup, affordable, price_of, solve
from isoembed.records import FailedRun, Outcome, RunRecord
from isoembed.sweep.folder import LOST, PlannedRun
from isoembed.sweep.rates import EXTENSIONS, RateFit, beyond, fit_rates, optima
from isoembed.sweep.repetition import unfit
from isoembed.sweep.request import RateSearch, SweepRequest, some_of
from isoembed.sweep.stage import (
    NOISE,
    RATES,
    REPETITION,
    REPLICATES,
    VARIATIONS,
    SkipNote,
    Skipped,
    Stage,
    skip,
)
from isoembed.sweep.variations import Variation

#: runs replicated before the grid and after it
NOISE_RUNS = 6
REPLICATED_RUNS = 8
#: of the prior rate: one that is none of a search's
_NO_RATE_TRIED = 1.001


class Plan(Frozen):
    """The runs of all stages that can be planned by now, and what they leave out."""

    runs: tuple[PlannedRun, ...] = Field(serialization_alias="cells")
    skipped: tuple[Skipped, ...]
    rates: dict[str, RateFit] = Field({}, description="the learning rate's rule by method, once measured")
    flop: float = Field(description="of all runs")
    seconds: float | None = Field(description="of all runs here, one after another; None where no speed was measured")
    stage: str = Field(description="the last stage planned, in words; none before the first")
    part: Stage | None = Field(None, description="the last stage planned")
    complete: bool = Field(description="no further stage will follow")
    pilot: PilotBatch | None = Field(None, description="of a pilot: what its runs say so far, and why it stopped")


def variants(name: str, model: ModelSpec, alpha_per_rank: float) -> list[Method]:
    """A method with each hyperparameter studied on `model`."""
    return list(method_type(name).grid(model, alpha_per_rank))


def at_most(request: SweepRequest) -> Plan:
    """Every run that the sweep could come to hold, replicates, variations and repetition apart: the plan in which
    nothing is pruned, because every run fails."""
    runs: dict[str, PlannedRun] = {}
    while True:
        failed = [
            (run, FailedRun(recipe=run.recipe, key=key, notes=(LOST.note,), created="")) for key, run in runs.items()
        ]
        plan = _Unpruned(request, failed).plan()
        if plan.complete:
            return plan
        runs = {run.key: run for run in plan.runs}


def branch_of(recipe: Recipe) -> str | None:
    """Equal for runs of which a longer one may extend a shorter one; None where none may."""
    if recipe.trunk_tokens is None:
        return None
    return f"{recipe.key_without('train_tokens', 'warmup_tokens')} {recipe.whole_warmup_tokens}"


class Planner:
    """Plans as far as what has ended allows."""

    #: of the search's factor: the rates of a setting, lowest first
    _RATE_POWERS: ClassVar[tuple[int, ...]] = (-1, 0, 1)

    def __init__(
        self,
        request: SweepRequest,
        done: Iterable[tuple[PlannedRun, Outcome]],
        before: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """before: the learning rates, by key, of further runs that were planned or made."""
        done = list(done)
        self.request = request
        self.models = request.sizes
        self.outcomes = {run.key: outcome for run, outcome in done}
        self.before = {**before, **{run.key: run.recipe.learning_rate for run, _ in done}}
        self.rates_before = sorted(set(self.before.values()))
        self.runs: dict[str, PlannedRun] = {}
        #: whose trunk is kept, of those that differ in their length alone
        self.trunks: defaultdict[str | None, list[PlannedRun]] = defaultdict(list)
        self.skipped: list[Skipped] = []
        self.rates: dict[str, RateFit] = {}
        self.pilot: PilotBatch | None = None
        self.flop = self.seconds = 0.0

    def plan(self) -> Plan:
        """All stages whose predecessors have ended."""
        complete, last = True, None
        for part, runs in self._stages():
            last = part
            planned = [run for run in runs if self._add(run)]
            if any(run.key not in self.outcomes for run in planned):
                complete = False
                break
        return Plan(
            runs=tuple(self.runs.values()),
            skipped=tuple(self.skipped),
            rates=self.rates,
            flop=self.flop,
            seconds=self.seconds if self.request.speeds else None,
            stage=str(last or "none"),
            part=last,
            complete=complete,
            pilot=self.pilot,
        )

    def _stages(self) -> Iterator[tuple[Stage, list[PlannedRun]]]:
        """Each stage with its runs; the next is asked for only when all of these have ended."""
        request = self.request
        yield from self._rate_stages()
        if len(request.seeds) > 1 and len(request.budgets) > 1:
            yield NOISE, self._noise_runs()
        for index, budget in enumerate(request.budgets):
            yield Stage(kind="budget", budget=budget), self._budget_runs(index, budget)
        if len(request.seeds) > 1:
            yield REPLICATES, self._replicates()
        if request.variations:
            yield VARIATIONS, self._variations()
        if request.pairs:
            yield REPETITION, self._repetition()

    # ---- stages ----

    def _rate_stages(self) -> Iterator[tuple[Stage, list[PlannedRun]]]:
        """The search for learning rates, widened where the best one lies on an edge; then its rules hold."""
        if self.request.rates is None:
            return
        yield RATES, self._rate_runs(self.request.rates)
        asked: set[str] = set()  # where the allowance refuses a run, it is not asked for again
        while more := [run for run in self._beyond_edges() if run.key not in asked]:
            asked |= {run.key for run in more}
            yield RATES, more
        self.rates = fit_rates(optima(self._records()))

    def _rate_runs(self, search: RateSearch) -> list[PlannedRun]:
        runs = []
        for model in self._rate_models(search):
            for method in self._rate_methods(model):
                for flop, steps in self._horizons(search, model, method):
                    centre = self._prior_rate(model, method, steps)
                    for power in self._RATE_POWERS:
                        runs += self._planned(model, method, flop, RATES, rate=centre * search.factor**power)
        return sorted(runs, key=lambda run: run.recipe.flop)

    def _rate_models(self, search: RateSearch) -> list[ModelSpec]:
        """The models of the search; where a limit leaves one of them out, some of those that are left."""
        names: tuple[str, ...] = search.models
        if {size.name for size, _ in self.request.left_out} & set(names):
            names = some_of(tuple(model.name for model in self.models))
        return [self.request.family.model(name) for name in names]

    def _horizons(self, search: RateSearch, model: ModelSpec, method: Method) -> list[tuple[float, int]]:
        """FLOP and steps of the runs that look for a rate."""
        if not search.steps:
            return [self._first_rung(model, method)]
        price = price_of(method.cost(model), self.request.options, self.request.data)
        step_tokens = self.request.batch_pairs * self.request.data.tokens_per_pair
        return [(price.flop(steps * step_tokens), steps) for steps in search.steps]

    def _rate_methods(self, model: ModelSpec) -> list[Method]:
        """The lowest and the highest hyperparameter of each method: the rule runs between them."""
        methods: list[Method] = []
        for name in self.request.methods:
            found = variants(name, model, self.request.alpha_per_rank)
            methods += found if len(found) < 3 else [found[0], found[-1]]
        return methods

    def _beyond_edges(self) -> list[PlannedRun]:
        """One more rate where the best one so far lies on the edge of those tried."""
        runs = []
        records = {run.key: run for run in self.runs.values() if run.part == RATES}
        for optimum in optima(self._records()):
            rate = beyond(optimum, first=3)
            if rate is None:
                continue
            like = next(
                run.recipe
                for run in records.values()
                if (run.recipe.method, run.recipe.model.name, run.recipe.steps)
                == (optimum.method, optimum.model, optimum.steps)
            )
            run = PlannedRun(recipe=like.model_copy(update={"learning_rate": rate}), part=RATES)
            if run.key not in self.runs:
                runs.append(run)
        return runs

    def _noise_runs(self) -> list[PlannedRun]:
        """Every method's middle hyperparameter, and full once more on another size, with all seeds."""
        if not self.models:
            return []
        budget = self.request.budgets[1]
        middle = self.models[len(self.models) // 3]
        chosen: list[PlannedRun] = []
        for name in (*self.request.methods, *self.request.methods):
            model = middle if len(chosen) < len(self.request.methods) else self.models[len(self.models) // 3 - 1]
            found = variants(name, model, self.request.alpha_per_rank)
            chosen += self._planned(model, found[len(found) // 2], budget, NOISE)
        return [run.with_seed(seed) for run in chosen[:NOISE_RUNS] for seed in self.request.seeds]

    def _budget_runs(self, index: int, budget: float) -> list[PlannedRun]:
        runs = []
        for name in self.request.methods:
            self._leave_out(name, budget)
            best = self._best(name, self.request.budgets[:index]) if index >= 2 and self.request.prune else None
            for model in self.models:
                for method in variants(name, model, self.request.alpha_per_rank):
                    if best is not None and (pruned := self._pruned(best, model, method, budget)):
                        self._skip(model, method, budget, pruned)
                        continue
                    runs += self._planned(model, method, budget, Stage(kind="budget", budget=budget), scored=True)
        return sorted(runs, key=lambda run: self._distance(run, index))

    def _leave_out(self, name: str, budget: float) -> None:
        """Entries in `skipped` for the runs of a method on sizes above a limit."""
        request = self.request
        for model, limit in request.left_out:
            seen = request.measured(limit, model, request.setup, request.data)
            why = skip(limit, seen=seen, most=getattr(request, limit))
            for method in variants(name, model, request.alpha_per_rank):
                self._skip(model, method, budget, why)

    def _replicates(self) -> list[PlannedRun]:
        """The best few runs of the highest budget, whatever their method, with the other seeds."""
        top = [run for run, record in self._grid(self.request.budgets[-1:])][:REPLICATED_RUNS]
        return [
            run.with_seed(seed).model_copy(update={"part": REPLICATES})
            for seed in self.request.seeds[1:]
            for run in top
        ]

    def _variations(self) -> list[PlannedRun]:
        """Each method's best run at the highest budget, changed in one thing at a time, with every seed."""
        runs = []
        for name in self.request.methods:
            if (best := self._best(name, self.request.budgets)) is None:
                continue
            recipe, budget = best[0].recipe, best[1]
            for variation in self.request.variations:
                runs += self._planned(
                    recipe.model, recipe.method, budget, VARIATIONS, rate=recipe.learning_rate, scored=True,
                    variation=variation,
                )  # fmt: skip
        return [run.with_seed(seed) for seed in self.request.seeds for run in runs]

    def _repetition(self) -> list[PlannedRun]:
        """Each method's best run at the highest budget, and those of the sizes beside it, on few pairs, repeated."""
        runs = []
        for name in self.request.methods:
            if (best := self._best(name, self.request.budgets)) is None:
                continue
            recipe, budget = best[0].recipe, best[1]
            by_size: dict[str, Recipe] = {}
            for run, _ in self._grid([budget], name):
                by_size.setdefault(run.recipe.model.name, run.recipe)
            sizes = sorted(self.models, key=lambda model: model.params)
            place = sizes.index(recipe.model)
            for model in sizes[max(0, place - 1) : place + 2]:
                if model.name not in by_size:
                    self._skip(model, recipe.method, budget, skip("no-fresh-run", model=model.name, flop=budget))
                    continue
                for pairs in self.request.pairs:
                    single_epoch = by_size[model.name]
                    if why_not := unfit(single_epoch, pairs, self.request.max_pair_epochs):
                        self._skip(model, single_epoch.method, budget, why_not)
                        continue
                    repeated = single_epoch.model_copy(update={"unique_pairs": pairs})
                    runs.append(PlannedRun(recipe=repeated, part=REPETITION, scored=bool(self.request.tasks)))
        return runs

    # ---- what earlier stages say ----

    def _records(self) -> list[RunRecord]:
        """Of the search for learning rates."""
        found = [self.outcomes.get(key) for key, run in self.runs.items() if run.part == RATES]
        return [outcome for outcome in found if isinstance(outcome, RunRecord)]

    def _grid(self, budgets: Sequence[float], method: str | None = None) -> list[tuple[PlannedRun, RunRecord]]:
        """The grid's finished runs at these budgets, lowest held-out loss first."""
        found = [
            (record.heldout.loss, key, run, record)
            for key, run in self.runs.items()
            if run.part.kind == "budget"
            and run.part.budget in budgets
            and method in (None, run.recipe.method.name)
            and isinstance(record := self.outcomes.get(key), RunRecord)
            and record.heldout is not None
        ]
        return [(run, record) for _, _, run, record in sorted(found, key=lambda entry: entry[:2])]

    def _best(self, method: str, budgets: Sequence[float]) -> tuple[PlannedRun, float] | None:
        """The method's best run at the highest budget that has one, and that budget."""
        for budget in reversed(budgets):
            grid = self._grid([budget], method)
            if grid:
                return grid[0][0], budget
        return None

    def _pruned(
        self, best: tuple[PlannedRun, float], model: ModelSpec, method: Method, budget: float
    ) -> SkipNote | None:
        """Why this run is left out; None where it stays."""
        assert self.request.prune is not None
        run, at = best
        expected = run.recipe.model.params * math.sqrt(budget / at)
        if abs(math.log(model.params / expected)) > math.log(self.request.prune):
            return skip("far-size", prune=self.request.prune, expected=expected)
        here = [m.share(model) for m in variants(method.name, model, self.request.alpha_per_rank)]
        own, wanted = method.share(model), run.recipe.method.share(run.recipe.model)
        nearest = min(range(len(here)), key=lambda index: abs(math.log(here[index] / wanted)))
        if abs(here.index(own) - nearest) > 1:
            return skip("far-hyperparameter", best=run.recipe.method.label)
        return None

    def _distance(self, run: PlannedRun, index: int) -> float:
        """How far a run's size lies from the expected best: those near it run first."""
        best = self._best(run.recipe.method.name, self.request.budgets[:index])
        middle = self.models[len(self.models) // 2].params
        expected = middle if best is None else best[0].recipe.model.params * 2.0
        return abs(math.log(run.recipe.model.params / expected))

    # ---- runs ----

    def _planned(
        self, model: ModelSpec, method: Method, flop: float, part: Stage, *, rate: float | None = None,
        scored: bool = False, variation: Variation | None = None,
    ) -> list[PlannedRun]:  # fmt: skip
        """The run, or none with an entry in `skipped`."""
        request = self.request
        setup = request.setup if variation is None else variation.of(request.setup)
        try:
            recipe = self._recipe(model, method, flop, setup, rate)
        except InputError as error:
            self._skip(model, method, flop, skip("no-recipe", error=refusal_of(error)), part)
            return []
        if unfit := self._unfit(recipe, part):
            self._skip(model, method, flop, unfit, part)
            return []
        known = {"base_hash": request.base_hashes.get(model.name), "precision": request.precision}
        recipe = self._as_before(recipe.model_copy(update=known))
        return [PlannedRun(recipe=recipe, part=part, scored=scored and bool(request.tasks))]

    def _recipe(self, model: ModelSpec, method: Method, flop: float, setup: Setup, rate: float | None) -> Recipe:
        """The recipe that spends `flop`, at the rate that its steps ask for where none is named; in a sweep whose runs
        branch it extends the first rung's, which is the smallest budget's."""
        request, tokens = self.request, affordable(flop, model, method, setup, self.request.data)
        rung, steps = flop, setup.steps_of(tokens, request.data)
        if request.branches:
            first, of_first = self._first_rung(model, method)
            rung, steps = (first, of_first) if first < flop else (flop, steps)
        rate = self._rate(model, method, steps) if rate is None else rate
        seed, name = request.seeds[0], request.family.name
        recipe = solve(rung, model, method, rate, setup, request.data, family=name, seed=seed)
        return recipe.extended(tokens) if rung < flop else recipe

    def _first_rung(self, model: ModelSpec, method: Method) -> tuple[float, int]:
        """The smallest budget that pays for a run long enough, and its steps."""
        request = self.request
        for budget in request.budgets:
            with suppress(InputError):
                tokens = affordable(budget, model, method, request.setup, request.data)
                if (steps := request.setup.steps_of(tokens, request.data)) >= request.min_steps:
                    return budget, steps
        return request.budgets[-1], request.min_steps

    def _unfit(self, recipe: Recipe, part: Stage) -> SkipNote | None:
        """Why this recipe is not run; None where it is."""
        request = self.request
        if recipe.steps < request.min_steps and part != RATES:
            return skip("few-steps", steps=recipe.steps, least=request.min_steps)
        if recipe.epochs is not None and recipe.epochs > request.max_epochs:
            return skip("repeats", epochs=recipe.epochs)
        need = recipe_memory(recipe).least
        if request.max_bytes is not None and need > request.max_bytes:
            return skip("memory", gib=need / 2**30)
        return None

    def _rate(self, model: ModelSpec, method: Method, steps: int) -> float:
        if method.name in self.rates:
            return self.rates[method.name].law.rate(model.params, steps, method.share(model))
        return self._prior_rate(model, method, steps)

    def _as_before(self, recipe: Recipe) -> Recipe:
        """The rate is part of a run's key, and least squares end in other last digits on another processor: a run that
        was planned before and is equal but for these is meant."""
        if recipe.key in self.before:
            return recipe
        low, high = (recipe.learning_rate * (1 + off) for off in (-1e-9, 1e-9))
        near = self.rates_before[bisect_left(self.rates_before, low) : bisect_right(self.rates_before, high)]
        found = (recipe.model_copy(update={"learning_rate": rate}) for rate in near)
        return next((each for each in found if each.key in self.before), recipe)

    def _prior_rate(self, model: ModelSpec, method: Method, steps: int) -> float:
        return self.request.family.peak_rate(model, method, steps=steps)[0]

    def _add(self, run: PlannedRun) -> bool:
        """Take the run into the plan; False where the allowance does not pay for it."""
        request, recipe = self.request, run.recipe
        if run.key in self.runs:
            return True
        run, outcome = self._branched(run), self.outcomes.get(run.key)
        ended = outcome if isinstance(outcome, RunRecord) else None
        # the trunk that an ended run was to go on from may have been lost
        before = ended or run
        flop = self.flop + recipe.total_flop - before.inherited_flop - before.inherited_teacher_flop
        seconds = self.seconds + self._seconds(run)
        if ended is None and (
            (request.allowance_flop is not None and flop > request.allowance_flop)
            or (request.allowance_seconds is not None and seconds > request.allowance_seconds)
        ):
            self._skip(recipe.model, recipe.method, recipe.total_flop, skip("allowance"), run.part)
            return False
        self.flop, self.seconds = flop, seconds
        self.runs[run.key] = run.model_copy(update={"order": len(self.runs)})
        if run.keeps_trunk and self._leaves_trunk(outcome):
            self.trunks[branch_of(recipe)].append(run)
        return True

    def _leaves_trunk(self, outcome: Outcome | None) -> bool:
        return not isinstance(outcome, FailedRun)

    def _branched(self, run: PlannedRun) -> PlannedRun:
        """The run with that of the plan which it extends: of those of its branch that are shorter, the longest one."""
        if not self.request.branches:
            return run
        recipe = run.recipe
        keeps = run.part.kind in ("noise", "budget", "pilot") and recipe.total_flop < 0.99 * self.request.budgets[-1]
        known: dict[str, object] = {"keeps_trunk": keeps}
        shorter = [each for each in self.trunks[branch_of(recipe)] if each.recipe.train_tokens < recipe.train_tokens]
        if shorter:
            last = max(shorter, key=lambda each: each.recipe.train_tokens)
            trunk = {"inherited_flop": last.recipe.trunk_flop, "inherited_teacher_flop": last.recipe.trunk_teacher_flop}
            known |= {"extends": last.key, **trunk}
        return run.model_copy(update=known)

    def _seconds(self, run: PlannedRun) -> float:
        """Time the run takes here, the first one with what comes before it; 0 where nothing was measured."""
        request, name = self.request, run.recipe.model.name
        if not (speed := request.speeds.get(name)):
            return 0.0
        before = 0.0 if self.runs else request.startup_seconds
        return before + request.run_seconds.get(name, 0.0) + run.own_flop / speed

    def _skip(self, model: ModelSpec, method: Method, budget: float, why: SkipNote, part: Stage | None = None) -> None:
        by_steps = part == RATES and self.request.rates is not None and bool(self.request.rates.steps)
        self.skipped.append(
            Skipped(
                model=model.name,
                method=method.label,
                method_name=method.name,
                budget=budget,
                of_search=by_steps,
                fact=why,
            )
        )


class _Unpruned(Planner):
    """Plans as if every run had ended without a loss that could rule others out: every setting's search is widened as
    far as it may be, and then has a rate of its own."""

    _RATE_POWERS: ClassVar[tuple[int, ...]] = tuple(range(-1, 2 + EXTENSIONS))

    def _rate(self, model: ModelSpec, method: Method, steps: int) -> float:
        return self._prior_rate(model, method, steps) * (1.0 if self.request.rates is None else _NO_RATE_TRIED)

    def _leaves_trunk(self, outcome: Outcome | None) -> bool:
        return True
