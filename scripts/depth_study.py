"""The study of a real model along its depth: SmolLM2-135M cut to 1, 2, 3, ... blocks, on the mixture of the nano study.

    cd FOLDER                                               where the GGUF file lies; everything below is run from here
    python depth_study.py plan MODEL.gguf PAIRS TASKS LEDGER    the request, once
    isoembed sweep run LEDGER --workers 2                   hours; kill it and run it again at will
    python depth_study.py export LEDGER                     what ships: records and request
    python depth_study.py restore PAIRS TASKS LEDGER        a ledger to go on from, on another machine

PAIRS and TASKS as for `nano_study.py`.  The file is named as seen from FOLDER, so that keys are the same wherever that
lies.  All products are in bf16, one thread a worker.  SmolLM2 has no biases: `norms` stands where the paper has `bias`;
`freeze 1` is full fine-tuning with the token table frozen.
"""

from __future__ import annotations

from pathlib import Path

import typer

from isoembed.cli.models import suite
from isoembed.families.base import Family
from isoembed.recipe import DataStats
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.plan import at_most
from isoembed.sweep.request import RateSearch, SweepRequest
from nano_study import RESULTS, TASKS, export_study, prepared, restore_study

RECORDS, ASKED = RESULTS / "depth_study.jsonl.gz", RESULTS / "depth_study.request.json"
DEPTHS = (1, 2, 3, 4, 6, 9, 12, 18)
#: each four times the one before
BUDGETS = (4e12, 1.6e13, 6.4e13)
#: of training alone; evaluation costs two thirds of it again.  Within the last budget the runs near the best come first
ALLOWANCE_FLOP = 1.5e15
#: the search for learning rates is as dear as its deepest model and its longest horizon
RATES = RateSearch(models=("smollm2-135m@1", "smollm2-135m@4"), steps=(60,), factor=2.5)


def family(file: str) -> Family:
    """The cuts of the model in `file`, whose source is `file` as it is written."""
    found, _ = suite(f"{file}@{','.join(map(str, DEPTHS))}", None)
    models = tuple(model.model_copy(update={"source": file}) for model in found.models)
    return found.model_copy(update={"models": models, "about": "SmolLM2-135M-Instruct cut to its first blocks"})


def plan(model: str, pairs: Path, tasks: Path, ledger: Path) -> None:
    cuts = family(model)
    request = SweepRequest(
        family=cuts,
        models=tuple(cut.name for cut in cuts.models),
        methods=("full", "freeze", "lora", "norms"),
        budgets=BUDGETS,
        batch_pairs=32,
        context_tokens=75,
        min_steps=25,
        prune=3.0,
        precision="bf16",
        rates=RATES,
        allowance_flop=ALLOWANCE_FLOP,
        tasks=tuple(str(tasks / name) for name in TASKS),
        data=DataStats.assumed(75),
    )
    request = prepared(request, pairs, ledger)
    most = at_most(request)
    planned, new = plan_sweep(ledger, request)
    print(f"{len(most.runs)} runs and {most.flop:.3g} FLOP at most, before sizes far from the best are left out")
    print(f"stage {planned.stage}, {new} new runs, {planned.flop:.3g} FLOP; now: isoembed sweep run {ledger}")


def export(ledger: Path) -> None:
    print(export_study(ledger, RECORDS, ASKED))


def restore(pairs: Path, tasks: Path, ledger: Path) -> None:
    print(restore_study(RECORDS, ASKED, pairs, tasks, ledger))


if __name__ == "__main__":
    app = typer.Typer(help=__doc__, add_completion=False)
    for command in (plan, export, restore):
        app.command()(command)
    app()
