"""What of the nano study hangs on a convention, and how well its laws forecast the budget after the last one fitted.

    python benchmarks/nano_checks.py          a minute; writes benchmarks/results/nano_checks.json

Conventions: the fitted loss (held out, or the training loss of the last tenth), N without or with the token table, C as
the paper counts it or all in (with attention and the table's update).  For each of the eight the best method and size
at the study's budgets and at that of the claim, by the embedding law fitted to each method, one epoch of the data at
most.  Backtest: every law fitted to full fine-tuning below a budget, against the runs at it; the claim's runs are the
last of these budgets.

Shapes: R runs, K candidates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.csv

from isoembed.core import InputError, write_atomically
from isoembed.families import NANO
from isoembed.families.base import ModelSpec
from isoembed.fitting.fit import fit
from isoembed.fitting.io.ledger import Target, group_runs
from isoembed.flops import all_in_flop
from isoembed.laws import COMPARED, law_named
from isoembed.laws.points import Rows
from isoembed.methods import Method
from isoembed.recipe import DataStats
from isoembed.records import Ledger, RunRecord

RESULTS = Path(__file__).parent / "results"
RUNS, CLAIM, OUT = RESULTS / "nano_study.jsonl.gz", RESULTS / "nano_claim.csv", RESULTS / "nano_checks.json"
BUDGETS = (7.8125e10, 3.125e11, 1.25e12, 5e12, 2e13)
LAW = law_named("embedding")
Convention = tuple[Target, Literal["params", "total_params"], Literal["model_flop", "all_in_flop"]]


def flop_per_token(model: ModelSpec, method: Method, data: DataStats, counts: str) -> float:
    """FLOP of one token under either convention for C."""
    cost = method.cost(model)
    if counts == "model_flop":
        return float(cost.flop_per_token)
    squared = data.squared_tokens / data.tokens_per_pair
    return all_in_flop(cost, tokens=1.0, squared_lengths=squared, hidden=model.attention_width, blocks=model.blocks)


def best(records: Sequence[RunRecord], convention: Convention) -> list[dict[str, Any]]:
    """The best method and size at each budget, and how far behind the best of another method is."""
    target, size, counts = convention
    data = records[0].recipe.data
    assert data.pairs is not None
    arms, per_token, loss_of = [], [], []
    for group in group_runs(records, [LAW], {"params": size}, target=target):
        found = fit(LAW, group.points)
        for model, tried in product(NANO.models, group.tested_settings):
            arms.append((model, tried.on(model), tried.label))
            per_token.append(flop_per_token(model, tried.on(model), data, counts))
            loss_of.append(found.params)
    answers = []
    for budget in BUDGETS:
        rows = []
        for (model, method, label), each, params in zip(arms, per_token, loss_of, strict=True):
            tokens = budget / each
            if tokens > data.pairs * data.tokens_per_pair:
                continue
            share = method.cost(model).trained_share
            log_params, log_tokens, log_flop = (np.log([value]) for value in (getattr(model, size), tokens, budget))
            at = Rows(log_params, log_tokens, log_flop, np.array([1 - share]))
            rows.append((float(LAW.predict(params, at)[0]), label, model.name))
        loss, label, name = min(rows)
        others = [row for row in rows if row[1].split(" ")[0] != label.split(" ")[0]]
        answers.append(
            {
                "flop": budget,
                "method": label,
                "model": name,
                "loss": round(loss, 4),
                "next_method": min(others)[1],
                "behind": round(min(others)[0] - loss, 4),
            }
        )
    return answers


def backtest(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Full fine-tuning: mean and root mean square of ln(observed / forecast) at each budget, by law."""
    (group,) = (g for g in group_runs(records, [LAW]) if g.method == "full")
    claimed = [
        row
        for row in pyarrow.csv.read_csv(CLAIM).to_pylist()
        if row["method"] == "full" and row["heldout_fingerprint"] == records[0].heldout.fingerprint  # type: ignore[union-attr]
    ]
    points, answers = group.points, []
    for budget in BUDGETS[2:]:
        below_R = points.flop < 0.7 * budget
        at_R = (points.flop > 0.9 * budget) & (points.flop < 1.1 * budget)
        if budget == BUDGETS[-1]:
            held = [(r["params"], r["tokens"], r["flop"], r["loss"]) for r in claimed]
        else:
            at = points[at_R]
            held = list(zip(at.params, at.tokens, at.flop, at.loss, strict=True))
        params_K, tokens_K, flop_K, loss_K = (np.array(column, dtype=float) for column in zip(*held, strict=True))
        rows = Rows(np.log(params_K), np.log(tokens_K), np.log(flop_K), np.zeros(len(held)))
        for law in COMPARED:
            try:
                found = fit(law, points[below_R])
            except InputError:
                continue
            error_K = np.log(loss_K) - np.log(law.predict(found.params, rows))
            answers.append(
                {
                    "flop": budget,
                    "law": law.name,
                    "fitted": int(below_R.sum()),
                    "held": len(held),
                    "mean_error": round(float(error_K.mean()), 4),
                    "rms_error": round(float(np.sqrt(np.mean(error_K**2))), 4),
                    "ranks_best_first": bool(np.argmin(loss_K) == np.argmin(law.predict(found.params, rows))),
                }
            )
    return answers


def main() -> None:
    records = Ledger.open(RUNS).records()
    conventions: list[dict[str, Any]] = []
    for target, size, counts in product(
        ("heldout", "training"), ("params", "total_params"), ("model_flop", "all_in_flop")
    ):
        answers = best(records, (target, size, counts))  # type: ignore[arg-type] # product forgets the literals
        conventions.append({"target": target, "params": size, "flop": counts, "best": answers})
        print(f"{target:9} {size:13} {counts:12}", *(f"{a['method']} {a['model']} (+{a['behind']})" for a in answers))
    tested = backtest(records)
    for row in tested:
        print(row)
    write_atomically(OUT, json.dumps({"conventions": conventions, "backtest": tested}, indent=1) + "\n")


if __name__ == "__main__":
    main()
