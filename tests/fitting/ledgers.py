"""Runs of a planted family of laws on the nano sizes, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isoembed.families import NANO, ModelSpec
from isoembed.fitting.repetition import effective_tokens
from isoembed.laws import Points, law_named
from isoembed.methods import Full, LoRA, Method
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.records import RunRecord
from tests.sweep.fake import record

DATA = DataStats(fingerprint="d", source="planted", tokenizer="t", pairs=10_000_000)
BUDGETS = tuple(np.geomspace(3e9, 1e12, 7).tolist())
#: full fine-tuning is ahead at small budgets, LoRA at large ones
TRUTH: dict[str, dict[str, float]] = {
    "full": {"E": 1.0, "A": 60.0, "B": 900.0, "alpha": 0.35, "beta": 0.42},
    "lora": {"E": 0.7, "A": 60.0, "B": 1250.0, "alpha": 0.35, "beta": 0.42},
}


def lora(model: ModelSpec, share: float = 1 / 8) -> LoRA:
    """LoRA of a rank relative to the width."""
    rank = round(model.hidden * share)
    return LoRA(rank=rank, alpha=2.0 * rank)


def true_loss(method: Method, params: float, tokens: float) -> float:
    """The planted loss."""
    at = Points.of([params], [tokens], [1.0])
    return float(law_named("hoffmann").predict(TRUTH[method.name], at)[0])


def planned(
    flop: float, model: ModelSpec, method: Method, *, batch_pairs: int = 64, context: int = 75, seed: int = 0
) -> Recipe:
    return solve(
        flop,
        family="nano",
        model=model,
        method=method,
        data=DATA,
        setup=Setup(batch_pairs=batch_pairs, context_tokens=context),
        learning_rate=1e-3,
        seed=seed,
    )


def scarce(
    fresh: Sequence[RunRecord],
    worth: float,
    noise: float = 0.003,
    *,
    passes: Sequence[float] = (3.0, 6.0, 12.0, 24.0),
    sizes: int = 3,
    seed: int = 1,
) -> list[RunRecord]:
    """The largest budget's best runs of each method in `fresh`, once more on so few pairs that they repeat `passes`
    times, which are worth R* = `worth`."""
    chance = np.random.default_rng(seed)
    top = max(run.recipe.flop for run in fresh) * 0.99
    found = []
    for name in dict.fromkeys(run.recipe.method.name for run in fresh):
        best = [run for run in fresh if run.recipe.method.name == name and run.recipe.flop > top]
        for run in sorted(best, key=lambda run: run.heldout.loss if run.heldout else np.inf)[:sizes]:
            for count in passes:
                pairs = round(run.recipe.pairs / count)
                recipe = run.recipe.model_copy(update={"unique_pairs": pairs})
                tokens = effective_tokens(recipe.train_tokens, recipe.train_tokens * pairs / recipe.pairs, worth)
                exact = true_loss(recipe.method, recipe.model.params, float(tokens))
                found.append(record(recipe, exact * float(np.exp(noise * chance.normal()))))
    return found


def runs(
    noise: float = 0.003,
    *,
    budgets: Sequence[float] = BUDGETS,
    methods: Mapping[str, object] = TRUTH,
    shares: Sequence[float] = (1 / 8,),
    seeds: int = 1,
) -> list[RunRecord]:
    """Every size at every budget that pays for 30 steps of it, with every method."""
    chance = np.random.default_rng(0)
    found = []
    for name in methods:
        for model in NANO.models:
            ways: list[Method] = [Full()] if name == "full" else [lora(model, share) for share in shares]
            for method in ways:
                for flop in budgets:
                    for seed in range(seeds):
                        if flop < 30 * 64 * 78 * method.cost(model).flop_per_token:
                            continue
                        recipe = planned(flop, model, method, seed=seed)
                        exact = true_loss(method, model.params, recipe.train_tokens)
                        found.append(record(recipe, exact * float(np.exp(noise * chance.normal()))))
    return found
