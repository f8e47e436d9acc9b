"""A sweep without torch: recipes, and a trainer that draws losses from a planted law."""

from __future__ import annotations

import math
from pathlib import Path

from isoembed.families import NANO
from isoembed.methods import Method
from isoembed.methods.full import Full
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.records import Heldout, Inherited, RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.request import RateSearch, SweepRequest
from isoembed.sweep.stage import Stage

DATA = DataStats(fingerprint="d", source="fake", pairs=1_000_000, query_tokens=20.0, positive_tokens=40.0)


def recipe(model: str = "nano-51k", flop: float = 1e12, *, method: Method | None = None, seed: int = 0) -> Recipe:
    return solve(
        flop,
        family="nano",
        model=NANO.model(model),
        method=method or Full(),
        data=DATA,
        setup=Setup(batch_pairs=32, context_tokens=75),
        learning_rate=1e-3,
        seed=seed,
    )


def planned_run(model: str = "nano-51k", flop: float = 1e12, *, seed: int = 0) -> PlannedRun:
    return PlannedRun(recipe=recipe(model, flop, seed=seed), part=Stage(kind="other", name="test"))


def request(**changes: object) -> SweepRequest:
    values: dict[str, object] = {
        "family": NANO,
        "models": tuple(model.name for model in NANO.models[:6]),
        "budgets": (1e11, 4e11, 1.6e12, 6.4e12),
        "data": DATA,
        "batch_pairs": 32,
        "context_tokens": 75,
        "min_steps": 100,
    }
    return SweepRequest.model_validate(values | changes)


SEARCH = RateSearch(models=("nano-28k", "nano-113k", "nano-389k"))
#: each method's best peak rate on nano-28k for 100 steps, and its handicap in the loss
BEST_RATE = {"full": 5e-3, "freeze": 8e-3, "bias": 2e-2, "lora": 1e-2}
HANDICAP = {"full": 1.0, "freeze": 1.05, "bias": 1.3, "lora": 1.02}


def best_rate(made: Recipe) -> float:
    """The planted optimum: falls with size^-0.3 and steps^-0.2."""
    return BEST_RATE[made.method.name] * math.pow(made.model.params / 28944, -0.3) * math.pow(made.steps / 100, -0.2)


def planted_loss(made: Recipe) -> float:
    """A Hoffmann law with the best size near 50k parameters at 1e12 FLOP, and a parabola in ln rate."""
    law = 1.0 + 30.0 / math.pow(made.model.params, 0.3) + 60.0 / math.pow(made.train_tokens, 0.25)
    return HANDICAP[made.method.name] * law * (1 + 0.05 * math.log(made.learning_rate / best_rate(made)) ** 2)


def went_on(run: PlannedRun) -> RunRecord:
    """The record of a run that went on from where the plan says."""
    trunk = None
    if run.extends is not None:
        taken = {"flop": run.inherited_flop, "teacher_flop": run.inherited_teacher_flop}
        trunk = Inherited(key=run.extends, steps=1, tokens=1, seconds=0.0, **taken)
    return record(run.recipe).model_copy(update={"inherited": trunk})


def record(made: Recipe, loss: float | None = None) -> RunRecord:
    cost = made.cost
    return RunRecord(
        recipe=made,
        key=made.key,
        data_fingerprint="d",
        forward_params=cost.forward,
        backward_params=cost.backward,
        updated_params=cost.updated,
        table_params=cost.table,
        trainable_params=cost.updated + cost.table,
        steps=made.steps,
        pairs=round(made.pairs),
        tokens=made.train_tokens,
        model_flop=made.flop,
        executed_flop=1.2 * made.flop,
        all_in_flop=1.1 * made.flop,
        final_loss=1.0,
        heldout=Heldout(
            loss=planted_loss(made) if loss is None else loss, pairs=4096, candidates=1024, fingerprint="h"
        ),
        wall_seconds=1.0,
        peak_memory_bytes=1,
        tokens_per_second=1.0,
        loss_curve=(),
        versions={},
        machine={},
        created="2026-11-24T00:00:00+00:00",
    )


def train(planned: PlannedRun, place: Path) -> RunRecord:
    """The fake trainer."""
    return record(planned.recipe)
