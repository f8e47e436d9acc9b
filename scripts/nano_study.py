"""The nano study: the paper's experiment on the suite that ships, from text pairs to `assets/laws/nano.json`.

    python scripts/nano_study.py plan PAIRS TASKS LEDGER    the request, once
    isoembed sweep run LEDGER --workers 2                   days or hours; kill it and run it again at will
    python scripts/nano_study.py export LEDGER              what ships: records, request, laws
    python scripts/nano_study.py restore PAIRS TASKS LEDGER a ledger to go on from, on another machine
    python scripts/nano_study.py again LEDGER METHOD RATE ...  a method's runs at other learning rates
    python scripts/nano_study.py claim LEDGER OUT           the test at four times the largest budget; once a core

PAIRS holds the sources below as NAME.jsonl.gz, TASKS the evaluation tasks as KIND/NAME.  Sources are weighted by hand,
not by size: the two largest, templated ones count half.  One thread a worker makes the losses reproducible.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from isoembed.budget import Budget
from isoembed.core import InputError, write_atomically
from isoembed.families import NANO
from isoembed.fitting.study import study_source
from isoembed.laws import law_named
from isoembed.recipe import DataStats
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import LAWS_FOLDER, Recommendation, recommend
from isoembed.records import FailedRun, Ledger, RunRecord
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.request import RateSearch, SweepRequest, load_request
from isoembed.sweep.stage import Stage
from isoembed.sweep.work import work
from isoembed.workflows.execute import execute
from isoembed.workflows.job import DataOptions
from isoembed.workflows.sweep import SWEEP_EXECUTION, open_context, prepare_request

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
RECORDS, ASKED = RESULTS / "nano_study.jsonl.gz", RESULTS / "nano_study.request.json"
LAW = LAWS_FOLDER / "nano.json"
#: source -> weight in the mixture, about the pairs that it gives
WEIGHTS = {
    "msdocs": 100000,
    "wordnet_definitions": 65000,
    "bible_translations": 43000,
    "sgd_dialogue": 39000,
    "opentriviaqa": 39000,
    "proposals_gov_docs": 28000,
    "ml_papers_title_abstract": 19500,
    "medquad": 16300,
    "wikisplit": 13500,
    "chrome_dev_docs": 12600,
    "disfl_qa": 11700,
    "openstax_ccby": 11200,
    "scitldr": 7500,
    "gsm8k": 7400,
    "e2e_paraphrase": 4200,
    "covid_qa": 1400,
    "qmsum": 970,
}
TASKS = ("sts/stsbenchmark", "retrieval/stackfaq", "retrieval/cranfield")
#: four budgets, each four times the one before; the claim is tested at four times the last
BUDGETS = (7.8125e10, 3.125e11, 1.25e12, 5e12)
#: of the shipped law's bootstrap
DRAWS = 400
CLAIM_FLOP = 4 * BUDGETS[-1]
#: recipes run beside the recommended one, apart from each method's best
RIVALS = 2
#: compared on what is held out; all read the trained share, so that a method's hyperparameters share one law
LAWS = ("embedding", "frantar", "interaction-odds")
#: how the mixture is named in what ships
SOURCE = f"a weighted mixture of {len(WEIGHTS)} public pair sources (scripts/nano_study.py)"


def prepared(request: SweepRequest, pairs: Path, ledger: Path) -> SweepRequest:
    """The mixture tokenised into the ledger's folder: its statistics, the weights' hashes, how to open it again."""
    spec = ",".join(f"{pairs / name}.jsonl.gz:{weight}" for name, weight in WEIGHTS.items())
    return prepare_request(request, DataOptions(spec), cache=ledger / "tokens")


def plan(pairs: Path, tasks: Path, ledger: Path) -> None:
    request = SweepRequest.model_validate(
        {
            "family": NANO,
            "models": tuple(model.name for model in NANO.models),
            "budgets": BUDGETS,
            "batch_pairs": 32,
            "context_tokens": 75,
            "seeds": (0, 1, 2),
            "min_steps": 200,
            "rates": RateSearch(models=("nano-28k", "nano-113k", "nano-389k"), steps=(100, 300), factor=2.5),
            "allowance_flop": 2.5e14,
            "tasks": tuple(str(tasks / name) for name in TASKS),
            "data": DataStats.assumed(75),
        }
    )
    planned, new = plan_sweep(ledger, prepared(request, pairs, ledger))
    print(f"stage {planned.stage}, {new} new runs, {planned.flop:.3g} FLOP; now: isoembed sweep run {ledger}")


def without_places(ledger: Path) -> tuple[list[RunRecord | FailedRun], SweepRequest]:
    """Outcomes and request without the paths of the machine that made them; keys do not depend on those."""

    def named(outcome: RunRecord | FailedRun) -> RunRecord | FailedRun:
        data = outcome.recipe.data.model_copy(update={"source": SOURCE})
        return outcome.model_copy(update={"recipe": outcome.recipe.model_copy(update={"data": data})})

    request = load_request(ledger)
    data = request.data.model_copy(update={"source": SOURCE})
    shipped = request.model_copy(update={"data": data, "data_options": {}, "tasks": TASKS})
    return [named(outcome) for outcome in Ledger.open(ledger).outcomes()], shipped


def export_study(ledger: Path, records: Path, asked: Path) -> str:
    """Write what ships of a ledger; returns it in words."""
    outcomes, request = without_places(ledger)
    Ledger.open(ledger).export(records, outcomes)
    write_atomically(asked, request.model_dump_json(indent=1) + "\n")
    return f"{len(outcomes)} runs in {records.name}, {records.stat().st_size / 2**20:.2f} MiB"


def restore_study(records: Path, asked: Path, pairs: Path, tasks: Path, ledger: Path) -> str:
    """A ledger as it shipped, loss curves apart: its request, with the family as it was then (its rates are where the
    search for rates began), and its records, so that finished runs are not run again; returns that in words."""
    request = SweepRequest.model_validate_json(asked.read_bytes())
    here = prepared(request, pairs, ledger)
    if here.data.fingerprint != request.data.fingerprint:
        raise InputError(f"The pairs must be those of the study; {pairs} holds others. Get them from their sources.")
    places = {"data_options": here.data_options, "tasks": tuple(str(tasks / name) for name in TASKS)}
    added = sum(Ledger(ledger).add(outcome) for outcome in Ledger.open(records).outcomes())
    request, planned, new = request.model_copy(update=places), None, 1
    while new:  # what a stage came to plans the next
        planned, new = plan_sweep(ledger, request)
    assert planned is not None
    return f"{added} runs restored; stage {planned.stage}, {len(planned.runs)} runs planned"


def export(ledger: Path) -> None:
    said = export_study(ledger, RECORDS, ASKED)
    study_source(RECORDS, [law_named(name) for name in LAWS], draws=DRAWS).save(LAW)
    print(f"{said}; law in {LAW.name}")


def restore(pairs: Path, tasks: Path, ledger: Path) -> None:
    """The ledger as it shipped, loss curves apart: its request, with the family as it was then (its rates are where the
    search for rates began), and its records, so that finished runs are not run again."""
    print(restore_study(RECORDS, ASKED, pairs, tasks, ledger))


def again(ledger: Path, method: str, rates: list[float]) -> None:
    """Plan the first seed of the method's runs in the budgets once more at each of `rates`: for a rule of rates that
    led astray.  The laws read each run at its best rate."""
    folder = SweepFolder(ledger)
    runs = [
        run.model_copy(
            update={
                "recipe": run.recipe.model_copy(update={"learning_rate": rate}),
                "part": Stage(kind="other", name=f"{method} again"),
                "order": round(run.recipe.flop / BUDGETS[0]),
            }
        )
        for run in folder.runs()
        if run.part.kind == "budget" and run.recipe.method.name == method and run.recipe.seed == 0
        for rate in rates
    ]
    known = {run.key for run in folder.runs()}
    new = [run for run in runs if run.key not in known]
    print(f"{folder.add_runs(new)} new runs, {sum(run.recipe.flop for run in new):.3g} FLOP")


def work_off(folder: SweepFolder, request: SweepRequest, only: Sequence[str] | None = None) -> None:
    """Train the open runs of `folder`, or those of the keys `only`, and plan no others; one thread makes the losses
    reproducible."""
    torch.set_num_threads(1)
    context = open_context(request, SWEEP_EXECUTION)
    work(folder, lambda run, place: execute(run.recipe, place, context, scored=run.scored), only=only)


def claim(ledger: Path, out: Path) -> None:
    """Forecast `CLAIM_FLOP` from the ledger, write law and runs down, then run the recommended recipe and its rivals.

    What is written first stands: a process that finds the runs goes on with them.
    """
    request, folder = load_request(ledger), SweepFolder(out)
    if not folder.runs():
        laws = study_source(ledger, [law_named(name) for name in LAWS])
        laws.save(out / "law.json")
        found = recommend(
            Budget.parse(f"{CLAIM_FLOP:g}"), NANO, law=laws, data=request.data, constraints=Constraints(repeats="none")
        )
        write_atomically(out / "forecast.json", found.model_dump_json(indent=1) + "\n")
        rivals = [each.recipe for each in (*found.runners_up[:RIVALS], *found.methods)]
        folder.add_runs(
            [
                PlannedRun(
                    recipe=recipe.model_copy(update={"base_hash": request.base_hashes[recipe.model.name]}),
                    part=Stage(kind="other", name="claim"),
                    order=order,
                    scored=True,
                )
                for order, recipe in enumerate(dict.fromkeys((found.recipe, *rivals)))
            ]
        )
    work_off(folder, request)
    forecast = Recommendation.model_validate_json((out / "forecast.json").read_bytes())
    print(f"forecast {forecast.recipe.method.label} on {forecast.recipe.model.name}: {forecast.loss}")
    for record in folder.ledger.records():
        print(f"{record.recipe.method.label:10} {record.recipe.model.name:10} {record.heldout}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    places: dict[Callable[..., None], tuple[str, ...]] = {
        plan: ("pairs", "tasks", "ledger"),
        restore: ("pairs", "tasks", "ledger"),
        export: ("ledger",),
        claim: ("ledger", "out"),
        again: ("ledger",),
    }
    for what, names in places.items():
        command = commands.add_parser(what.__name__)
        command.set_defaults(what=what)
        for name in names:
            command.add_argument(name, type=Path)
        if what is again:
            command.add_argument("method")
            command.add_argument("rates", type=float, nargs="+")
    given = vars(parser.parse_args())
    given.pop("what")(**given)


if __name__ == "__main__":
    main()
