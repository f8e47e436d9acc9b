"""Encoding side by side: `isoembed.encoder.embed.embed` and `SentenceTransformer.encode` on the same exported folder.

    python benchmarks/encode_speed.py --model pythia-31m --texts 4096 --out result.json
    python benchmarks/encode_speed.py --model FILE.gguf --depth 3 --precisions fp32,bf16 --out result.json

The texts are the positives and queries of `train_speed.py`'s pairs, in a mixed order.  Every setting of both sides is
run once untimed and then `--repeats` times, going round; the fastest round counts.  Vectors must agree to 1e-5, those
of bf16 (ours by autocast, the peer's with its weights in bf16) to .02.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
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
from isoembed.recipe import Precision
from speed_case import TOKENIZER, Case, build, ordered, surroundings

BATCH_TOKENS = (1024, 4096, 16384)
BATCH_TEXTS = (32, 64, 128)
#: how far a number of a vector may differ
TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 2e-2}
_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16}


def systems(folder: Path, texts: list[str], precision: Precision) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> what encodes all texts."""
    peer: Any = SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": _TORCH[precision]})
    embedder = Embedder.load(folder, device="cpu").in_precision(precision)
    ours = {f"isoembed {precision}:{size}": partial(embedder.embed, texts, batch_tokens=size) for size in BATCH_TOKENS}
    theirs = {f"st {precision}:{size}": partial(peer.encode, texts, batch_size=size) for size in BATCH_TEXTS}
    return {**ours, **theirs}


def measure(case: Case, count: int, repeats: int, precisions: Sequence[Precision], tokenizer: str) -> dict[str, Any]:
    """Seconds of every setting; of each precision the ratio of the fastest of both sides, and how far their vectors
    are from those of ours in fp32."""
    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch) / "case", Path(scratch) / "exported"
        folder.mkdir()
        build(case, folder, tokenizer)
        encoder = Encoder(load_model(str(folder / "model")), "mean")
        Embedder(encoder, load_tokenizer(str(folder / "model")), case.context_tokens).save(model, card="")
        texts = [text for pair in ordered(folder) for text in pair.values()][:count]
        found = {name: encode for each in precisions for name, encode in systems(model, texts, each).items()}
        vectors = {name: encode() for name, encode in found.items()}
        first = Embedder.load(model, device="cpu").embed(texts)
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(repeats):
            for name, encode in found.items():
                started = time.perf_counter()
                encode()
                seconds[name].append(time.perf_counter() - started)
    sides = [f"{side} {each}" for each in precisions for side in ("isoembed", "st")]
    best = {side: min(min(rounds) for name, rounds in seconds.items() if name.startswith(f"{side}:")) for side in sides}
    apart = {
        side: max(float(np.abs(first - other).max()) for name, other in vectors.items() if name.startswith(f"{side}:"))
        for side in sides
    }
    return {
        "texts": len(texts),
        "seconds": seconds,
        "texts_per_second": {side: len(texts) / value for side, value in best.items()},
        "ratio": {each: best[f"st {each}"] / best[f"isoembed {each}"] for each in precisions},
        "largest_difference": apart,
        "valid": all(apart[f"{side} {each}"] <= TOLERANCE[each] for each in precisions for side in ("isoembed", "st")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="nano-1.6m", help="a nano model, a Pythia's shape with random weights, or a folder or file"
    )
    parser.add_argument("--depth", type=int, help="of a folder or file: its first blocks alone")
    parser.add_argument("--precisions", default="fp32", help="fp32, bf16 or both, separated by a comma")
    parser.add_argument("--pairs", default="paper", help="paper (random words in its lengths), docstrings, or a file")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = given.model, TOKENIZER
        if Path(model).exists():  # the case is built from a folder
            base: Any = load_model(model, depth=given.depth)
            model, tokenizer = f"{scratch}/cut", given.model
            base.save_pretrained(model)
        case = Case(
            model=model,
            method=Full(),
            pairs=given.pairs,
            batch_pairs=(given.texts + 1) // 2,
            steps=1,
            warm_steps=0,
            threads=given.threads,
        )
        found = measure(case, given.texts, given.repeats, given.precisions.split(","), tokenizer)
    named = {"model": Path(given.model).name, "depth": given.depth, "pairs": given.pairs, "threads": given.threads}
    result = {**named, **found, **surroundings()}
    for name, seconds in result["seconds"].items():
        print(f"{name:20}{given.texts / min(seconds):10,.0f} texts/s")
    for precision, ratio in result["ratio"].items():
        print(f"{precision}: {ratio:.2f}x")
    print(f"vectors {'agree' if result['valid'] else 'DIFFER'} ({result['largest_difference']})")
    if given.out is not None:
        write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
