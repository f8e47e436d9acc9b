"""Do 95 % intervals hold the truth 95 % of the time?  Simulated: four planted laws x four designs, 300 worlds each, 200
bootstraps a world; and whether the stated probability that a method is the best one is right.

    python benchmarks/fit_coverage.py            ten minutes on one idle core; cells already in the results are kept
    python benchmarks/fit_coverage.py --quick    30 worlds a cell, printed, nothing written

Results: benchmarks/results/fit_coverage.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.core import write_atomically
from isoembed.fitting.bootstrap import Bootstrap, bootstrap
from isoembed.fitting.isoflop import surface_optimum
from isoembed.laws import Points, law_named
from isoembed.laws.points import Floats

RESULTS = Path(__file__).parent / "results" / "fit_coverage.json"
WORLDS, DRAWS = 300, 200
#: points, noise of ln loss: budgets x sizes around each budget's optimum, seeds
DESIGNS = {
    (20, 0.003): (4, 5, 1),
    (20, 0.03): (4, 5, 1),
    (80, 0.01): (8, 10, 1),
    (300, 0.03): (10, 10, 3),
}
Design = tuple[int, float]
#: planted parameters; exponents vary by 15 % from world to world
TRUTH: dict[str, dict[str, float]] = {
    "hoffmann": {"E": 0.3, "A": 30.0, "B": 400.0, "alpha": 0.3, "beta": 0.35},
    "embedding": {
        "C": 0.3,
        "a_d": 0.5,
        "b_d": 20.0,
        "a_s": 200.0,
        "c_s": 300.0,
        "alpha": 0.3,
        "beta": 0.35,
        "b_s": 1.5,
    },
    "power": {"a": 8.39, "b": -0.21},
    "multiplicative": {"E": 0.3, "A": 600.0, "alpha": 0.12, "beta": 0.25},
}
LOW_FLOP, HIGH_FLOP = 1e15, 1e18
SHARES = np.array([0.1, 0.25, 0.5, 0.75, 1.0])


def design(kind: Design) -> tuple[Floats, Floats, Floats]:
    """N, D and S of every run: at each budget sizes x16 either way around 1.5e6 (C / 1e15)^0.5, as in an IsoFLOP
    study."""
    budgets, sizes, seeds = DESIGNS[kind]
    flop, spread = np.meshgrid(
        np.geomspace(LOW_FLOP, HIGH_FLOP, budgets), np.geomspace(1 / 16, 16, sizes), indexing="ij"
    )
    params = np.repeat((1.5e6 * np.sqrt(flop / LOW_FLOP) * spread).ravel(), seeds)
    tokens = np.repeat(flop.ravel(), seeds) / (6 * params)
    return params, tokens, SHARES[np.random.default_rng(kind[0]).permutation(len(params)) % len(SHARES)]


def world(name: str, kind: Design, seed: int) -> tuple[dict[str, float], Points]:
    """A truth and one noisy table of it."""
    points, noise = kind
    chance = np.random.default_rng([points, seed])
    truth = {
        key: value * (chance.uniform(0.85, 1.15) if key in ("alpha", "beta", "b_s") else 1.0)
        for key, value in TRUTH[name].items()
    }
    params, tokens, share = design(kind)
    flop = 6 * params * tokens
    if name == "power":
        flop = np.geomspace(LOW_FLOP, HIGH_FLOP, points)
        params, tokens, share = np.ones(points), np.ones(points), np.ones(points)
    exact = Points.of(params, tokens, np.ones(points), flop=flop, fraction=share)
    loss = law_named(name).predict(truth, exact) * np.exp(chance.normal(0, noise, points))
    return truth, Points.of(params, tokens, loss, flop=flop, fraction=share)


def held(name: str, truth: dict[str, float], boot: Bootstrap) -> dict[str, tuple[bool, float]]:
    """For each quantity: is the truth inside the interval, and the interval's width (a ratio for N)."""
    law = law_named(name)
    found = {}
    for key, interval in boot.intervals().items():
        low, high = interval.ends
        found[key] = (bool(low <= truth[key] <= high), high - low)
    middle, far = np.sqrt(LOW_FLOP * HIGH_FLOP), 10 * HIGH_FLOP
    for label, flop in (("loss_inside", middle), ("loss_beyond", far)):
        params = np.array([1.5e6 * np.sqrt(flop / LOW_FLOP)])
        at = Points.of(params, flop / (6 * params), [1.0], flop=[flop], fraction=[0.5])
        interval = boot.loss_intervals(at)[0]
        true = float(law.predict(truth, at)[0])
        low, high = interval.ends
        found[label] = (low <= true <= high, (high - low) / true)
    if name in ("hoffmann", "embedding"):
        best = surface_optimum(law, law.vector(truth)[None], np.array([far]), fraction=0.5).params_BF[0, 0]
        interval = boot.compute_optimum(np.array([far, 2 * far]), fraction=0.5).sizes[0].params
        low, high = interval.ends
        found["best_size_beyond"] = (bool(low <= best <= high), high / max(low, 1.0))
    return found


def cell(name: str, kind: Design, worlds: int) -> dict[str, Any]:
    """Coverage, median width and the statuses seen in one cell."""
    begun = time.perf_counter()
    inside: dict[str, list[bool]] = {}
    width: dict[str, list[float]] = {}
    statuses: dict[str, int] = {}
    for seed in range(worlds):
        truth, table = world(name, kind, seed)
        boot = bootstrap(law_named(name), table, draws=DRAWS, seed=seed)
        statuses[boot.fit.status] = statuses.get(boot.fit.status, 0) + 1
        for key, (covered, wide) in held(name, truth, boot).items():
            inside.setdefault(key, []).append(covered)
            width.setdefault(key, []).append(wide)
    return {
        "worlds": worlds,
        "draws": DRAWS,
        "coverage": {key: round(float(np.mean(values)), 4) for key, values in inside.items()},
        "median_width": {key: float(f"{np.median(values):.3g}") for key, values in width.items()},
        "status": statuses,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def methods_cell(worlds: int) -> dict[str, Any]:
    """Five methods with planted Hoffmann laws, 40 noisy runs each: stated probability of the chosen one against how
    often it is the best, at the top fitted budget and at ten times it."""
    law = law_named("hoffmann")
    begun = time.perf_counter()
    stated: dict[str, list[float]] = {"inside": [], "beyond": []}
    right: dict[str, list[bool]] = {"inside": [], "beyond": []}
    flop = np.array([HIGH_FLOP, 10 * HIGH_FLOP])
    params, tokens, _ = design((80, 0.01))
    for seed in range(worlds):
        chance = np.random.default_rng([5, seed])
        true, frontier = [], []
        for method in range(5):
            truth = dict(TRUTH["hoffmann"])
            truth["alpha"] *= chance.uniform(0.97, 1.03)
            truth["beta"] *= chance.uniform(0.97, 1.03)
            rows = chance.permutation(len(params))[:40]
            table = Points.of(params[rows], tokens[rows], np.ones(40))
            noisy = law.predict(truth, table) * np.exp(chance.normal(0, 0.01, 40))
            boot = bootstrap(law, Points.of(params[rows], tokens[rows], noisy), draws=DRAWS, seed=10 * seed + method)
            frontier.append(boot.frontier(flop))
            true.append(surface_optimum(law, law.vector(truth)[None], flop).loss_BF[0])
        winner_BF = np.argmin(frontier, axis=0)
        for index, where in enumerate(("inside", "beyond")):
            share = np.bincount(winner_BF[1:, index], minlength=5) / DRAWS
            chosen = int(np.argmax(share))
            stated[where].append(float(share[chosen]))
            right[where].append(chosen == int(np.argmin(np.array(true)[:, index])))
    result: dict[str, Any] = {"worlds": worlds, "draws": DRAWS, "seconds": round(time.perf_counter() - begun, 1)}
    for where in stated:
        said, hit = np.array(stated[where]), np.array(right[where])
        bins = np.digitize(said, [0.4, 0.6, 0.8, 0.95])
        result[where] = {"mean_stated": round(float(said.mean()), 3), "mean_right": round(float(hit.mean()), 3)}
        for index, label in enumerate(("<.4", ".4-.6", ".6-.8", ".8-.95", ">.95")):
            if np.any(rows := bins == index):
                result[where][label] = {
                    "worlds": int(rows.sum()),
                    "stated": round(float(said[rows].mean()), 3),
                    "right": round(float(hit[rows].mean()), 3),
                }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30 worlds a cell, nothing written")
    quick = parser.parse_args().quick
    worlds = 30 if quick else WORLDS
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not quick else {}
    tasks: dict[str, Callable[[int], dict[str, Any]]] = {
        f"{name} points={kind[0]} noise={kind[1]}": partial(cell, name, kind) for kind in DESIGNS for name in TRUTH
    }
    tasks["five methods"] = methods_cell
    for key, task in tasks.items():
        if key in results:
            continue
        results[key] = task(worlds)
        print(key, json.dumps(results[key]), flush=True)
        if not quick:
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
