"""What a FLOP is worth in seconds when one query comes at a time: latency against depth, as users serve the model.

    python benchmarks/query_latency.py FILE.gguf --depths 1 2 3 6 12 30 --threads 2 --out result.json

Queries of `TOKENS` tokens go one by one through sentence-transformers' `encode` on the exported cut, in fp32 on the
CPU; the depths take turns, query by query, so that other work on the machine slows all of them.  `encode` holds the
tokenizer and all that is not FLOP.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from isoembed.core import write_atomically
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from speed_case import surroundings

#: of a query, as those of the paper's corpus
TOKENS = 14
CONTEXT = 75
WARM = 5
RESULT = Path(__file__).with_name("results") / "query_latency.json"


def servers(model: str, depths: list[int], place: Path) -> dict[int, Any]:
    """A SentenceTransformer of each depth."""
    tokenizer = load_tokenizer(model)
    for depth in depths:
        encoder = Encoder(load_model(model, depth=depth), "mean")
        Embedder(encoder, tokenizer, CONTEXT).save(place / str(depth))
    return {depth: SentenceTransformer(str(place / str(depth)), device="cpu") for depth in depths}


def queries(model: str, count: int) -> list[str]:
    """Texts of `TOKENS` tokens each."""
    tokenizer = load_tokenizer(model)
    words = [str(tokenizer.decode([index])) for index in range(1000, 4000)]
    chosen = [word for word in words if word.startswith(" ") and word[1:].isalpha() and len(word) > 3]
    picked = np.random.default_rng(0).choice(chosen, size=(count, TOKENS))
    return ["".join(row).strip() for row in picked]


def measure(model: str, depths: list[int], count: int) -> list[dict[str, Any]]:
    """Per depth the latencies' median and 95th percentile in seconds, beside its FLOP for such a query."""
    texts = queries(model, count + WARM)
    with tempfile.TemporaryDirectory() as place:
        sides = servers(model, depths, Path(place))
        seconds: dict[int, list[float]] = {depth: [] for depth in depths}
        for text in texts:
            for depth, side in sides.items():
                begun = time.perf_counter()
                side.encode(text, show_progress_bar=False)
                seconds[depth].append(time.perf_counter() - begun)
    return [
        {
            "depth": depth,
            "query_flop": 2 * spec_from_config(model, depth=depth).params * TOKENS,
            "median_seconds": float(np.median(taken[WARM:])),
            "p95_seconds": float(np.quantile(taken[WARM:], 0.95)),
        }
        for depth, taken in seconds.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """A line a depth, and the straight line through the medians."""
    flop, seconds = (np.array([row[name] for row in rows]) for name in ("query_flop", "median_seconds"))
    slope, start = np.polyfit(flop, seconds, 1)
    lines = ["| blocks | FLOP a query | median, ms | 95 %, ms |", "|---|---|---|---|"]
    lines += [
        f"| {row['depth']} | {row['query_flop']:.2g} | {1e3 * row['median_seconds']:.1f} | "
        f"{1e3 * row['p95_seconds']:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, f"{1e3 * start:.1f} ms and {1e3 * slope * 1e8:.1f} ms for each 1e8 FLOP"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 6, 12, 30])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = measure(asked.model, asked.depths, asked.queries)
    told = {**surroundings(), "load": os.getloadavg(), "threads": asked.threads, "tokens": TOKENS, "rows": rows}
    write_atomically(asked.out, json.dumps(told, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
