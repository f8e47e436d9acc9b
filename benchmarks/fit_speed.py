"""How fast is a fit, against the usual way: 4500 L-BFGS-B starts with finite differences (Besiroglu et al. 2024).

    python benchmarks/fit_speed.py [--reference-starts 4500]

One core (set OMP_NUM_THREADS=1); CPU seconds, so that other load on the machine does not matter.  The table is planted:
240 points from the law that Besiroglu et al. found, with 0.5 % Laplace noise.

Results: benchmarks/results/fit_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from isoembed.core import write_atomically
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.fit import fit
from isoembed.laws import Law, Points, law_named
from isoembed.laws.points import Floats

RESULTS = Path(__file__).parent / "results" / "fit_speed.json"
DELTA = 1e-3
HOFFMANN = {"E": 1.817, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}
EMBEDDING = {"C": 0.1, "a_d": 0.5, "b_d": 3.0, "a_s": 20.0, "c_s": 30.0, "alpha": 0.25, "beta": 0.3, "b_s": 1.5}


def planted(law: Law, truth: dict[str, float], rows: int, seed: int = 0) -> Points:
    chance = np.random.default_rng(seed)
    params, tokens = 10 ** chance.uniform(7.7, 10.2, rows), 10 ** chance.uniform(8.5, 11.5, rows)
    share = chance.choice([0.1, 0.25, 0.5, 0.75, 1.0], rows)
    exact = Points.of(params, tokens, np.ones(rows), fraction=share)
    loss = law.predict(truth, exact) * np.exp(chance.laplace(0, 0.005 / np.sqrt(2), rows))
    return Points.of(params, tokens, loss, fraction=share)


def reference(points: Points, starts: int) -> dict[str, float]:
    """The grid and the objective of the published replication: log-sum-exp, summed Huber, no gradient."""
    log_params, log_tokens, log_loss = np.log(points.params), np.log(points.tokens), np.log(points.loss)

    def objective(theta: Floats) -> float:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * log_params, b - beta * log_tokens, np.full_like(log_loss, e)])
        size = np.abs(logsumexp(terms, axis=0) - log_loss)
        inside = np.minimum(size, DELTA)
        return float(np.sum(inside * (size - 0.5 * inside)))

    grid = list(
        product(
            np.arange(0, 30, 5),
            np.arange(0, 30, 5),
            np.arange(-1, 1.5, 0.5),
            np.arange(0, 2.5, 0.5),
            np.arange(0, 2.5, 0.5),
        )
    )
    chosen = [grid[index] for index in np.linspace(0, len(grid) - 1, starts).astype(int)]
    begun = time.process_time()
    found = np.array([minimize(objective, start, method="L-BFGS-B").fun for start in chosen])
    return {
        "starts": starts,
        "cpu_seconds": time.process_time() - begun,
        "objective": float(found.min()),
        "starts_agreeing": float(np.mean(found <= found.min() * (1 + 1e-6))),
    }


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What `work` returns and the median of its CPU seconds."""
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        result = work()
        seconds.append(time.process_time() - begun)
    return result, float(np.median(seconds))


def ours(law: Law, points: Points) -> dict[str, float]:
    found, fit_seconds = timed(lambda: fit(law, points, delta=DELTA), 5)
    _, bootstrap_seconds = timed(lambda: bootstrap(law, points, draws=1000, delta=DELTA), 1)
    return {
        "points": len(points),
        "starts": found.n_starts,
        "fit_cpu_seconds": fit_seconds,
        "bootstrap_1000_cpu_seconds": bootstrap_seconds,
        "objective": found.objective,
        "starts_agreeing": found.starts_agreeing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-starts", type=int, default=4500, help="of 4500; fewer are spread over the grid")
    starts = parser.parse_args().reference_starts
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: the comparison is on one core")
    hoffmann, embedding = law_named("hoffmann"), law_named("embedding")
    table = planted(hoffmann, HOFFMANN, 240)
    results: dict[str, Any] = {"hoffmann": ours(hoffmann, table)}
    results["embedding"] = ours(embedding, planted(embedding, EMBEDDING, 500))
    print(json.dumps(results, indent=1), flush=True)
    results["reference"] = reference(table, starts)
    per_grid = results["reference"]["cpu_seconds"] * 4500 / starts
    results["speed_ratio"] = round(per_grid / results["hoffmann"]["fit_cpu_seconds"])
    results["objective_no_higher"] = results["hoffmann"]["objective"] <= results["reference"]["objective"]
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
