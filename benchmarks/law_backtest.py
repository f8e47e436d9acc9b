"""How well does each form of law forecast budgets that it has not seen?  Back-tests on a ledger of real runs.

For every method and each of its `--budgets` largest budgets: fit to all cheaper runs, forecast the runs there.
Errors are of ln loss, observed minus forecast, in %: below zero the forecast was too high.  `cover` is the share of
runs inside the 95 % interval of one more run (bootstrap and noise, no allowance for drift).

    python benchmarks/law_backtest.py benchmarks/results/nano_study.jsonl.gz --out benchmarks/results/law_backtest.json

With `--unseen TABLE` (a ledger's export) each law is fitted to all of the ledger and forecasts the table's runs.

    python benchmarks/law_backtest.py benchmarks/results/nano_study.jsonl.gz --unseen benchmarks/results/nano_claim.csv
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.core import InputError
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.fit import fit
from isoembed.fitting.io.ledger import read_ledger
from isoembed.fitting.io.tables import read_groups
from isoembed.fitting.settings import Group
from isoembed.laws import LAWS, Law, Points, laws_named

#: budgets of a grid lie at least this far apart in ln C
_APART = 0.4


def by_budget(points: Points) -> list[Points]:
    """`points` split into the budgets of their grid, ascending."""
    order = np.argsort(points.flop, kind="stable")
    breaks = np.flatnonzero(np.diff(np.log(points.flop[order])) > _APART) + 1
    return [points[rows] for rows in np.split(order, breaks)]


def back_tests(law: Law, points: Points, *, budgets: int, draws: int) -> Iterator[dict[str, Any]]:
    """The forecast of each of the `budgets` largest budgets from all cheaper runs."""
    groups = by_budget(points[law.applies(points)])
    for group in groups[-budgets:]:
        cheaper = points[points.flop < group.flop.min()]
        try:
            boot = bootstrap(law, cheaper[law.applies(cheaper)], draws=draws)
        except InputError as error:
            yield {"flop": float(group.flop.mean()), "why": str(error)}
            continue
        error_R = np.log(group.loss) - np.log(np.maximum(law.predict(boot.fit.params, group), 1e-9))
        inside = [
            interval.low is not None and interval.high is not None and interval.low <= loss <= interval.high
            for loss, interval in zip(group.loss, boot.loss_intervals(group, noise=True), strict=True)
        ]
        yield {
            "flop": float(group.flop.mean()),
            "beyond": float(group.flop.mean() / cheaper.flop.max()),
            "runs": len(group),
            "bias": float(error_R.mean()),
            "rms": float(np.sqrt(np.mean(error_R**2))),
            "cover": float(np.mean(inside)),
            "in_range": float(
                np.sqrt(np.mean((np.log(cheaper.loss) - np.log(law.predict(boot.fit.params, cheaper))) ** 2))
            ),
        }


def forecast_unseen(laws: list[Law], groups: list[Group], table: Path) -> None:
    """Print each law's error of ln loss on the runs of `table`, whose methods are those of `groups`."""
    print(f"{'law':18}{'bias':>7}{'rms':>6}   error by run, %")
    unseen = {group.method: group.points for group in read_groups(table, laws, None, "method")}
    for law in laws:
        errors, each = [], []
        for group in groups:
            if (points := unseen.get(group.method)) is None:
                continue
            found = fit(law, group.points[law.applies(group.points)])
            error_R = np.log(points.loss) - np.log(law.predict(found.params, points))
            errors += error_R.tolist()
            each += [f"{group.method} {100 * error:+.1f}" for error in error_R]
        bias, rms = np.mean(errors), np.sqrt(np.mean(np.square(errors)))
        print(f"{law.name:18}{100 * bias:+7.1f}{100 * rms:6.1f}   {', '.join(each)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--laws", default="hoffmann,tied,embedding,multiplicative,frantar,interaction,hoffmann-odds,"
                        "frantar-odds,interaction-odds")  # fmt: skip
    parser.add_argument("--budgets", type=int, default=3)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    laws = list(laws_named(options.laws))
    groups = read_ledger(options.ledger, LAWS)
    if options.unseen is not None:
        forecast_unseen(laws, groups, options.unseen)
        return
    rows = []
    print(f"{'law':18}{'bias':>7}{'rms':>6}{'cover':>7}{'too high':>10}   bias by method and budget, %")
    for law in laws:
        tests = [
            {"law": law.name, "method": group.method, **test}
            for group in groups
            for test in back_tests(law, group.points, budgets=options.budgets, draws=options.draws)
        ]
        rows += tests
        done = [test for test in tests if "bias" in test]
        runs = np.array([test["runs"] for test in done])
        bias = np.average([test["bias"] for test in done], weights=runs)
        rms = np.sqrt(np.average([test["rms"] ** 2 for test in done], weights=runs))
        cover = np.average([test["cover"] for test in done], weights=runs)
        high = sum(test["bias"] < 0 for test in done)
        each = " ".join(f"{test['method']} {100 * test['bias']:+.1f}" for test in done)
        line = f"{law.name:18}{100 * bias:+7.1f}{100 * rms:6.1f}{cover:7.2f}{high:6} of {len(done):<2}  {each}"
        print(line, flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
