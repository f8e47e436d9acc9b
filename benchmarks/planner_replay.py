"""Does the pilot planner reach the full grid's decision at a tenth of its FLOP?  Replays on finished tables.

    python benchmarks/planner_replay.py                     a quarter of an hour on one idle core
    python benchmarks/planner_replay.py --only nano_study   one table; the others' results stay
    python benchmarks/planner_replay.py --ledger LEDGER     that ledger in place of the shipped nano study
    python benchmarks/planner_replay.py --quick             3 replays, printed, nothing written

Tables: gemstones_hot.csv and porian_isoflop.csv from `--tables` (skipped, with a word, where they are absent), and one
drawn from two planted laws, and the shipped nano study.  What is at or above the target budget is never shown to a
planner.  Each run costs its own flop, checkpoints of one training too (gemstones): a real pilot would pay once for all
checkpoints of a run.

Compared at the same allowance: random, cheapest first, V-optimal (`variance`), `regret`; all choose among the runs
that the planner may run, of the methods that a tenth of the grid pays for, and decide by `isoembed.pilot.decide`.  The
full grid decides from every run below the target.
Regret: ln loss of the chosen candidate above the best one's, at the target, as observed (gemstones: on a parabola
through the target's runs, since N alone cannot tell shapes apart; planted: the truth).  The planner's constants were
chosen while looking at replays of planted, gemstones and Porian's rw 1, 3, 5 and owt2 4, 5; the window and the drift
also at the full grids of all studies.  The two studies named last in PORIAN were replayed only after that.

Results: benchmarks/results/planner_replay.json, docs/figures/planner_replay.png (needs the `figures` extra).

Shapes: R rows of a table, K candidates.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.csv
import pyarrow.parquet

from isoembed.core import write_atomically
from isoembed.fitting.io.ledger import group_runs
from isoembed.laws import Law, Points, law_named
from isoembed.methods import Method
from isoembed.pilot.choose import eligible, plan_next, settled
from isoembed.pilot.decide import Decision, decision_from
from isoembed.pilot.posterior import TOLERANCE, Criterion, Planning, fit_posterior
from isoembed.pilot.runs import PilotRun, PilotTarget, PossibleRun
from isoembed.pilot.start import methods_paid_for
from isoembed.records import Ledger, RunRecord
from isoembed.sweep.pilot import PILOT_METHODS, as_possible_run, middle

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "planner_replay.json"
FIGURE = ROOT / "docs" / "figures" / "planner_replay.png"
SHIPPED = ROOT / "benchmarks" / "results" / "nano_study.jsonl.gz"
#: where the published tables lie: beside the checkout
TABLES = ROOT.parent / "shared" / "scaling"
#: draws: a third of the planner's default, to keep 50 replays affordable
REPLAYS, DRAWS, BATCH = 50, 64, 6
#: data set and configuration of the studies replayed
PORIAN = (
    ("rw", "1_kaplan_repro"),
    ("rw", "5_optimizer_tuning"),
    ("rw", "2_count_last_layer"),
    ("owt2", "2_count_last_layer"),
)
ALLOWANCE = 0.10
SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10)
#: random and cheapest first decide at these alone: each decision is a bootstrap
BASE_SHARES = (0.02, 0.05, 0.10)
PLANNERS = ("random", "cheapest", *get_args(Criterion))
#: budgets within a step of each other
SAME = 0.1


@dataclass(frozen=True)
class Table:
    """Finished runs below a target, and each candidate's regret there in ln loss."""

    name: str
    about: str
    runs: tuple[PilotRun, ...]
    target: PilotTarget
    regret: dict[str, float]

    @property
    def flop(self) -> float:
        """What the full grid below the target cost."""
        return math.fsum(run.planned.flop for run in self.runs)

    def affordable(self, law: Law) -> PilotTarget:
        """The target with the candidates of those methods whose first runs the allowance pays for: as in a pilot."""
        present = [method for method in PILOT_METHODS if any(run.method == method for run in self.target.candidates)]
        possible = eligible([run.planned for run in self.runs], self.target, law)
        paid, _ = methods_paid_for(present, possible, ALLOWANCE * self.flop, law)
        return self.target.model_copy(
            update={"candidates": tuple(run for run in self.target.candidates if run.method in paid)}
        )

    def regret_of(self, decision: Decision) -> float | None:
        """Regret of a decision; None where it chose nothing."""
        return None if decision.candidate is None else self.regret[decision.candidate.key]


def table(name: str, about: str, runs: Sequence[PilotRun], target_flop: float, at: dict[PossibleRun, float]) -> Table:
    lowest = min(at.values())
    target = PilotTarget(flop=target_flop, candidates=tuple(at))
    below = tuple(run for run in runs if run.planned.flop < target_flop)
    return Table(name, about, below, target, {run.key: log_loss - lowest for run, log_loss in at.items()})


def planted(seed: int = 0, noise: float = 0.005) -> Table:
    """Two methods whose laws cross below the target; 8 budgets x 3 apart, 9 sizes x 2 apart, 0.5 % noise."""
    chance = np.random.default_rng(seed)
    truth = {
        "full": ({"E": 0.30, "A": 30.0, "B": 400.0, "alpha": 0.30, "beta": 0.35}, 6.0),
        "lora": ({"E": 0.30, "A": 24.0, "B": 500.0, "alpha": 0.29, "beta": 0.36}, 4.0),
    }
    budgets = 1e15 * 3.0 ** np.arange(8)
    law = law_named("hoffmann")
    runs: list[PilotRun] = []
    at: dict[PossibleRun, float] = {}
    for method, (params, per_token) in truth.items():
        for flop in budgets:
            for size in 5e5 * 2.0 ** np.arange(9):
                tokens = flop / (per_token * size)
                run = PossibleRun(
                    key=f"{method} {size:.3g} {flop:.3g}", params=size, tokens=tokens, flop=flop, method=method
                )
                loss = float(law.predict(params, Points.of([size], [tokens], [1.0]))[0])
                if flop == budgets[-1]:
                    at[run] = math.log(loss)
                runs.append(PilotRun(planned=run, loss=loss * math.exp(noise * chance.normal())))
    return table("planted", "two Hoffmann laws, 0.5 % noise", runs, float(budgets[-1]), at)


def porian(file: Path, dataset: str, config: str) -> Table:
    """One of Porian et al.'s IsoFLOP studies; the target is its largest budget, twice the next one."""
    rows = [row for row in read(file) if row["dataset"] == dataset and row["config"] == config]
    runs = [
        PilotRun(
            planned=PossibleRun(key=f"{row['N']} {row['C']:.3g}", params=row["N"], tokens=row["D"], flop=row["C"]),
            loss=row["loss"],
        )
        for row in rows
    ]
    top = max(run.planned.flop for run in runs)
    at = {run.planned: math.log(run.loss) for run in runs if run.planned.flop == top}
    return table(f"porian {dataset} {config}", "observed losses", runs, top, at)


def gemstones(file: Path, target_flop: float = 2.8e20) -> Table:
    """Gemstones; the target is a budget that ten shapes of 0.5 to 2 billion parameters reach, their losses there
    interpolated along the training.  C is computed as 6 N D: the file's own column overflowed."""
    trainings: dict[str, list[PilotRun]] = {}
    for row in read(file):
        size, tokens = float(row["N"]), float(row["D"])
        run = PossibleRun(key=f"{row['run_name']} {row['step']}", params=size, tokens=tokens, flop=6 * size * tokens)
        trainings.setdefault(row["run_name"], []).append(PilotRun(planned=run, loss=row["loss"]))
    found: list[tuple[PossibleRun, float]] = []
    for name, checkpoints in trainings.items():
        flop_R = np.array([run.planned.flop for run in checkpoints])
        if flop_R.min() <= target_flop <= flop_R.max():
            loss = float(np.interp(math.log(target_flop), np.log(flop_R), np.log([run.loss for run in checkpoints])))
            size = checkpoints[0].planned.params
            found.append((PossibleRun(key=name, params=size, tokens=target_flop / (6 * size), flop=target_flop), loss))
    log_params_K = np.log([run.params for run, _ in found])
    log_params_K -= log_params_K.mean()
    parabola = np.polyfit(log_params_K, [loss for _, loss in found], 2)
    smooth_K = np.asarray(np.polyval(parabola, log_params_K), dtype=np.float64)
    at = {run: float(loss) for (run, _), loss in zip(found, smooth_K, strict=True)}
    runs = [run for checkpoints in trainings.values() for run in checkpoints]
    return table("gemstones", "a parabola through the target's losses", runs, target_flop, at)


def ledger(file: Path) -> Table:
    """A ledger, or whole records in one file: each method at the hyperparameter that a pilot runs, at its best learning
    rate; the target is the largest budget, a candidate's loss the mean over its seeds there."""
    records = Ledger.open(file).records()
    found = variants_by_model(records)
    kept = [each for each in records if each.recipe.method in found[each.recipe.model.name]]
    runs = [
        PilotRun(planned=as_possible_run(f"{group.method} {row}", kept[row - 1].recipe), loss=loss)
        for group in group_runs(kept, [law_named("embedding")])  # which groups by the method's name
        for row, loss in zip(group.rows, group.points.loss, strict=True)
    ]
    top = max(run.planned.flop for run in runs) * (1 - SAME)
    seeds: dict[tuple[str, float], list[PilotRun]] = {}
    for run in runs:
        if run.planned.flop >= top:
            seeds.setdefault((run.planned.method, run.planned.params), []).append(run)
    at = {same[0].planned: float(np.mean(np.log([run.loss for run in same]))) for same in seeds.values()}
    name = file.name.removesuffix(".jsonl.gz")
    return table(name, "observed losses, mean over seeds", runs, top, at)


def variants_by_model(records: Sequence[RunRecord]) -> dict[str, list[Method]]:
    """Model -> the middle hyperparameter of each method, as a pilot runs it."""
    models = {record.recipe.model.name: record.recipe.model for record in records}
    names = {record.recipe.method.name for record in records}
    return {name: [middle(each, model, 2.0) for each in names] for name, model in models.items()}


def read(file: Path) -> list[dict[str, Any]]:
    found = pyarrow.parquet.read_table(file) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file)
    return list(found.to_pylist())


def ordered(data: Table, planner: str, law: Law, seed: int) -> Iterator[tuple[float, Decision]]:
    """Random or cheapest first: (share spent, decision) at each of BASE_SHARES."""
    chance = np.random.default_rng(seed)
    target = data.affordable(law)
    allowed = {run.key for run in eligible([run.planned for run in data.runs], target, law)}
    runs = [run for run in data.runs if run.planned.key in allowed]
    runs = [runs[index] for index in chance.permutation(len(runs))]
    if planner == "cheapest":  # ties stay in the random order
        runs.sort(key=lambda run: float(f"{run.planned.flop:.3g}"))
    for share in BASE_SHARES:
        left, done = share * data.flop, []
        for run in runs:
            if run.planned.flop <= left:
                done.append(run)
                left -= run.planned.flop
        yield share, decision_from(fit_posterior(done, target, Planning(law=law, draws=DRAWS, seed=seed)), done, target)


def planned(data: Table, planner: Criterion, law: Law, seed: int) -> Iterator[tuple[float, Decision]]:
    """The planner, told an allowance of a tenth of the grid: (share spent, decision) after each batch."""
    loss = {run.planned.key: run.loss for run in data.runs}
    runs = [run.planned for run in data.runs]
    target = data.affordable(law)
    how = Planning(law=law, draws=DRAWS, seed=seed, batch=BATCH, criterion=planner)
    done: list[PilotRun] = []
    while True:
        spent = math.fsum(run.planned.flop for run in done)
        choice = plan_next(done, runs, target, allowance_left=max(ALLOWANCE * data.flop - spent, 0.0), how=how)
        if done:
            yield spent / data.flop, choice.decision
        if choice.stop is not None:
            return
        done += [PilotRun(planned=run, loss=loss[run.key]) for run in choice.runs]


def replay(data: Table, planner: str, law: Law, replays: int) -> dict[str, Any]:
    """Regrets at each share over all replays, and where the planner would have stopped by itself."""
    curves: dict[float, list[float | None]] = {share: [] for share in SHARES}
    stops: list[tuple[float, float | None]] = []
    runs = []
    began = time.process_time()
    for seed in range(replays):
        steps = list(
            ordered(data, planner, law, seed)
            if planner in ("random", "cheapest")
            else planned(data, "variance" if planner == "variance" else "regret", law, seed)
        )
        for share in SHARES if planner in get_args(Criterion) else BASE_SHARES:
            reached = [decision for spent, decision in steps if spent <= share * (1 + 1e-9)]
            curves[share].append(data.regret_of(reached[-1]) if reached else None)
        runs.append(steps[-1][1].runs)
        for index in range(len(steps)):
            if settled([decision for _, decision in steps[: index + 1]]):
                stops.append((steps[index][0], data.regret_of(steps[index][1])))
                break
    return {
        "curve": {f"{share:g}": summary(values) for share, values in curves.items() if values},
        "runs_at_allowance": float(np.mean(runs)),
        "settled": None
        if planner not in get_args(Criterion)
        else {
            "replays": len(stops),
            "mean_share": float(np.mean([share for share, _ in stops])) if stops else None,
            "regret": summary([value for _, value in stops]),
        },
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, 90th percentile and share within the noise; a replay without a decision is never within it."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "p90": float(np.quantile(known, 0.9)) if known else None,
        "within_noise": sum(value <= TOLERANCE for value in known) / len(values) if values else None,
        "undecided": len(values) - len(known),
    }


def draw(results: dict[str, Any], file: Path) -> None:
    """Mean regret against share of the grid's FLOP, a panel a table."""
    # imported here so that replays without a figure need no matplotlib
    from matplotlib.figure import Figure

    tables = results["tables"]
    columns = 3
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(3.8 * columns, 3.1 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    style = {"random": ("0.6", ":"), "cheapest": ("tab:orange", "--"), "variance": ("tab:blue", "-"),
             "regret": ("tab:red", "-")}  # fmt: skip
    for axis, (name, found) in zip(axes, tables.items(), strict=False):
        for planner, (color, line) in style.items():
            curve = found["planners"][planner]["curve"]
            points = [(float(share), at["mean"]) for share, at in curve.items() if at["mean"] is not None]
            axis.plot(
                [100 * share for share, _ in points], [100 * mean for _, mean in points], line, color=color,
                marker="o", markersize=3, label=planner,
            )  # fmt: skip
        axis.axhline(100 * found["grid_regret"], color="black", linewidth=0.8, label="full grid (100 %)")
        axis.axhspan(0, 100 * TOLERANCE, color="tab:green", alpha=0.12, label="noise of seeds (0.3 %)")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("FLOP, % of the full grid's")
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        axis.minorticks_off()
        axis.set_ylim(bottom=-0.03)
    figure.supylabel("mean regret at the target, % of the loss", fontsize=10)
    axes[0].legend(fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def tables(folder: Path, ledger_file: Path, only: str | None) -> Iterator[Table]:
    """Every table that is there, or the one named."""
    known: dict[str, Callable[[], Table]] = {"planted": planted}
    if there(hot := folder / "gemstones_hot.csv"):
        known["gemstones"] = partial(gemstones, hot)
    if there(isoflop := folder / "porian_isoflop.csv"):
        known |= {f"porian {data} {config}": partial(porian, isoflop, data, config) for data, config in PORIAN}
    known[ledger_file.name.removesuffix(".jsonl.gz")] = partial(ledger, ledger_file)
    for name, make in known.items():
        if only in (None, name):
            yield make()


def there(file: Path) -> bool:
    if not file.is_file():
        print(f"skipped: {file.name} is not in {file.parent.name}/; name its folder with --tables")
    return file.is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder with the published tables")
    parser.add_argument("--ledger", type=Path, default=SHIPPED, help="a ledger, or its .jsonl.gz")
    parser.add_argument("--only", help="replay this table alone")
    parser.add_argument("--law", default="hoffmann")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--redraw", action="store_true", help="only draw the figure from the results at hand")
    options = parser.parse_args()
    if options.redraw:
        draw(json.loads(RESULTS.read_text(encoding="utf-8")), FIGURE)
        return
    law = law_named(options.law)
    replays = 3 if options.quick else REPLAYS
    results: dict[str, Any] = {
        "law": law.name, "replays": replays, "draws": DRAWS, "batch": BATCH, "allowance": ALLOWANCE, "noise": TOLERANCE,
        "tables": {},
    }  # fmt: skip
    if options.only is not None and RESULTS.is_file():
        results["tables"] = json.loads(RESULTS.read_text(encoding="utf-8"))["tables"]
    for data in tables(options.tables, options.ledger, options.only):
        grid = decision_from(
            fit_posterior(data.runs, data.target, Planning(law=law, draws=DRAWS)), data.runs, data.target
        )
        found: dict[str, Any] = {
            "cells": len(data.runs),
            "candidates": len(data.target.candidates),
            "target_flop": data.target.flop,
            "grid_flop": data.flop,
            "regret_from": data.about,
            "spread": max(data.regret.values()),
            "grid_regret": data.regret_of(grid),
            "planners": {planner: replay(data, planner, law, replays) for planner in PLANNERS},
        }
        results["tables"][data.name] = found
        print(f"{data.name}: {len(data.runs)} runs, the grid's own regret {found['grid_regret']:.4f}")
        for planner, outcome in found["planners"].items():
            line = "  ".join(
                f"{float(share):.0%} {math.nan if value['mean'] is None else value['mean']:.4f} "
                f"({value['within_noise']:.0%})"
                for share, value in outcome["curve"].items()
            )
            print(f"  {planner:9s} {line}  runs {outcome['runs_at_allowance']:.0f}", flush=True)
        if not options.quick:
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    if not options.quick:
        draw(results, FIGURE)


if __name__ == "__main__":
    main()
