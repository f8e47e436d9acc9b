"""Estimated against measured peaks of memory: `python benchmarks/memory_estimates.py`.

Measured: every run of the nano study (workers of a sweep: each trains many runs in one process, whose freed memory
counts) and our side of `train_speed.json`, which had a stated limit.  Estimated: the whole batch's graph kept, or the
limit where that is less.  A ratio of 1.2 is a peak a fifth above the estimate.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median

from isoembed.estimates import TrainingMemory, recipe_memory, training_memory
from isoembed.families import NANO, PYTHIA
from isoembed.methods import method_named
from isoembed.recipe import DataStats
from isoembed.records import Ledger

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Print one row per model and method, and the medians of both sources."""
    rows: dict[tuple[str, str, str], list[tuple[float, TrainingMemory, float]]] = defaultdict(list)
    for record in Ledger.open(RESULTS / "nano_study.jsonl.gz").records():
        name = ("study", record.recipe.model.name, record.recipe.method.name)
        rows[name].append((record.peak_memory_bytes, recipe_memory(record.recipe), float("inf")))
    for result in json.loads((RESULTS / "train_speed.json").read_text()).values():
        case, data = result["case"], DataStats()
        ours = next(side for side in result["sides"] if side["side"] == "isoembed")
        model = next(model for family in (NANO, PYTHIA) for model in family.models if model.name == case["model"])
        method = method_named(**case["method"])
        tokens = case["batch_pairs"] * data.tokens_per_pair
        needed = training_memory(
            model,
            method.cost(model),
            batch_tokens=tokens,
            batch_pairs=case["batch_pairs"],
            context_tokens=case["context_tokens"],
        )
        rows["speed", model.name, method.name].append((ours["peak_bytes"], needed, case["memory_bytes"]))
    print(
        f"{'source':7}{'model':12}{'method':8}{'runs':>5}{'least':>9}{'whole':>9}{'limit':>9}{'measured':>10}{'ratio':>7}"
    )
    ratios: dict[str, list[float]] = defaultdict(list)
    for (source, model_name, how), found in sorted(rows.items()):
        each = [peak / min(needed.whole, limit) for peak, needed, limit in found]
        ratios[source] += each
        _, needed, limit = found[0]
        shown = (needed.least, needed.whole, limit, median(peak for peak, _, _ in found))
        print(f"{source:7}{model_name:12}{how:8}{len(found):5}", *(f"{value / 2**20:8,.0f}" for value in shown), end="")
        print(f"{median(each):8.2f}")
    for source, each in ratios.items():
        spread = f"{min(each):.2f} to {max(each):.2f} in {len(each)} runs"
        print(f"{source}: median measured / estimated {median(each):.2f}, {spread}")


if __name__ == "__main__":
    main()
