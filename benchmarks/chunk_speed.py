"""What each idea for running the mini-batches of a batch brings: the gradient of one batch in variants, side by side.

    python benchmarks/chunk_speed.py --model nano-1.6m --method full --batch 256 --rounds 6 --out result.json

`shipped` is how a run on a CPU goes; every other variant changes one thing of it, and is measured beside it in each
round on the same batch.  Ratios are the variant's seconds over those of `shipped`, paired by round: above 1, shipped is
faster.  With `--profile`, where the time of one thread goes in `shipped`, by kind of operation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from isoembed.core import write_atomically
from isoembed.data.batches import Batch, Position, batches
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.mini_batches import CPU_MINI_BATCH_TOKENS
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.methods import method_named
from isoembed.options import PLAIN
from isoembed.training.compiled import compiled
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.objective import Objective
from speed_case import Case, add_model_options, build, surroundings, tokenized

CPU = torch.device("cpu")
#: part of an operator's name -> what it is counted as in the profile; the first that fits
KINDS = {
    "mm": "products", "scaled_dot_product": "attention", "flash": "attention", "gelu": "activation",
    "silu": "activation", "norm": "norms", "cat": "copies", "copy": "copies", "clone": "copies", "sum": "sums",
    "add": "sums",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One way to run a batch: the memory's cut, what goes around the encoder, how attention is computed."""

    memory: Memory
    around: Callable[[Encoder], AbstractContextManager[None]] = lambda encoder: nullcontext()
    attention: str = "sdpa"


def variants(threads: int) -> dict[str, Variant]:
    """By name; `shipped` first."""
    kept = Memory(CPU_MINI_BATCH_TOKENS, 10**9, workers=threads, merged=True)
    return {
        "shipped": Variant(kept),
        "threads an operation": Variant(replace(kept, workers=1)),
        "masks": Variant(kept, masked),
        "eager attention": Variant(kept, attention="eager"),
        "chunks of 4096": Variant(replace(kept, mini_batch_tokens=4096)),
        "chunks of 16384": Variant(replace(kept, mini_batch_tokens=16384)),
        "no graph kept": Variant(replace(kept, kept_tokens=0)),
        "adapters apart": Variant(replace(kept, merged=False)),
        "adapters merged, all of them": Variant(kept, always_merged),
        "compiled, threads an operation": Variant(replace(kept, workers=1, merged=False), compiled),
    }


@contextmanager
def masked(encoder: Encoder) -> Iterator[None]:
    """The encoder told of its padding, although it looks back only."""
    with patch("isoembed.encoder.encoder.looks_back_only", return_value=False):
        yield


@contextmanager
def always_merged(encoder: Encoder) -> Iterator[None]:
    """Adapters run as dense weights however wide the layer is."""
    with patch("isoembed.training.merged.TRAFFIC", float("inf")):
        yield


class Runner:
    """A variant with an encoder of its own."""

    def __init__(self, variant: Variant, case: Case, folder: Path) -> None:
        self.variant = variant
        model: Any = load_model(str(folder / "model"))
        model.set_attn_implementation(variant.attention)
        self.encoder = Encoder(case.method.apply(model), "mean")
        self.pool = WorkerPool(self.encoder, variant.memory.workers)
        self.objective = Objective(case.temperature, PLAIN)

    def seconds(self, batch: Batch) -> tuple[float, float]:
        """Time and loss of one gradient."""
        for encoder in self.pool.encoders:
            encoder.train()
        self.encoder.zero_grad(set_to_none=True)
        started = time.perf_counter()
        step = accumulate_gradients(
            self.pool, batch.query_ids, batch.positive_ids, self.objective.of(batch, CPU), self.variant.memory
        )
        return time.perf_counter() - started, step.loss


def measure(case: Case, folder: Path, rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """Every variant in every round; the first gradient of each is not timed."""
    data = tokenized(case, folder, folder / "tokens")
    source = batches(data, batch_pairs=case.batch_pairs, seed=case.seed, start=Position(0, 0))
    drawn = [batch for (_, batch), _ in zip(source, range(rounds), strict=False)]
    asked = {name: each for name, each in variants(case.threads).items() if name == "shipped" or name in names}
    runners = {name: Runner(variant, case, folder) for name, variant in asked.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    losses: dict[str, list[float]] = {name: [] for name in runners}
    warm = set[str]()
    for batch in drawn:
        for name, runner in runners.items():
            with runner.variant.around(runner.encoder):
                if name not in warm or runner.variant.around is compiled:
                    runner.seconds(drawn[0])
                    warm.add(name)
                spent, loss = runner.seconds(batch)
            times[name].append(spent)
            losses[name].append(loss)
    base = np.array(times["shipped"])
    return [
        {
            "variant": name,
            "seconds_median": statistics.median(spent),
            "times_shipped": float(np.median(np.array(spent) / base)),
            "spread": [float(value) for value in np.quantile(np.array(spent) / base, (0.0, 1.0))],
            "loss_difference": float(np.abs(np.array(losses[name]) - losses["shipped"]).max()),
        }
        for name, spent in times.items()
    ]


def profile(case: Case, folder: Path) -> dict[str, float]:
    """Share of one thread's time by kind of operation, largest first."""
    data = tokenized(case, folder, folder / "tokens")
    _, batch = next(batches(data, batch_pairs=case.batch_pairs, seed=case.seed, start=Position(0, 0)))
    runner = Runner(Variant(Memory(CPU_MINI_BATCH_TOKENS, 10**9)), case, folder)
    torch.set_num_threads(1)
    runner.seconds(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        runner.seconds(batch)
    spent: dict[str, float] = {}
    for event in found.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "rest")
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: share / whole for kind, share in sorted(spent.items(), key=lambda entry: -entry[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    names = [*variants(2)][1:]
    parser.add_argument("--variants", nargs="+", default=names, choices=names, help="beside shipped; default: all")
    parser.add_argument("--profile", action="store_true", help="where one thread's time goes")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    case = Case(
        model=given.model,
        method=method_named(given.method, fraction=given.fraction, rank=given.rank),
        pairs="paper",
        batch_pairs=given.batch,
        steps=given.rounds,
        warm_steps=0,
        threads=given.threads,
    )
    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as folder:
        build(case, Path(folder))
        result: dict[str, Any] = {
            "case": case.model_dump(mode="json"),
            "variants": measure(case, Path(folder), given.rounds, given.variants),
        }
        if given.profile:
            result["profile"] = profile(case, Path(folder))
    result |= surroundings()
    print(f"{'variant':32}{'seconds':>9}{'x shipped':>11}  least, most     loss differs")
    for row in result["variants"]:
        least, most = row["spread"]
        print(
            f"{row['variant']:32}{row['seconds_median']:9.2f}{row['times_shipped']:11.2f}  {least:.2f}, {most:.2f}"
            f"{row['loss_difference']:15.1e}"
        )
    for kind, share in result.get("profile", {}).items():
        print(f"{kind:32}{share:9.0%}")
    if given.out:
        write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
