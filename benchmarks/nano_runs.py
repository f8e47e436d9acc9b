"""Short training runs on the nano suite: peak learning rates per method, and pretrained against random weights.

    python benchmarks/nano_runs.py rates --out benchmarks/results/nano_rates.jsonl
    python benchmarks/nano_runs.py bases --out benchmarks/results/nano_bases.jsonl

Every run trains on the docstrings of this Python environment with batch 64 and context 75 and reports the loss on the
same 4,096 held-out pairs.  One JSON line per run, appended as it ends: a run that is there already is not run again.
Two workers with one thread each use two cores better than one worker with two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch

from isoembed.core import fingerprint
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import NANO, Family
from isoembed.methods import Bias, Freeze, Full, LoRA, Method
from isoembed.recommendation.request import Request
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.workflows.job import DataOptions, plan_job


def rates() -> list[dict[str, Any]]:
    """Peak rates around each method's best, at 5e11 FLOP, on a small and a middle size."""
    grid: list[tuple[Method, tuple[float, ...]]] = [
        (Full(), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
        (Freeze(fraction=0.5), (2e-3, 4e-3, 8e-3, 1.6e-2)),
        (Bias(), (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)),
        (LoRA(rank=16, alpha=32.0), (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    ]
    return [
        {"model": model, "method": method, "rate": rate, "budget": 5e11, "random_init": False}
        for model in ("nano-113k", "nano-389k")
        for method, values in grid
        for rate in values
    ]


def bases() -> list[dict[str, Any]]:
    """Every size, pretrained and from random weights, on the same 300,000 tokens, full fine-tuning."""
    return [
        {
            "model": model.name,
            "method": Full(),
            "rate": None,
            "budget": 6.0 * model.params * 300_000,
            "random_init": random_init,
        }
        for model in NANO.models
        for random_init in (False, True)
    ]


def measure(job: tuple[dict[str, Any], Path, Path]) -> None:
    """Run one cell and append its line to the file."""
    cell, cache, out = job
    torch.set_num_threads(1)
    key = fingerprint({**cell, "method": cell["method"].model_dump()})
    if out.exists() and any(json.loads(line)["key"] == key for line in out.read_text().splitlines()):
        return
    with tempfile.TemporaryDirectory() as scratch:
        family: Family = NANO
        if cell["random_init"]:
            model: Any = load_model(f"nano/{cell['model']}", random_init=True)
            model.save_pretrained(scratch)
            load_tokenizer(f"nano/{cell['model']}").save_pretrained(scratch)
            spec = NANO.model(cell["model"]).model_copy(update={"source": scratch})
            family = NANO.model_copy(update={"models": (spec,)})
        asked = Request.of(
            cell["budget"], family, model=cell["model"], method=cell["method"], learning_rate=cell["rate"]
        )
        plan = plan_job(asked, DataOptions(), cache=cache)
        _, record = run(plan.recipe, plan.data, Path(scratch) / "run", execution=Execution(checkpoint_seconds=1e9))
    assert record.heldout is not None
    assert record.heldout_before is not None
    line = {
        "key": key,
        "model": cell["model"],
        "method": cell["method"].label,
        "random_init": cell["random_init"],
        "rate": record.recipe.learning_rate,
        "flop": record.model_flop,
        "tokens": record.tokens,
        "steps": record.steps,
        "heldout_before": record.heldout_before.loss,
        "heldout": record.heldout.loss,
        "heldout_fingerprint": record.heldout.fingerprint,
        "train_loss": record.final_loss,
        "seconds": record.wall_seconds,
        "useful_flop_per_second": record.model_flop / record.wall_seconds,
        "torch": record.versions["torch"],
    }
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rates", "bases"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/tokens"))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    cells = rates() if given.what == "rates" else bases()
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        pool.map(measure, [(cell, given.cache, given.out) for cell in cells], chunksize=1)


if __name__ == "__main__":
    main()
