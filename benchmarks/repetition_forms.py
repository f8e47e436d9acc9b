"""Two forms of what repeated data do, on published runs: effective tokens (R*), and an over-fitting term.

    python benchmarks/repetition_forms.py datablations_c4.csv --out benchmarks/results/repetition_forms.json

R*: E + A/N^a + B/D'^b with D' = U + U R* (1 - exp(-(D/U - 1)/R*)) (Muennighoff et al. 2023, arXiv 2305.16264, equation
5), which no repeats can make worse.  Over-fitting: E + (L0 - E) h/(1 + h), h = a/N^x + b/D^y + c N^u/U^v (arXiv
2605.09189), with L0 = ln of the vocabulary, which they can; `no ceiling` is the same without the link, E + h.  Each is
fitted to ln loss (Huber, many starts) three times: to all runs, to those of at most 8 epochs, and of at most 40; the
last two forecast the rest.  Errors are of ln loss, observed minus forecast, in %.

The table needs the columns N, D, unique_tokens, loss.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]
#: of the GPT-2 tokenizer, which the published runs used
VOCABULARY = 50257
STARTS = 60
#: width of the Huber loss in ln loss: about the noise between seeds
HUBER = 0.005


@dataclass(frozen=True)
class Runs:
    """One row per run."""

    params: Floats
    tokens: Floats
    unique: Floats
    loss: Floats

    @property
    def epochs(self) -> Floats:
        return self.tokens / self.unique

    def __getitem__(self, keep: NDArray[np.bool_]) -> Runs:
        return Runs(self.params[keep], self.tokens[keep], self.unique[keep], self.loss[keep])


@dataclass(frozen=True)
class Form:
    """loss(theta, runs), and the ends between which starts are drawn."""

    name: str
    loss: Callable[[Floats, Runs], Floats]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _size(runs: Runs) -> Floats:
    """ln N from its centre, so that starts are of one scale."""
    return np.asarray(np.log(runs.params / 1e9))


def r_star(theta: Floats, runs: Runs) -> Floats:
    """theta: ln E, ln of the terms at 1e9 parameters and 1e10 tokens, a, b, ln R*."""
    ln_e, ln_a, ln_b, a, b, ln_r = theta
    again = np.maximum(runs.epochs - 1.0, 0.0)
    worth = np.minimum(runs.tokens, runs.unique) * (1.0 - np.exp(ln_r) * np.expm1(-again / np.exp(ln_r)))
    return np.asarray(np.exp(ln_e) + np.exp(ln_a - a * _size(runs)) + np.exp(ln_b - b * np.log(worth / 1e10)))


def _h(theta: Floats, runs: Runs) -> Floats:
    ln_a, ln_b, ln_c, a, b, grows, v = theta
    size, tokens, unique = _size(runs), np.log(runs.tokens / 1e10), np.log(runs.unique / 1e10)
    return np.asarray(
        np.exp(np.minimum(ln_a - a * size, 50.0))
        + np.exp(np.minimum(ln_b - b * tokens, 50.0))
        + np.exp(np.minimum(ln_c + grows * size - v * unique, 50.0))
    )


def overfitting(theta: Floats, runs: Runs) -> Floats:
    """theta: ln E, ln of the three terms at 1e9, 1e10, 1e10, their exponents."""
    e, h = np.exp(theta[0]), _h(theta[1:], runs)
    return np.asarray(e + (np.log(VOCABULARY) - e) * h / (1.0 + h))


def no_ceiling(theta: Floats, runs: Runs) -> Floats:
    return np.asarray(np.exp(theta[0]) + _h(theta[1:], runs))


FORMS = (
    Form("R*", r_star, (-1.0, -3.0, -3.0, 0.1, 0.1, 0.0), (0.9, 1.0, 1.0, 0.8, 0.8, 4.0)),
    Form("bounded", overfitting, (-1.0, -6.0, -6.0, -9.0, *4 * [0.1]), (0.9, -1.0, -1.0, -2.0, 0.8, 0.8, 1.5, 1.5)),
    Form("no ceiling", no_ceiling, (-1.0, -3.0, -3.0, -7.0, *4 * [0.1]), (0.9, 1.0, 1.0, 0.0, 0.8, 0.8, 1.5, 1.5)),
)  # fmt: skip


def fitted(form: Form, runs: Runs) -> Floats:
    """The best of many starts."""
    rng = np.random.default_rng(0)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(np.log(runs.loss) - np.log(form.loss(theta, runs)))

    found = [
        least_squares(residuals, rng.uniform(form.low, form.high), loss="huber", f_scale=HUBER, max_nfev=2000)
        for _ in range(STARTS)
    ]
    return np.asarray(min(found, key=lambda each: each.cost).x)


def errors(form: Form, theta: Floats, runs: Runs) -> dict[str, float]:
    """Bias, root mean square and the largest error."""
    error = np.log(runs.loss) - np.log(form.loss(theta, runs))
    return {
        "runs": len(error),
        "bias": float(error.mean()),
        "rms": float(np.sqrt(np.mean(error**2))),
        "worst": float(error[np.argmax(np.abs(error))]),
    }


def read(file: Path) -> Runs:
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    columns = [np.array([float(row[name]) for row in rows]) for name in ("N", "D", "unique_tokens", "loss")]
    return Runs(*columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    runs = read(asked.table)
    found = []
    print(f"{'form':13} {'fitted to':16} {'asked of':16} runs   bias    rms  worst, % of ln loss")
    for form in FORMS:
        for most in (np.inf, 8.0, 40.0):
            inside = runs.epochs <= 1.001 * most
            theta = fitted(form, runs[inside])
            for rows, where in ((inside, "the same"), (~inside, "the rest")):
                if not rows.any():
                    continue
                seen = errors(form, theta, runs[rows])
                limit = None if np.isinf(most) else most
                found.append({"form": form.name, "most_epochs": limit, "asked": where, **seen, "theta": theta.tolist()})
                upto = "all" if limit is None else f"{limit:g} epochs"
                shown = "  ".join(f"{100 * seen[name]:+5.1f}" for name in ("bias", "rms", "worst"))
                print(f"{form.name:13} {upto:16} {where:16} {seen['runs']:4}  {shown}", flush=True)
    if asked.out is not None:
        rows_out = [
            each | {"most_epochs": None if np.isinf(each["most_epochs"]) else each["most_epochs"]} for each in found
        ]
        asked.out.write_text(json.dumps(rows_out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
