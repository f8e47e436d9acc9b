"""The study of a real model along its depth: SmolLM2-135M cut to 1, 2, 3, ... blocks, on the mixture of the nano study.

    cd FOLDER                                               where the GGUF file lies; everything below is run from here
    python depth_study.py plan MODEL.gguf PAIRS TASKS LEDGER    the request, once
    isoembed sweep run LEDGER --workers 2                   hours; kill it and run it again at will
    python depth_study.py near LEDGER BUDGET                of a budget the runs of NEAR alone; once a core
    python depth_study.py export LEDGER                     what ships: records, request and law
    python depth_study.py law                               the law again, of the records that ship
    python depth_study.py restore PAIRS TASKS LEDGER        a ledger to go on from, on another machine

PAIRS and TASKS as for `nano_study.py`.  The file is named as seen from FOLDER, so that keys are the same wherever that
lies.  All products are in bf16, one thread a worker.  SmolLM2 has no biases: `norms` stands where the paper has `bias`;
`freeze 1` is full fine-tuning with the token table frozen.
"""

from __future__ import annotations

from pathlib import Path

import typer

from isoembed.families.base import Family
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.study import study_source
from isoembed.laws import law_named
from isoembed.recipe import DataStats
from isoembed.recommendation.recommend import LAWS_FOLDER
from isoembed.sweep.advance import explain, plan_sweep
from isoembed.sweep.folder import SweepFolder
from isoembed.sweep.plan import at_most
from isoembed.sweep.request import RateSearch, SweepRequest, load_request
from isoembed.workflows.models import suite
from nano_study import DRAWS, RESULTS, TASKS, export_study, prepared, restore_study, work_off

RECORDS, ASKED = RESULTS / "depth_study.jsonl.gz", RESULTS / "depth_study.request.json"
LAW = LAWS_FOLDER / "smollm2-135m@.json"
#: compared on what is held out; with power beside them, which has no N, a method of few runs would get that
LAWS = ("embedding", "frantar", "interaction-odds", "frantar-odds", "hoffmann", "tied")
DEPTHS = (1, 2, 3, 4, 6, 9, 12, 18)
#: each four times the one before
BUDGETS = (4e12, 1.6e13, 6.4e13)
#: of training alone; evaluation costs two thirds of it again.  Within the last budget the runs near the best come first
ALLOWANCE_FLOP = 1.5e15
#: what ran where a budget's whole grid was too dear, the most telling first: near the best of the budget before
NEAR = {
    1.6e13: (
        "2 freeze 0.5, 2 lora r=36, 3 lora r=36, 3 freeze 0.333, 1 full, 2 full, 2 freeze 1, 3 freeze 0.667, "
        "4 lora r=36, 4 freeze 0.25, 3 freeze 1, 3 full, 3 lora r=72, 2 lora r=72, 1 lora r=36, 4 freeze 0.5, "
        "6 lora r=36, 6 freeze 0.167, 4 full, 1 freeze 1, 4 lora r=72, 6 freeze 0.333, "
        "9 lora r=36, 9 freeze 0.333, 12 lora r=36, 12 freeze 0.333, 18 lora r=36, 18 freeze 0.25"
    ),
    6.4e13: "2 freeze 0.5, 2 full, 3 freeze 0.333, 2 lora r=36, 4 freeze 0.5, 6 freeze 0.333",
    2.56e14: "2 freeze 0.5, 1 freeze 1, 3 freeze 0.333",
}
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


def near(ledger: Path, budget: float) -> None:
    """Train the runs of NEAR at `budget`, in place of the budget's whole grid; once a core."""
    request, folder = load_request(ledger), SweepFolder(ledger)
    everything = request.model_copy(update={"budgets": (budget,), "allowance_flop": None, "prune": None})
    planned = {
        f"{run.recipe.model.depth} {run.recipe.method.label}": run
        for run in explain(folder, everything).runs
        if run.part.budget == budget
    }
    names = NEAR[budget].split(", ")
    runs = [planned[name] for name in names]
    new = folder.add_runs(runs)
    print(f"{new} new runs, {sum(run.recipe.flop for run in runs):.3g} FLOP in all", flush=True)
    work_off(folder, request, [run.key for run in runs])


def export(ledger: Path) -> None:
    print(export_study(ledger, RECORDS, ASKED))
    law()


def law() -> None:
    """The laws of what ships; norms ran at one budget alone, and none is fitted to them."""
    found = study_source(RECORDS, [law_named(name) for name in LAWS], draws=DRAWS)
    LawSet(laws=tuple(each for each in found.laws if each.method != "norms")).save(LAW)
    print(f"law in {LAW.name}")


def restore(pairs: Path, tasks: Path, ledger: Path) -> None:
    print(restore_study(RECORDS, ASKED, pairs, tasks, ledger))


if __name__ == "__main__":
    app = typer.Typer(help=__doc__, add_completion=False)
    for command in (plan, near, export, law, restore):
        app.command()(command)
    app()
