"""Encoding side by side: `isoembed.encoder.embed.embed` and `SentenceTransformer.encode` on the same exported folder.

    python benchmarks/encode_speed.py --model pythia-31m --texts 4096 --out result.json

The texts are the positives and queries of `train_speed.py`'s pairs, in a mixed order.  Every setting of both sides is
run once untimed and then `--repeats` times, going round; the fastest round counts.  Vectors must agree to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from isoembed.core import write_atomically
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Full
from speed_case import Case, build, ordered, surroundings

BATCH_TOKENS = (1024, 4096, 16384)
BATCH_TEXTS = (32, 64, 128)
TOLERANCE = 1e-5


def systems(folder: Path, texts: list[str]) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> what encodes all texts."""
    peer: Any = SentenceTransformer(str(folder), device="cpu")
    embedder = Embedder.load(folder, device="cpu")
    ours = {f"isoembed:{size}": partial(embedder.embed, texts, batch_tokens=size) for size in BATCH_TOKENS}
    theirs = {f"st:{size}": partial(peer.encode, texts, batch_size=size) for size in BATCH_TEXTS}
    return {**ours, **theirs}


def measure(case: Case, count: int, repeats: int) -> dict[str, Any]:
    """Seconds of every setting, the ratio of the fastest of each side, and how far their vectors differ."""
    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch), Path(scratch) / "exported"
        build(case, folder)
        encoder = Encoder(load_model(str(folder / "model")), "mean")
        tokenizer = load_tokenizer(str(folder / "model"))
        Embedder(encoder, tokenizer, case.context_tokens).save(model, card="")
        texts = [text for pair in ordered(folder) for text in pair.values()][:count]
        found = systems(model, texts)
        vectors = {name: encode() for name, encode in found.items()}
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(repeats):
            for name, encode in found.items():
                started = time.perf_counter()
                encode()
                seconds[name].append(time.perf_counter() - started)
    first = vectors[f"isoembed:{BATCH_TOKENS[0]}"]
    apart = max(float(np.abs(first - other).max()) for other in vectors.values())
    best = {
        side: min(min(rounds) for name, rounds in seconds.items() if name.startswith(f"{side}:"))
        for side in ("isoembed", "st")
    }
    return {
        "texts": len(texts),
        "seconds": seconds,
        "texts_per_second": {side: len(texts) / value for side, value in best.items()},
        "ratio": best["st"] / best["isoembed"],
        "largest_difference": apart,
        "valid": apart <= TOLERANCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-1.6m", help="a nano model, or a Pythia's shape with random weights")
    parser.add_argument("--pairs", default="paper", help="paper (random words in its lengths), docstrings, or a file")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    case = Case(
        model=given.model,
        method=Full(),
        pairs=given.pairs,
        batch_pairs=(given.texts + 1) // 2,
        steps=1,
        warm_steps=0,
        threads=given.threads,
    )
    result = {"case": case.model_dump(mode="json"), **measure(case, given.texts, given.repeats), **surroundings()}
    for name, seconds in result["seconds"].items():
        print(f"{name:16}{given.texts / min(seconds):10,.0f} texts/s")
    agree = "agree" if result["valid"] else "DIFFER"
    print(f"ratio {result['ratio']:.2f}x, vectors {agree} ({result['largest_difference']:.1e})")
    if given.out is not None:
        write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
