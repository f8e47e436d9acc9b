"""Runs that branch off one trunk (warm-up, stable, decay) beside runs that each begin anew: held-out loss, FLOP, law.

    python benchmarks/branches.py PAIRS --model nano-28k --out branches.json
    python benchmarks/branches.py --table branches.json

Three ways to the same budgets: a cosine each; a wsd run each; and one ladder, where every budget extends the one
before, at the rate and with the warm-up tokens of the smallest.  The first and the last also at rates beside their own,
as a search would try: the cosine at every budget, the ladder once.  Results are added to `--out` as they come, and what
is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import isoembed
from isoembed.data.dataset import PairData
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import Family, ModelSpec
from isoembed.methods import Full, LoRA, Method
from isoembed.options import Options
from isoembed.recipe import Recipe, Setup, affordable, solve
from isoembed.records import Heldout, RunRecord
from isoembed.scratch import TRUNK
from isoembed.training.checkpoint import branch
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.workflows.job import DataOptions
from isoembed.workflows.models import chosen
from kept_rows import KeptRows, Row, parsed

BUDGETS = (1e10, 2e10, 4e10, 8e10)
METHODS: tuple[Method, ...] = (Full(), LoRA(rank=8, alpha=16.0))
SEEDS = (0, 1)
#: of the rate, beside 1; tried for the first method and seed
BESIDE = (0.4, 2.5)
#: ways up, with the share of the tokens over which the rate falls
WAYS: tuple[tuple[str, float | None], ...] = (
    ("cosine", None),
    ("wsd", 0.4),
    ("branched", 0.4),
    ("wsd", 0.2),
    ("branched", 0.2),
)
BATCH_PAIRS, CONTEXT_TOKENS = 32, 32


@dataclass(frozen=True)
class Ladder:
    """One way up the budgets, for a method, a seed and a factor of the rate."""

    way: str
    decay: float | None
    method: Method
    seed: int
    factor: float = 1.0

    @property
    def place(self) -> Row:
        return vars(self) | {"method": self.method.label}

    def recipes(self, family: Family, model: ModelSpec, data: PairData) -> Iterator[Recipe]:
        """The runs, smallest budget first."""
        options = Options() if self.decay is None else Options(schedule="wsd", decay_fraction=self.decay)
        setup = Setup(batch_pairs=BATCH_PAIRS, context_tokens=CONTEXT_TOKENS, options=options)
        first: Recipe | None = None
        for budget in BUDGETS:
            tokens = affordable(budget, model, self.method, setup, data.stats)
            if self.way == "branched" and first is not None:
                yield first.extended(tokens)
                continue
            rate = self.factor * family.peak_rate(model, self.method, steps=setup.steps_of(tokens, data.stats))[0]
            first = solve(budget, model, self.method, rate, setup, data.stats, family=family.name, seed=self.seed)
            yield first


def ladders() -> Iterator[Ladder]:
    for method in METHODS:
        for seed in SEEDS:
            yield from (Ladder(way, decay, method, seed) for way, decay in WAYS)
    for factor in BESIDE:
        yield from (Ladder(way, decay, METHODS[0], SEEDS[0], factor) for way, decay in (WAYS[0], WAYS[2]))


def climbed(ladder: Ladder, family: Family, model: ModelSpec, data: PairData, before: Heldout | None) -> Iterator[Row]:
    """The runs of a ladder, trained; `spent` is what of their FLOP no run before had spent."""
    last: tuple[Path, RunRecord] | None = None
    with tempfile.TemporaryDirectory() as place:
        for budget, recipe in zip(BUDGETS, ladder.recipes(family, model, data), strict=True):
            folder = Path(place) / f"{budget:g}"
            if ladder.way == "branched" and last is not None:
                branch(last[0] / TRUNK, folder, recipe, last[1])
            execution = Execution(checkpoint_seconds=float("inf"), resume=True)
            _, record = run(recipe, data, folder, execution=execution, before=before)
            last = folder, record
            assert record.heldout is not None
            yield ladder.place | {
                "model": model.name,
                "budget": budget,
                "rate": recipe.learning_rate,
                "params": model.params,
                "steps": record.steps,
                "tokens": record.tokens,
                "flop": record.model_flop,
                "spent": record.own_flop,
                "seconds": record.own_seconds,
                "loss": record.heldout.loss,
            }


@dataclass(frozen=True)
class Line:
    """A power line ln L = a + b ln C through the runs of one way, by `isoembed.fit`, and the noise around it."""

    a: float
    b: float
    noise: float

    def excess(self, row: Row) -> float:
        """How far the run's loss lies above it, of ln loss."""
        return math.log(row["loss"]) - self.a - self.b * math.log(row["flop"])


def line(rows: list[Row]) -> Line:
    columns = ("params", "tokens", "flop", "loss")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "runs.csv"
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([columns, *([row[name] for name in columns] for row in rows)])
        (law,) = isoembed.fit(file, "power", draws=0, holdout="none").laws
    return Line(law.fit.params["a"], law.fit.params["b"], law.run_noise)


def of(rows: list[Row], **place: object) -> list[Row]:
    return [row for row in rows if place.items() <= row.items()]


def table(rows: list[Row]) -> str:
    """Losses by budget (half their range over seeds), FLOP of a seed's ladder, exponent, and how far the runs of the
    largest budget lie from the cosine's line; then the search for the rate."""
    largest = BUDGETS[-1]
    head = ["method", "way", "falls over", *(f"{budget:.0e}" for budget in BUDGETS), "FLOP", "exponent", "off the line"]
    found = [head, ["---"] * len(head)]
    for method in dict.fromkeys(row["method"] for row in rows):
        usual = line(of(rows, method=method, way="cosine", factor=1))
        for way, decay in WAYS:
            own = of(rows, method=method, way=way, decay=decay, factor=1)
            losses = [[row["loss"] for row in of(own, budget=budget)] for budget in BUDGETS]
            shown = [f"{statistics.mean(each):.3f} ± {(max(each) - min(each)) / 2:.3f}" for each in losses]
            spent = sum(row["spent"] for row in own) / len(SEEDS)
            off = statistics.mean(usual.excess(row) for row in of(own, budget=largest))
            ends = [f"{spent:.3g}", f"{line(own).b:.3f}", f"{off:+.1%} (noise {usual.noise:.1%})"]
            found.append([method, way, "-" if decay is None else f"{decay:.0%}", *shown, *ends])
    return "\n".join(f"| {' | '.join(each)} |" for each in found) + f"\n\n{search(rows)}"


def search(rows: list[Row]) -> str:
    """The best rate of three, by its factor to the family's, at each budget; and what finding it costs: at every budget
    for a cosine, at the smallest for a ladder."""
    said = []
    for way, decay in (WAYS[0], WAYS[2]):
        own = of(rows, way=way, decay=decay, method=METHODS[0].label, seed=SEEDS[0])
        best = [min(of(own, budget=budget), key=lambda row: row["loss"])["factor"] for budget in BUDGETS]
        ran = [row for row in own if decay is None or row["factor"] == 1 or row["budget"] == BUDGETS[0]]
        factors = ", ".join(f"{factor:g}" for factor in best)
        spent = sum(row["spent"] for row in ran)
        said.append(f"{way}: best factors of the rate {factors}; {spent:.3g} FLOP with the search")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="?", default="docstrings")
    parser.add_argument("--model", default="nano-28k")
    asked = parsed(parser, table)
    found = KeptRows(asked.out)
    family, name = chosen(None, asked.model)
    assert name is not None
    model = family.model(name)
    with tempfile.TemporaryDirectory() as cache:
        setup = Setup(batch_pairs=BATCH_PAIRS, context_tokens=CONTEXT_TOKENS)
        data = DataOptions(asked.pairs).prepare(load_tokenizer(model.source), setup, cache=cache)
        before = Heldout(loss=0.0, pairs=0, candidates=0, fingerprint="")  # of the base, not asked for here
        for ladder in ladders():
            if found.has(ladder.place):
                continue
            rows = list(climbed(ladder, family, model, data, before))
            found.add(*rows)
            print(ladder.place, [f"{row['loss']:.4f}" for row in rows], flush=True)


if __name__ == "__main__":
    main()
