"""Does the held-out loss order the depths of a model as tasks do?  One model cut at several depths, at equal FLOP.

    python benchmarks/depth_scores.py PAIRS... --model FILE.gguf --depths 1,2,3,6 --methods "full,lora r=36"
        --budgets 4e12 --tasks TASKS --out depth_scores.json
    python benchmarks/depth_scores.py --table depth_scores.json

Learning rates are the family's.  TASKS and the tasks that are scored are those of quality.py.  Results are added to
`--out` as they come, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from scipy import stats

from isoembed.recipe import PartialSetup
from kept_rows import KeptRows, Row, parsed
from quality import TASKS, measured, tasks_in, value

LOSSES = ("loss", "loss_one_source")


def table(found: list[Row]) -> str:
    """One row per run: its loss, each task's score, their mean; and how loss and mean go together at a budget."""
    names = [name for name in TASKS if name in found[0]["scores"]]
    head = ["FLOP", "depth", "method", "steps", "rate", "held-out loss", "one source", *names, "mean"]
    lines = [head, ["---"] * len(head)]
    ordered = sorted(found, key=lambda row: (row["budget"], row["method"], row["depth"]))
    for row in ordered:
        cells = [f"{value(row, name):.3f}" for name in (*LOSSES, *names, "mean")]
        lines.append(
            [f"{row['budget']:.3g}", str(row["depth"]), row["method"], str(row["steps"]), f"{row['rate']:.2g}", *cells]
        )
    said = ["| " + " | ".join(line) + " |" for line in lines]
    for budget, rows in itertools.groupby(ordered, key=lambda row: row["budget"]):
        runs = list(rows)
        if len(runs) > 2:
            mean = [value(run, "mean") for run in runs]
            rho = [stats.spearmanr([value(run, what) for run in runs], mean).statistic for what in LOSSES]
            said.append(
                f"\nAt {budget:.3g} FLOP, {len(runs)} runs: Spearman of the mean score with the held-out loss "
                f"{rho[0]:+.2f}, with that among candidates of one source {rho[1]:+.2f}."
            )
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--depths", default="1,2,3,4,6")
    parser.add_argument("--methods", default="full")
    parser.add_argument("--budgets", default="4e12")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/quality"))
    asked = parsed(parser, table)
    found, tasks = KeptRows(asked.out), tasks_in(asked.tasks)
    listed = (asked.budgets.split(","), asked.methods.split(","), asked.depths.split(","))
    for budget, method, depth in itertools.product(*listed):
        place = {"budget": float(budget), "method": method, "depth": int(depth)}
        if found.has(place):
            continue
        cut = {"model": f"{asked.model}@{depth}", "method": method, "rate": None, "teacher": None, "mix": ""}
        one = argparse.Namespace(**{**vars(asked), **cut})
        found.add(*(place | row for row in measured(one, "plain", PartialSetup(), float(budget), 0, tasks)))
        print({**place, "loss": found.rows[-1]["loss"], "seconds": found.rows[-1]["seconds"]}, flush=True)


if __name__ == "__main__":
    main()
