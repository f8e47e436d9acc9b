"""Forecasts written down before their runs: the nano laws asked of new runs on two sources, then the runs themselves.

    python scripts/nano_study.py restore PAIRS TASKS OUT/mixture     the study's own pairs, tokenised
    python benchmarks/preregistered.py plan PAIRS OUT                the runs of both sources; nothing is run
    python benchmarks/preregistered.py run OUT second --only level   three runs that give the second source its level
    python benchmarks/preregistered.py forecast OUT                  benchmarks/results/preregistered.json, once
    python benchmarks/preregistered.py run OUT second                cheapest first; end it and run it again at will
    python benchmarks/preregistered.py run OUT mixture
    python benchmarks/preregistered.py report OUT                    runs in preregistered.jsonl.gz, errors printed
    python benchmarks/preregistered.py errors                        the same errors, of the runs that are kept here

Two fits of each law: `low`, to the study's runs up to 3.2e11 FLOP, of which the mixture's runs lie 8 to 32 times
beyond; and `all`, to 5e12.  The second source is one of the mixture's 17 alone (msdocs); there every law gets its
level, one factor of e^L - 1, from the same three runs of 1e11 FLOP (`isoembed.fitting.level`), 4 to 40 times beyond
them.  One thread, one seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoembed.core import InputError, write_atomically
from isoembed.families import NANO
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.io.ledger import group_runs, read_ledger
from isoembed.fitting.level import levelled
from isoembed.fitting.settings import Group
from isoembed.laws import LAWS, laws_named
from isoembed.laws.points import Points
from isoembed.methods import method_of
from isoembed.recipe import Recipe
from isoembed.recommendation.request import Request
from isoembed.records import Ledger, RunRecord
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.request import SweepRequest, load_request
from isoembed.sweep.stage import Stage
from isoembed.workflows.execute import execute
from isoembed.workflows.job import DataOptions
from isoembed.workflows.sweep import SWEEP_EXECUTION, open_context, prepare_request

RESULTS = Path(__file__).parent / "results"
STUDY, FORECASTS, RUNS = (
    RESULTS / name for name in ("nano_study.jsonl.gz", "preregistered.json", "preregistered.jsonl.gz")
)
COMPARED = ("interaction-odds", "hoffmann", "embedding")
#: most FLOP of the runs that each fit sees
FITS = {"low": 3.2e11, "all": 1e13}
#: stage, method, model, FLOP
PLANNED = {
    "second": (
        ("level", "full", "nano-51k", 1e11),
        ("level", "freeze 0.5", "nano-51k", 1e11),
        ("level", "lora r=8", "nano-51k", 1e11),
        ("claim", "full", "nano-51k", 4e11),
        ("claim", "freeze 0.5", "nano-113k", 4e11),
        ("claim", "lora r=12", "nano-113k", 4e11),
        ("claim", "full", "nano-113k", 1.6e12),
        ("claim", "freeze 0.5", "nano-113k", 1.6e12),
        ("claim", "lora r=16", "nano-200k", 1.6e12),
        ("claim", "full", "nano-113k", 4e12),
    ),
    "mixture": (
        ("claim", "full", "nano-51k", 2.5e12),
        ("claim", "freeze 0.5", "nano-113k", 2.5e12),
        ("claim", "lora r=12", "nano-113k", 2.5e12),
        ("claim", "freeze 0.5", "nano-200k", 6e12),
        ("claim", "lora r=16", "nano-200k", 6e12),
        ("claim", "full", "nano-113k", 1e13),
    ),
}


def plan(pairs: Path, out: Path) -> None:
    """Both ledgers with their runs; the second's pairs are tokenised here."""
    study = load_request(out / "mixture")
    second = out / "second"
    if not (second / "sweep.json").exists():
        options = DataOptions(str(pairs / "msdocs.jsonl.gz"))
        prepared = prepare_request(study.model_copy(update={"tasks": ()}), options, cache=second / "tokens")
        write_atomically(second / "sweep.json", prepared.model_dump_json(indent=1) + "\n")
    for source, planned in PLANNED.items():
        request = load_request(out / source)
        runs = [
            PlannedRun(recipe=recipe_of(request, label, model, flop), part=Stage(kind="other", name=stage), order=order)
            for order, (stage, label, model, flop) in enumerate(planned)
        ]
        print(f"{source}: {SweepFolder(out / source).add_runs(runs)} new, {request.data.pairs:,} pairs")


def recipe_of(request: SweepRequest, label: str, model: str, flop: float) -> Recipe:
    """One epoch at most at the family's own rate, as `isoembed run` would make it."""
    method, spec = method_of(label), NANO.model(model)
    asked = Request.of(f"{flop:g}", NANO, request.setup, data=request.data, method=method).complete()
    made = asked.recipe(flop, spec, method, most_epochs=1.0)
    return made.model_copy(update={"base_hash": request.base_hashes[model]})


def own_runs(folder: SweepFolder) -> list[PlannedRun]:
    """The runs of this claim, in order; a restored ledger holds the study's too."""
    return sorted((each for each in folder.runs() if each.part.name in ("level", "claim")), key=lambda each: each.order)


def run(out: Path, source: str, only: str | None) -> None:
    """The open runs of `source`, one after another."""
    torch.set_num_threads(1)
    folder = SweepFolder(out / source)
    context = open_context(load_request(out / source).model_copy(update={"tasks": ()}), SWEEP_EXECUTION)
    done = {record.key for record in folder.ledger.records()}
    for planned in own_runs(folder):
        if planned.key in done or only not in (None, planned.part.name):
            continue
        place = out / "work" / planned.key
        place.mkdir(parents=True, exist_ok=True)
        outcome = execute(planned.recipe, place, context)
        said = str(outcome)
        if isinstance(outcome, RunRecord):
            folder.ledger.add(outcome)
            assert outcome.heldout is not None
            said = f"{outcome.heldout.loss:.4f} in {outcome.wall_seconds:.0f} s"
        print(planned.recipe.method.label, planned.recipe.model.name, f"{planned.recipe.flop:.3g}: {said}", flush=True)


def fitted(groups: Sequence[Group], law: str, most: float) -> LawSet:
    """`law` fitted to the runs of each method up to `most` FLOP, with 400 draws."""
    found = []
    (form,) = laws_named(law)
    for group in groups:
        points = group.points[group.points.flop <= most]
        boot = bootstrap(form, points[form.applies(points)], draws=400)
        found.append(LawFile.of(boot, replace(group, points=points), source=STUDY.name))
    return LawSet(laws=tuple(found))


def points_of(recipes: Sequence[Recipe], candidates: int | None) -> Points:
    """Recipes as rows whose losses nobody knows."""
    costs = [recipe.cost for recipe in recipes]
    return Points.of(
        [recipe.model.params for recipe in recipes],
        [recipe.train_tokens for recipe in recipes],
        np.ones(len(recipes)),
        flop=[recipe.flop for recipe in recipes],
        fraction=[cost.updated / cost.forward for cost in costs],
        candidates=candidates,
    )


def forecasts(out: Path) -> Iterator[dict[str, Any]]:
    """Each run that is not there to give a level, under each law and fit."""
    groups = [group for group in read_ledger(STUDY, LAWS) if group.method in ("full", "freeze", "lora")]
    recipes = {
        source: [each.recipe for each in own_runs(SweepFolder(out / source)) if each.part.name == "claim"]
        for source in PLANNED
    }
    level = group_runs(SweepFolder(out / "second").ledger.records(), LAWS)
    for law in COMPARED:
        for name, most in FITS.items():
            laws = {"mixture": fitted(groups, law, most)}
            laws["second"] = levelled(laws["mixture"], level, "three runs of the second source", least_ratio=1.0)
            for source, asked in recipes.items():
                for found in laws[source].laws:
                    mine = [recipe for recipe in asked if recipe.method.name == found.method]
                    intervals = found.bootstrap().loss_intervals(
                        points_of(mine, groups[0].points.candidates), noise=True
                    )
                    for recipe, interval in zip(mine, intervals, strict=True):
                        yield {
                            "key": recipe.key,
                            "source": source,
                            "run": f"{recipe.method.label} on {recipe.model.name}",
                            "tokens": recipe.train_tokens,
                            "flop": recipe.flop,
                            "law": law,
                            "fit": name,
                            "beyond": recipe.flop / found.range["flop"][1],
                            "loss": [
                                round(float(v), 4) if v is not None else None
                                for v in (interval.value, interval.low, interval.high)
                            ],
                        }


def forecast(out: Path) -> None:
    if FORECASTS.exists():
        raise InputError(f"{FORECASTS.name} is written once; what it says stands.")
    found = sorted(forecasts(out), key=lambda row: (row["source"], row["flop"], row["run"]))
    FORECASTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n", encoding="utf-8")
    show(found, {})


def show(rows: Sequence[dict[str, Any]], seen: dict[str, float]) -> None:
    """One line per run, and for what was run each law's bias, root mean square and coverage."""
    columns = [(law, fit) for fit in FITS for law in COMPARED]
    print("source   FLOP     run                       got    " + "  ".join(f"{law} ({fit})" for law, fit in columns))
    by_run: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["key"], {})[row["law"], row["fit"]] = row
    for key, found in by_run.items():
        one = next(iter(found.values()))
        got = f"{seen[key]:.3f}" if key in seen else "  -  "
        each = "  ".join("{:.3f} [{:.3f}, {:.3f}]".format(*found[column]["loss"]) for column in columns)
        print(f"{one['source']:8} {one['flop']:.3g} {one['run']:25} {got}  {each}")
    for source in PLANNED if seen else ():
        for law, fit in columns:
            mine = [r for r in rows if (r["law"], r["fit"], r["source"]) == (law, fit, source) and r["key"] in seen]
            if not mine:
                continue
            error_R = np.array([np.log(seen[row["key"]] / row["loss"][0]) for row in mine])
            inside = np.mean([row["loss"][1] <= seen[row["key"]] <= row["loss"][2] for row in mine])
            print(
                f"{source:8} {law:17} {fit:4} {len(mine)} runs: bias {100 * error_R.mean():+.1f} %, "
                f"rms {100 * np.sqrt((error_R**2).mean()):.1f} %, inside {inside:.2f}"
            )


def named(record: RunRecord) -> RunRecord:
    """Without the paths of the machine that made it; its key does not depend on those."""
    data = record.recipe.data
    source = {
        "mixture": "the nano study's mixture (scripts/nano_study.py)",
        "second": "msdocs alone (one of its sources)",
    }
    study = data.fingerprint == "b181355f7b46aff5"
    data = data.model_copy(update={"source": source["mixture" if study else "second"]})
    return record.model_copy(update={"recipe": record.recipe.model_copy(update={"data": data})})


def report(out: Path) -> None:
    """What came of it, as far as it was run."""
    records: dict[str, RunRecord] = {}
    for source in PLANNED:
        folder = SweepFolder(out / source)
        mine = {planned.key for planned in own_runs(folder)}
        records |= {record.key: record for record in folder.ledger.records() if record.key in mine}
    SweepFolder(out / "second").ledger.export(RUNS, [named(record) for record in records.values()])
    errors()


def errors() -> None:
    """What came of the runs in `RUNS`."""
    rows = json.loads(FORECASTS.read_text(encoding="utf-8"))
    show(rows, {each.key: each.heldout.loss for each in Ledger.open(RUNS).records() if each.heldout is not None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for what, places in (
        (plan, ("pairs", "out")),
        (run, ("out",)),
        (forecast, ("out",)),
        (report, ("out",)),
        (errors, ()),
    ):
        command = commands.add_parser(what.__name__)
        command.set_defaults(what=what)
        for name in places:
            command.add_argument(name, type=Path)
        if what is run:
            command.add_argument("source", choices=tuple(PLANNED))
            command.add_argument("--only", choices=("level", "claim"))
    given = vars(parser.parse_args())
    given.pop("what")(**given)


if __name__ == "__main__":
    main()
