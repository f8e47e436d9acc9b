"""Does a cut of a larger model do as well as a model pretrained at that size?  On the suite of the nano study.

    python scripts/depth_curve.py plan PAIRS LEDGER      a sweep of each larger model's cuts, in LEDGER/MODEL
    isoembed sweep run LEDGER/MODEL                      each; minutes
    python scripts/depth_curve.py table LEDGER           every cut beside the sizes, and results/depth_curve.json

Full fine-tuning at two budgets of the nano study, on its pairs, at rates searched for on each model's own cuts.  A cut
is compared with the curve through the study's separately pretrained sizes, linear in ln N and ln loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer

from isoembed.core import write_atomically
from isoembed.recipe import DataStats
from isoembed.records import Ledger, RunRecord
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.request import RateSearch, SweepRequest
from isoembed.workflows.models import suite
from nano_study import RECORDS, RESULTS, prepared

#: larger model -> depths whose sizes the study's own models bracket
CUTS = {"nano-200k": (1, 2, 3, 4), "nano-389k": (1, 2), "nano-1.6m": (1,)}
BUDGETS = (3.125e11, 1.25e12)
RESULT = RESULTS / "depth_curve.json"


def plan(pairs: Path, ledger: Path) -> None:
    for model, depths in CUTS.items():
        family, _ = suite(f"{model}@{','.join(map(str, depths))}", None)
        names = tuple(cut.name for cut in family.models)
        request = SweepRequest(
            family=family,
            models=names,
            methods=("full",),
            budgets=BUDGETS,
            batch_pairs=32,
            context_tokens=75,
            min_steps=200,
            prune=None,
            rates=RateSearch(models=tuple(dict.fromkeys((names[0], names[-1]))), steps=(100, 300), factor=2.5),
            data=DataStats.assumed(75),
        )
        planned, new = plan_sweep(ledger / model, prepared(request, pairs, ledger / model))
        print(f"{model}: stage {planned.stage}, {new} new runs, {planned.flop:.3g} FLOP")


def at(records: list[RunRecord], budget: float) -> dict[str, tuple[float, float]]:
    """model -> (N, loss) of full runs within 2 % of `budget`: the least over rates of the mean over seeds."""
    found: dict[str, dict[float, list[float]]] = {}
    sizes = {}
    for record in records:
        recipe, heldout = record.recipe, record.heldout
        if recipe.method.name != "full" or heldout is None or abs(record.model_flop / budget - 1) > 0.02:
            continue
        sizes[recipe.model.name] = recipe.model.params
        found.setdefault(recipe.model.name, {}).setdefault(recipe.learning_rate, []).append(heldout.loss)
    return {name: (sizes[name], min(float(np.mean(losses)) for losses in by.values())) for name, by in found.items()}


def table(ledger: Path) -> None:
    study = Ledger.open(RECORDS).records()
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        sizes = sorted(at(study, budget).values())
        size, loss = np.log(np.array(sizes)).T
        for model in CUTS:
            for cut, (params, found) in at(Ledger.open(ledger / model).records(), budget).items():
                inside = sizes[0][0] <= params <= sizes[-1][0]
                expected = float(np.exp(np.interp(np.log(params), size, loss))) if inside else None
                rows.append({"flop": budget, "cut": cut, "params": params, "loss": found, "size_curve": expected})
    write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    print("| FLOP | cut | N | loss | size curve there | cut above it |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        there = "outside | " if row["size_curve"] is None else f"{row['size_curve']:.3f} | "
        above = "" if row["size_curve"] is None else f"{100 * (row['loss'] / row['size_curve'] - 1):+.1f} %"
        print(f"| {row['flop']:.3g} | {row['cut']} | {row['params']:,} | {row['loss']:.3f} | {there}{above} |")


if __name__ == "__main__":
    app = typer.Typer(help=__doc__, add_completion=False)
    for command in (plan, table):
        app.command()(command)
    app()
