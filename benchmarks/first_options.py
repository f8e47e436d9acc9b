"""What the methods and options of the first round are worth, each beside its plain counterpart at equal FLOP.

    python benchmarks/first_options.py PAIRS TASKS --out first_options.json --threads 1
    python benchmarks/first_options.py --table first_options.json

The nano suite on nine sources of `scripts/nano_study.py`; PAIRS and TASKS as there.  Adapters are run at the family's
rate and at 2.5 times less and more with the first seed, then at the best of the three with the others, so that no bad
rate is taken for a bad method.  The table has the mean over seeds of each variant less its counterpart of equal seed,
with Student's 95 % interval.  Results are added to `--out` as they come.

Version 2802551 trains all of them; what did not help is refused since (docs/lab-notes/models.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoembed.budget import Budget
from isoembed.encoder.embedder import Embedder
from isoembed.evaluation.systems import DenseSystem
from isoembed.families import NANO
from isoembed.methods import method_of
from isoembed.options import PLAIN, Options
from isoembed.recipe import PartialSetup, PoolingName
from isoembed.recommendation.request import Request
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.workflows.job import DataOptions, Job, plan_job
from kept_rows import KeptRows, Row, parsed
from quality import NOT_TAKEN, interval, one_source_loss, scored, tasks_in, value

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from nano_study import WEIGHTS

MODEL = "nano-113k"
FLOP = 2e11
#: of the mixture, with their weights there
SOURCES = (
    "medquad",
    "wikisplit",
    "chrome_dev_docs",
    "disfl_qa",
    "scitldr",
    "gsm8k",
    "e2e_paraphrase",
    "covid_qa",
    "opentriviaqa",
)
HELDOUT_PAIRS = 2048
SEEDS = (0, 1, 2)
FACTORS = (0.4, 1.0, 2.5)
#: columns of the table
TASKS = ("sts/stsbenchmark", "retrieval/stackfaq")


@dataclass(frozen=True)
class Variant:
    """One setting, and the name of the one that it must beat."""

    against: str | None
    method: str = "full"
    pooling: PoolingName = "mean"
    options: Options = PLAIN
    searched: bool = False  #: whether the rate is


VARIANTS = {
    "lora r=32": Variant(None, "lora r=32", searched=True),
    "rslora r=32": Variant("lora r=32", "rslora r=32"),
    "dora r=32": Variant("lora r=32", "dora r=32", searched=True),
    "lora-top .5 r=32": Variant("lora r=32", "lora-top 0.5 r=32", searched=True),
    "full": Variant(None),
    "weighted-mean": Variant("full", pooling="weighted-mean"),
    "last": Variant("full", pooling="last"),
    "max": Variant("full", pooling="max"),
    "first": Variant("full", pooling="first"),
    "mask margin 0": Variant("full", options=Options(mask_margin=0.0)),
    "mask margin .1": Variant("full", options=Options(mask_margin=0.1)),
    "bias": Variant(None, "bias"),
    "norms": Variant("bias", "norms"),
    "both ways": Variant(None, options=Options(bidirectional=True)),
    "first both ways": Variant("both ways", pooling="first", options=Options(bidirectional=True)),
    "lora r=8": Variant(None, "lora r=8"),
    "rslora r=8": Variant("lora r=8", "rslora r=8"),
}


def planned(asked: argparse.Namespace, variant: Variant, factor: float, seed: int) -> Job:
    """The run of a variant at `factor` times the family's learning rate for it."""

    def of(rate: float | None) -> Job:
        request = Request(
            budget=Budget.parse(repr(FLOP)),
            family=NANO,
            model=MODEL,
            method=method_of(variant.method),
            learning_rate=rate,
            seed=seed,
            **dict(PartialSetup(batch_pairs=32, context_tokens=75, pooling=variant.pooling, options=variant.options)),
        )
        pairs = ",".join(f"{asked.pairs / name}.jsonl.gz:{WEIGHTS[name]}" for name in SOURCES)
        return plan_job(request, DataOptions(pairs, heldout_pairs=HELDOUT_PAIRS), cache=asked.cache)

    job = of(None)
    return job if factor == 1 else of(factor * job.recipe.learning_rate)


def measured(asked: argparse.Namespace, variant: Variant, factor: float, seed: int) -> dict[str, Any]:
    """One run: its losses, its FLOP, its scores."""
    job = planned(asked, variant, factor, seed)
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(checkpoint_seconds=float("inf"), precision="auto")
        encoder, record = run(job.recipe, job.data, folder, execution=execution, before=NOT_TAKEN)
    assert record.heldout is not None
    system = DenseSystem(Embedder(encoder, job.tokenizer, job.recipe.context_tokens))
    tasks = {name: task for name, task in tasks_in(asked.tasks).items() if name in TASKS}
    return {
        "flop": record.model_flop,
        "steps": record.steps,
        "rate": job.recipe.learning_rate,
        "seconds": record.wall_seconds,
        "loss": record.heldout.loss,
        "loss_one_source": one_source_loss(encoder, job.data, record.recipe),
        "scores": scored(system, tasks),
    }


def best_factor(rows: list[Row], name: str) -> float:
    """That of the first seed's least held-out loss."""
    mine = [row for row in rows if row["variant"] == name and row["seed"] == SEEDS[0]]
    return float(min(mine, key=lambda row: float(row["loss"]))["factor"])


def table(rows: list[Row]) -> str:
    """Each variant at its best rate: counterparts' own numbers, and the others' differences to theirs."""
    columns = {"held-out loss": "loss", "loss, one source": "loss_one_source", **{name: name for name in TASKS}}
    lines = [f"{MODEL}, {FLOP:.3g} FLOP", "", f"| variant | against | rates | seeds | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 4) + "|")
    kept = {
        (name, row["seed"]): row
        for name in dict.fromkeys(row["variant"] for row in rows)
        for row in rows
        if row["variant"] == name and row["factor"] == best_factor(rows, name)
    }
    for name in dict.fromkeys(name for name, _ in kept):
        other = VARIANTS[name].against
        mine = [seed for seed in SEEDS if (name, seed) in kept and (other is None or (other, seed) in kept)]
        if not mine:
            continue
        cells = []
        for column in columns.values():
            own = [value(kept[name, seed], column) for seed in mine]
            if other is None:
                cells.append(f"{sum(own) / len(own):.3f}")
            else:
                cells.append(
                    interval([one - value(kept[other, seed], column) for one, seed in zip(own, mine, strict=True)])
                )
        tried = [row for row in rows if row["variant"] == name and row["seed"] == SEEDS[0]]
        rates = ", ".join(
            f"{row['rate']:.2g} ({row['loss']:.3f})" for row in sorted(tried, key=lambda row: float(row["rate"]))
        )
        lines.append(f"| {name} | {other or ''} | {rates} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("tasks", type=Path, nargs="?")
    parser.add_argument("--cache", type=Path, default=Path("build/first_options"))
    parser.add_argument("--only", help="variants, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    asked = parsed(parser, table)
    found = KeptRows(asked.out)

    def done(name: str, factor: float, seed: int) -> None:
        place = {"variant": name, "factor": factor, "seed": seed}
        if not found.has(place):
            found.add(place | measured(asked, VARIANTS[name], factor, seed))
            print({**place, "loss": found.rows[-1]["loss"], "seconds": found.rows[-1]["seconds"]}, flush=True)

    only = list(VARIANTS) if asked.only is None else asked.only.split(",")
    for name in only:
        for factor in FACTORS if VARIANTS[name].searched else (1.0,):
            done(name, factor, SEEDS[0])
    for seed in SEEDS[1 : asked.seeds]:
        for name in only:
            done(name, best_factor(found.rows, name), seed)


if __name__ == "__main__":
    main()
