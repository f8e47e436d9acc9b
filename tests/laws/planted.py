"""Tables drawn from known laws."""

from __future__ import annotations

import numpy as np

from isoembed.laws import Law, Points, law_named
from isoembed.laws.points import Floats

TRUTH: dict[str, dict[str, float]] = {
    "hoffmann": {"E": 0.5, "A": 30.0, "B": 400.0, "alpha": 0.3, "beta": 0.4},
    "tied": {"E": 0.5, "A": 30.0, "B": 400.0, "alpha": 0.33},
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
    "frantar": {"E": 0.5, "a_s": 8.0, "c_s": 20.0, "B": 400.0, "alpha": 0.3, "beta": 0.4, "b_s": 0.7},
    "rectified": {"E": 0.5, "B": 900.0, "D_l": 300.0, "beta": 0.4},
    "interaction": {"E": 0.5, "A": 30.0, "B": 2000.0, "a": 0.3, "b": 0.4, "g": 0.1, "s": 0.2, "t": 0.1},
    "hoffmann-odds": {"E": 0.001, "A": 30.0, "B": 500.0, "alpha": 0.5, "beta": 0.5, "K": 1024.0},
    "frantar-odds": {
        "E": 0.001,
        "a_s": 8.0,
        "c_s": 20.0,
        "B": 500.0,
        "alpha": 0.5,
        "beta": 0.5,
        "b_s": 0.7,
        "K": 1024.0,
    },
    "interaction-odds": {
        "E": 0.001,
        "A": 30.0,
        "B": 2000.0,
        "a": 0.5,
        "b": 0.5,
        "g": 0.1,
        "s": 0.2,
        "t": 0.1,
        "K": 1024.0,
    },
}


def planted(
    name: str, rows: int = 60, noise: float = 0.0, seed: int = 0, truth: dict[str, float] | None = None
) -> Points:
    """`rows` runs over 3 orders of magnitude of N and of D, shares of 0.1 to 1 with S = 1 among them."""
    chance = np.random.default_rng(seed)
    params, tokens = 10 ** chance.uniform(6, 9, rows), 10 ** chance.uniform(7, 10, rows)
    if name == "rectified":
        params = np.full(rows, 1e7)
    fraction = chance.choice([0.1, 0.25, 0.5, 0.75, 1.0], rows)
    return table(law_named(name), truth or TRUTH[name], params, tokens, fraction, noise * chance.normal(size=rows))


def table(law: Law, truth: dict[str, float], params: Floats, tokens: Floats, fraction: Floats, error: Floats) -> Points:
    exact = Points.of(params, tokens, np.ones(len(params)), fraction=fraction)
    loss = law.predict(truth, exact) * np.exp(error)
    return Points.of(params, tokens, loss, fraction=fraction, candidates=1024)
