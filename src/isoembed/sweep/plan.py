"""What a sweep runs, stage by stage, as a pure function of what was asked for and what has ended so far.

1. `rates`: the peak learning rate per method, size, hyperparameter and horizon (`isoembed.sweep.rates`).
2. `noise`: a few cells of the second budget with every seed of the replicates, before anything is compared.
3. one stage a budget, cheapest first: every method with its hyperparameters on every size.  From the third budget on
   only sizes within a factor of the method's best so far, moved along with the budget, and only hyperparameters beside
   the best one: where the optimum cannot be, nothing is spent.
4. `replicates`: the best few cells of the highest budget with the other seeds.
5. `variations`: the best cell of each method at the highest budget with every readout and option that was asked for.
6. `repetition`: the best cell of each method at the highest budget, and those of the sizes beside it, on so many unique
   pairs alone, repeated for as many passes as the budget pays for.

Near-optimum cells come first within a stage, so that an allowance that ends early has been spent well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from isoembed.core import LARGEST, Frozen, InputError
from isoembed.estimates import recipe_memory
from isoembed.families.base import Family, ModelSpec
from isoembed.methods import Method, method_type
from isoembed.pilot.choose import PilotBatch
from isoembed.recipe import DataStats, Recipe, Setup, affordable, solve
from isoembed.records import FailedRun, RunRecord
from isoembed.sweep.folder import Cell
from isoembed.sweep.rates import RateFit, beyond, fit_rates, optima
from isoembed.sweep.repetition import MAX_PASSES, unfit
from isoembed.sweep.stage import (
    NOISE,
    RATES,
    REASONS,
    REPETITION,
    REPLICATES,
    VARIATIONS,
    SkipKind,
    Skipped,
    Stage,
    Why,
)
from isoembed.sweep.variations import Variation

#: cells replicated before the grid and after it
NOISE_CELLS = 6
REPLICATED_CELLS = 8

Outcome = RunRecord | FailedRun


class RateSearch(Frozen):
    """The pre-sweep: `models` x `steps` horizons, three rates a `factor` apart around the family's own rule."""

    models: tuple[str, ...]
    steps: tuple[int, ...] = (100, 300)
    factor: float = Field(2.5, gt=1)


class SweepRequest(Setup):
    """What a sweep was asked for; `sweep.json`."""

    format: Literal[1] = 1
    family: Family
    models: tuple[str, ...]
    base_hashes: dict[str, str] = Field({}, description="model -> hash of its weights")
    methods: tuple[str, ...] = ("full", "freeze", "bias", "lora")
    budgets: tuple[float, ...] = Field(min_length=1, description="FLOP, ascending")
    data: DataStats
    variations: tuple[Variation, ...] = Field((), description="readouts and options for the best cells once more")
    pairs: tuple[int, ...] = Field((), description="unique pairs, on which alone the best cells are trained once more")
    max_passes: float = Field(MAX_PASSES, gt=1, description="over these pairs; cells of more are left out")
    alpha_per_rank: float = Field(2.0, description="LoRA's alpha over its rank, the same for every rank")
    seeds: tuple[int, ...] = (0,)
    min_steps: int = Field(30, ge=1, le=LARGEST)
    max_epochs: float = 1.0
    max_bytes: float | None = Field(None, description="memory of the machine; cells that need more are left out")
    thin: float | None = Field(4.0, gt=1, description="keep sizes within this factor of the expected best; None: all")
    rates: RateSearch | None = None
    target_flop: float | None = Field(
        None, gt=0, description="plan a pilot for this budget (`isoembed.sweep.pilot`); needs `allowance_flop`"
    )
    allowance_flop: float | None = Field(None, description="what all cells together may cost")
    allowance_seconds: float | None = Field(None, description="how long all cells together may take here")
    speeds: dict[str, float] = Field({}, description="model -> model FLOP/s measured here, all workers together")
    run_seconds: dict[str, float] = Field({}, description="model -> seconds of a run here beside its steps")
    startup_seconds: float = Field(0.0, description="from the start of a worker here to its first run")
    data_options: dict[str, str | int | None] = Field({}, description="how to open the pairs again")
    tasks: tuple[str, ...] = Field((), description="folders of evaluation tasks on which the grid's cells are scored")

    @model_validator(mode="after")
    def _pilot_has_an_allowance(self) -> Self:
        if self.target_flop is not None and self.allowance_flop is None:
            raise ValueError(f"a pilot for {self.target_flop:.3g} FLOP needs an allowance: name `allowance_flop`")
        return self


class Plan(Frozen):
    """The cells of all stages that can be planned by now, and what they leave out."""

    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    rates: dict[str, RateFit] = Field({}, description="the learning rate's rule by method, once measured")
    flop: float = Field(description="of all cells")
    seconds: float | None = Field(description="of all cells here, one after another; None where no speed was measured")
    stage: str = Field(description="the last stage planned, in words; none before the first")
    part: Stage | None = Field(None, description="the last stage planned")
    complete: bool = Field(description="no further stage will follow")
    pilot: PilotBatch | None = Field(None, description="of a pilot: what its runs say so far, and why it stopped")


def variants(name: str, model: ModelSpec, alpha_per_rank: float) -> list[Method]:
    """A method with each hyperparameter studied on `model`."""
    return list(method_type(name).grid(model, alpha_per_rank))


def at_most(request: SweepRequest) -> Plan:
    """Every cell that the sweep could come to hold, replicates, variations and repetition apart: the plan in which
    nothing is thinned, because every cell fails."""
    cells: dict[str, Cell] = {}
    while True:
        failed = [
            (cell, FailedRun(recipe=cell.recipe, key=key, reason="error", failures=(), created=""))
            for key, cell in cells.items()
        ]
        plan = Planner(request, failed).plan()
        if plan.complete:
            return plan
        cells = {cell.key: cell for cell in plan.cells}


class Planner:
    """Plans as far as what has ended allows."""

    def __init__(self, request: SweepRequest, done: Iterable[tuple[Cell, Outcome]]) -> None:
        self.request = request
        self.models = [request.family.model(name) for name in request.models]
        self.outcomes = {cell.key: outcome for cell, outcome in done}
        self.cells: dict[str, Cell] = {}
        self.skipped: list[Skipped] = []
        self.rates: dict[str, RateFit] = {}
        self.pilot: PilotBatch | None = None
        self.flop = self.seconds = 0.0

    def plan(self) -> Plan:
        """All stages whose predecessors have ended."""
        complete, last = True, None
        for part, cells in self._stages():
            last = part
            planned = [cell for cell in cells if self._add(cell)]
            if any(cell.key not in self.outcomes for cell in planned):
                complete = False
                break
        return Plan(
            cells=tuple(self.cells.values()),
            skipped=tuple(self.skipped),
            rates=self.rates,
            flop=self.flop,
            seconds=self.seconds if self.request.speeds else None,
            stage=str(last or "none"),
            part=last,
            complete=complete,
            pilot=self.pilot,
        )

    def _stages(self) -> Iterator[tuple[Stage, list[Cell]]]:
        """Each stage with its cells; the next is asked for only when all of these have ended."""
        request = self.request
        yield from self._rate_stages()
        if len(request.seeds) > 1 and len(request.budgets) > 1:
            yield NOISE, self._noise_cells()
        for index, budget in enumerate(request.budgets):
            yield Stage(kind="budget", budget=budget), self._budget_cells(index, budget)
        if len(request.seeds) > 1:
            yield REPLICATES, self._replicates()
        if request.variations:
            yield VARIATIONS, self._variations()
        if request.pairs:
            yield REPETITION, self._repetition()

    # ---- stages ----

    def _rate_stages(self) -> Iterator[tuple[Stage, list[Cell]]]:
        """The search for learning rates, widened where the best one lies on an edge; then its rules hold."""
        if self.request.rates is None:
            return
        yield RATES, self._rate_cells(self.request.rates)
        asked: set[str] = set()  # where the allowance refuses a cell, it is not asked for again
        while more := [cell for cell in self._beyond_edges() if cell.key not in asked]:
            asked |= {cell.key for cell in more}
            yield RATES, more
        self.rates = fit_rates(optima(self._records()))

    def _rate_cells(self, search: RateSearch) -> list[Cell]:
        cells = []
        for name in search.models:
            model = self.request.family.model(name)
            for method in self._rate_methods(model):
                for steps in search.steps:
                    tokens = steps * self.request.batch_pairs * self.request.data.tokens_per_pair
                    centre = self._prior_rate(model, method, steps)
                    for power in (-1, 0, 1):
                        flop = method.cost(model).flop_per_token * tokens
                        cell = self._cell(model, method, flop, RATES, rate=centre * search.factor**power)
                        cells += [] if cell is None else [cell]
        return sorted(cells, key=lambda cell: cell.recipe.flop)

    def _rate_methods(self, model: ModelSpec) -> list[Method]:
        """The lowest and the highest hyperparameter of each method: the rule runs between them."""
        methods: list[Method] = []
        for name in self.request.methods:
            found = variants(name, model, self.request.alpha_per_rank)
            methods += found if len(found) < 3 else [found[0], found[-1]]
        return methods

    def _beyond_edges(self) -> list[Cell]:
        """One more rate where the best one so far lies on the edge of those tried."""
        cells = []
        records = {cell.key: cell for cell in self.cells.values() if cell.part == RATES}
        for optimum in optima(self._records()):
            rate = beyond(optimum, first=3)
            if rate is None:
                continue
            like = next(
                cell.recipe
                for cell in records.values()
                if (cell.recipe.method, cell.recipe.model.name, cell.recipe.steps)
                == (optimum.method, optimum.model, optimum.steps)
            )
            cell = Cell(recipe=like.model_copy(update={"learning_rate": rate}), part=RATES)
            if cell.key not in self.cells:
                cells.append(cell)
        return cells

    def _noise_cells(self) -> list[Cell]:
        """Every method's middle hyperparameter, and full once more on another size, with all seeds."""
        budget = self.request.budgets[1]
        middle = self.models[len(self.models) // 3]
        chosen: list[Cell] = []
        for name in (*self.request.methods, *self.request.methods):
            model = middle if len(chosen) < len(self.request.methods) else self.models[len(self.models) // 3 - 1]
            found = variants(name, model, self.request.alpha_per_rank)
            cell = self._cell(model, found[len(found) // 2], budget, NOISE)
            chosen += [] if cell is None or len(chosen) >= NOISE_CELLS else [cell]
        return [
            cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"seed": seed})})
            for cell in chosen
            for seed in self.request.seeds
        ]

    def _budget_cells(self, index: int, budget: float) -> list[Cell]:
        cells = []
        for name in self.request.methods:
            best = self._best(name, self.request.budgets[:index]) if index >= 2 and self.request.thin else None
            for model in self.models:
                for method in variants(name, model, self.request.alpha_per_rank):
                    if best is not None and (thinned := self._thinned(best, model, method, budget)):
                        self._skip(model, method, budget, *thinned)
                        continue
                    cell = self._cell(model, method, budget, Stage(kind="budget", budget=budget), scored=True)
                    cells += [] if cell is None else [cell]
        return sorted(cells, key=lambda cell: self._distance(cell, index))

    def _replicates(self) -> list[Cell]:
        """The best few cells of the highest budget, whatever their method, with the other seeds."""
        top = [cell for cell, record in self._grid(self.request.budgets[-1:])][:REPLICATED_CELLS]
        return [
            Cell(recipe=cell.recipe.model_copy(update={"seed": seed}), part=REPLICATES, scored=True)
            for seed in self.request.seeds[1:]
            for cell in top
        ]

    def _variations(self) -> list[Cell]:
        """Each method's best cell at the highest budget, changed in one thing at a time, with every seed."""
        cells = []
        for name in self.request.methods:
            if (best := self._best(name, self.request.budgets)) is None:
                continue
            recipe, budget = best[0].recipe, best[1]
            for variation in self.request.variations:
                cell = self._cell(
                    recipe.model, recipe.method, budget, VARIATIONS, rate=recipe.learning_rate, scored=True,
                    variation=variation,
                )  # fmt: skip
                cells += [] if cell is None else [cell]
        return [
            cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"seed": seed})})
            for seed in self.request.seeds
            for cell in cells
        ]

    def _repetition(self) -> list[Cell]:
        """Each method's best cell at the highest budget, and the best ones of the sizes beside it, on scarce pairs."""
        cells = []
        for name in self.request.methods:
            if (best := self._best(name, self.request.budgets)) is None:
                continue
            recipe, budget = best[0].recipe, best[1]
            by_size: dict[str, Recipe] = {}
            for cell, _ in self._grid([budget], name):
                by_size.setdefault(cell.recipe.model.name, cell.recipe)
            sizes = sorted(self.models, key=lambda model: model.params)
            place = sizes.index(recipe.model)
            for model in sizes[max(0, place - 1) : place + 2]:
                if model.name not in by_size:
                    why = f"{model.name} has no run at {budget:.3g} FLOP to compare with"
                    self._skip(model, recipe.method, budget, "no-fresh-run", why)
                    continue
                for pairs in self.request.pairs:
                    fresh = by_size[model.name]
                    if why_not := unfit(fresh, pairs, self.request.max_passes):
                        self._skip(model, fresh.method, budget, *why_not)
                        continue
                    scarce = fresh.model_copy(update={"unique_pairs": pairs})
                    cells.append(Cell(recipe=scarce, part=REPETITION, scored=bool(self.request.tasks)))
        return cells

    # ---- what earlier stages say ----

    def _records(self) -> list[RunRecord]:
        """Of the search for learning rates."""
        found = [self.outcomes.get(key) for key, cell in self.cells.items() if cell.part == RATES]
        return [outcome for outcome in found if isinstance(outcome, RunRecord)]

    def _grid(self, budgets: Sequence[float], method: str | None = None) -> list[tuple[Cell, RunRecord]]:
        """The grid's finished cells at these budgets, lowest held-out loss first."""
        found = [
            (record.heldout.loss, key, cell, record)
            for key, cell in self.cells.items()
            if cell.part.kind == "budget"
            and cell.part.budget in budgets
            and method in (None, cell.recipe.method.name)
            and isinstance(record := self.outcomes.get(key), RunRecord)
            and record.heldout is not None
        ]
        return [(cell, record) for _, _, cell, record in sorted(found, key=lambda entry: entry[:2])]

    def _best(self, method: str, budgets: Sequence[float]) -> tuple[Cell, float] | None:
        """The method's best cell at the highest budget that has one, and that budget."""
        for budget in reversed(budgets):
            grid = self._grid([budget], method)
            if grid:
                return grid[0][0], budget
        return None

    def _thinned(self, best: tuple[Cell, float], model: ModelSpec, method: Method, budget: float) -> Why | None:
        """Why this cell is left out; None where it stays."""
        assert self.request.thin is not None
        cell, at = best
        expected = cell.recipe.model.params * math.sqrt(budget / at)
        if abs(math.log(model.params / expected)) > math.log(self.request.thin):
            why = f"size over {self.request.thin:g} x from the expected best, {expected:.2g}"
            return "far-size", why
        here = [m.share(model) for m in variants(method.name, model, self.request.alpha_per_rank)]
        own, wanted = method.share(model), cell.recipe.method.share(cell.recipe.model)
        nearest = min(range(len(here)), key=lambda index: abs(math.log(here[index] / wanted)))
        if abs(here.index(own) - nearest) > 1:
            why = f"hyperparameter not beside the best so far ({cell.recipe.method.label})"
            return "far-hyperparameter", why
        return None

    def _distance(self, cell: Cell, index: int) -> float:
        """How far a cell's size lies from the expected best: those near it run first."""
        best = self._best(cell.recipe.method.name, self.request.budgets[:index])
        middle = self.models[len(self.models) // 2].params
        expected = middle if best is None else best[0].recipe.model.params * 2.0
        return abs(math.log(cell.recipe.model.params / expected))

    # ---- cells ----

    def _cell(
        self, model: ModelSpec, method: Method, flop: float, part: Stage, *, rate: float | None = None,
        scored: bool = False, variation: Variation | None = None,
    ) -> Cell | None:  # fmt: skip
        """The cell, or None with an entry in `skipped`."""
        request = self.request
        setup = request.setup if variation is None else variation.of(request.setup)
        try:
            if rate is None:
                tokens = affordable(flop, model, method, setup, request.data)
                rate = self._rate(model, method, setup.steps_of(tokens, request.data))
            recipe = solve(
                flop, model, method, rate, setup, request.data, family=request.family.name, seed=request.seeds[0]
            )
        except InputError as error:
            self._skip(model, method, flop, "no-recipe", str(error))
            return None
        if unfit := self._unfit(recipe, part):
            self._skip(model, method, flop, *unfit)
            return None
        recipe = recipe.model_copy(update={"base_hash": request.base_hashes.get(model.name)})
        return Cell(recipe=recipe, part=part, scored=scored and bool(request.tasks))

    def _unfit(self, recipe: Recipe, part: Stage) -> Why | None:
        """Why this recipe is not run; None where it is."""
        request = self.request
        if recipe.steps < request.min_steps and part != RATES:
            return "few-steps", f"{recipe.steps} steps, {request.min_steps} are the least"
        if recipe.epochs is not None and recipe.epochs > request.max_epochs:
            return "repeats", f"the data would repeat {recipe.epochs:.1f} times"
        need = recipe_memory(recipe).least
        if request.max_bytes is not None and need > request.max_bytes:
            return "memory", f"needs {need / 2**30:.1f} GiB of memory"
        return None

    def _rate(self, model: ModelSpec, method: Method, steps: int) -> float:
        if method.name in self.rates:
            return self.rates[method.name].law.rate(model.params, steps, method.share(model))
        return self._prior_rate(model, method, steps)

    def _prior_rate(self, model: ModelSpec, method: Method, steps: int) -> float:
        return self.request.family.peak_rate(model, method, steps=steps)[0]

    def _add(self, cell: Cell) -> bool:
        """Take the cell into the plan; False where the allowance does not pay for it."""
        request, recipe = self.request, cell.recipe
        if cell.key in self.cells:
            return True
        flop, seconds = self.flop + recipe.flop, self.seconds + self._seconds(recipe)
        if (request.allowance_flop is not None and flop > request.allowance_flop) or (
            request.allowance_seconds is not None and seconds > request.allowance_seconds
        ):
            self._skip(recipe.model, recipe.method, recipe.flop, "allowance", REASONS["allowance"])
            return False
        self.flop, self.seconds = flop, seconds
        self.cells[cell.key] = cell.model_copy(update={"order": len(self.cells)})
        return True

    def _seconds(self, recipe: Recipe) -> float:
        """Time the run takes here, the first one with what comes before it; 0 where nothing was measured."""
        request, name = self.request, recipe.model.name
        if not (speed := request.speeds.get(name)):
            return 0.0
        before = 0.0 if self.cells else request.startup_seconds
        return before + request.run_seconds.get(name, 0.0) + recipe.flop / speed

    def _skip(self, model: ModelSpec, method: Method, budget: float, kind: SkipKind, why: str) -> None:
        self.skipped.append(
            Skipped(
                model=model.name,
                method=method.label,
                method_name=method.name,
                budget=budget,
                kind=kind,
                reason=REASONS[kind].format(method=method.name),
                why=why,
            )
        )
