"""Are the probabilities, regrets and intervals that a recommendation states right?  Simulated: three methods with
planted Hoffmann laws on the nano sizes, runs at seven budgets with 1 % noise, 200 worlds; asked inside the fitted range
and at ten times its top.

    python benchmarks/recommend_calibration.py            about four minutes on one idle core
    python benchmarks/recommend_calibration.py --quick    20 worlds, printed, nothing written

Results: benchmarks/results/recommend_calibration.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.budget import Budget
from isoembed.core import write_atomically
from isoembed.families import NANO, ModelSpec
from isoembed.laws import Points, law_named
from isoembed.laws.files import LawSet
from isoembed.laws.settings import Group, Settings, Tried
from isoembed.laws.study import study
from isoembed.methods import Freeze, Full, LoRA
from isoembed.recipe import DataStats
from isoembed.recommend import recommend

RESULTS = Path(__file__).parent / "results" / "recommend_calibration.json"
WORLDS, DRAWS, NOISE = 200, 200, 0.01
BUDGETS = np.geomspace(3e9, 1e12, 7)
TARGETS = {"inside": 3e11, "beyond": 1e13}
#: tokens below which no run is made: 30 steps of 64 pairs of 78 tokens
LEAST_TOKENS = 30 * 64 * 78
TRIED = {
    "full": Tried(method=Full()),
    "freeze": Tried(method=Freeze(fraction=0.5)),
    "lora": Tried(method=LoRA(rank=3, alpha=6.0), of_width="1/8"),
}
TRUTH = {"E": 1.0, "A": 60.0, "B": 900.0, "alpha": 0.35, "beta": 0.42}
LAW = law_named("hoffmann")
Truths = dict[str, dict[str, float]]


def loss(truth: dict[str, float], params: float, tokens: float) -> float:
    """The planted loss of one run."""
    return float(LAW.predict(truth, Points.of([params], [tokens], [1.0]))[0])


def tokens(name: str, model: ModelSpec, flop: float) -> float:
    """D that `flop` pays for."""
    return float(flop / TRIED[name].on(model).cost(model).flop_per_token)


def world(seed: int) -> tuple[Truths, LawSet]:
    """Planted laws that differ by a few per cent between methods, and what is fitted to noisy runs of them."""
    chance = np.random.default_rng(seed)
    truths, laws = {}, []
    for name, tried in TRIED.items():
        truth = {key: value * chance.uniform(0.97, 1.03) for key, value in TRUTH.items()}
        runs = [
            (model.params, tokens(name, model, flop), flop)
            for flop in BUDGETS
            for model in NANO.models
            if tokens(name, model, flop) >= LEAST_TOKENS
        ]
        params, seen, flop_R = (np.array(column) for column in zip(*runs, strict=True))
        exact = Points.of(params, seen, np.ones(len(params)), flop=flop_R)
        losses = LAW.predict(truth, exact) * np.exp(chance.normal(0, NOISE, len(params)))
        points = Points.of(params, seen, losses, flop=flop_R)
        group = Group(name, points, tuple(range(len(params))), (tried,), Settings(family="nano"))
        truths[name] = truth
        laws.append(study([LAW], group, source="planted", draws=DRAWS, by=()))
    return truths, LawSet(laws=tuple(laws))


def judge(truths: Truths, laws: LawSet, flop: float, chance: np.random.Generator) -> dict[str, float]:
    """One recommendation against the truth."""
    data = DataStats(pairs=10**12, fingerprint="planted")
    found = recommend(Budget(stated="", flop=flop), NANO, law=laws, data=data)
    assert found.certainty is not None
    assert found.loss is not None
    true = {
        (name, model.name): loss(truths[name], model.params, tokens(name, model, flop))
        for name in TRIED
        for model in NANO.models
        if tokens(name, model, flop) >= LEAST_TOKENS
    }
    best = min(true, key=lambda key: true[key])
    chosen = (found.recipe.method.name, found.recipe.model.name)
    run = true[chosen] * np.exp(chance.normal(0, NOISE))
    low, high = found.loss.ends
    return {
        "method_stated": found.certainty.method,
        "method_right": chosen[0] == best[0],
        "recipe_stated": found.certainty.recipe,
        "recipe_right": chosen == best,
        "regret_stated": found.certainty.regret,
        "regret_true": true[chosen] - true[best],
        "run_inside_interval": low <= run <= high,
        "interval_width": (high - low) / true[chosen],
        "next_run_removes": 0.0 if found.next_run is None else found.next_run.removes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 worlds, nothing written")
    quick = parser.parse_args().quick
    begun = time.perf_counter()
    judged: dict[str, list[dict[str, float]]] = {where: [] for where in TARGETS}
    for seed in range(20 if quick else WORLDS):
        truths, laws = world(seed)
        for where, flop in TARGETS.items():
            judged[where].append(judge(truths, laws, flop, np.random.default_rng([7, seed])))
    result: dict[str, Any] = {"worlds": len(judged["inside"]), "draws": DRAWS, "noise": NOISE}
    for where, rows in judged.items():
        result[where] = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
        stated = np.array([row["method_stated"] for row in rows])
        right = np.array([row["method_right"] for row in rows])
        for label, low, high in (("<.6", 0, 0.6), (".6-.8", 0.6, 0.8), (".8-.95", 0.8, 0.95), (">.95", 0.95, 1.01)):
            if (inside := (stated >= low) & (stated < high)).any():
                means = {
                    "stated": round(float(stated[inside].mean()), 3),
                    "right": round(float(right[inside].mean()), 3),
                }
                result[where][f"method {label}"] = {"worlds": int(inside.sum()), **means}
    result["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(result, indent=1))
    if not quick:
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
