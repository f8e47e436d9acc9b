"""Tokenising ahead of training, starting again from the store, and streaming a larger file in the same memory.

    python benchmarks/data_speed.py --pairs 1000000 --times 0 --out result.json
    python benchmarks/data_speed.py --pairs 1000000 --times 10 --words 6 --out result.json

Random words in the lengths of the paper's corpus, as JSONL.  Each line of the result is a process of its own: tokenise
`--pairs`, start again on them, tokenise `--times` as many.  Seconds are those of `prepare`, imports left out; a start
includes everything up to the first batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from isoembed.core import write_atomically
from isoembed.data.batches import batches
from isoembed.data.dataset import prepare
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.training.memory import peak_bytes
from speed_case import TOKENIZER, paper_pairs, surroundings


def write_pairs(file: Path, pairs: int, words: int | None = None) -> None:
    """Numbered, so that no two texts are the same; of at most `words` words."""
    source = paper_pairs(load_tokenizer(TOKENIZER), 0)
    some = [[" ".join(text.split()[:words]) for text in pair] for pair in itertools.islice(source, min(pairs, 20_000))]
    with file.open("w", encoding="utf-8") as lines:
        for number, (query, positive) in zip(range(pairs), itertools.cycle(some), strict=False):
            lines.write(json.dumps({"query": f"{query} {number}", "pos": f"{number} {positive}"}) + "\n")


def child(file: Path, cache: Path) -> dict[str, Any]:
    """What one process sees of `prepare` and the first batch."""
    tokenizer = load_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as scratch:  # what is imported on first use is imported here
        write_pairs(Path(scratch) / "few.jsonl", 8)
        prepare(str(Path(scratch) / "few.jsonl"), tokenizer, context_tokens=75, folder=Path(scratch))
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    data = prepare(str(file), tokenizer, context_tokens=75, folder=cache)
    next(batches(data, batch_pairs=min(1024, len(data.train)), seed=0))
    seconds = time.perf_counter() - started
    tokens = sum(int(data.store.kept_tokens(side).sum()) for side in ("query", "positive"))
    return {
        "pairs": len(data.store),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "resident_before": before,
        "peak_bytes": peak_bytes(torch.device("cpu")),
    }


def in_process(file: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(file), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=10, help="how many times as many in the larger file; 0: none")
    parser.add_argument("--words", type=int, help="words a text at most")
    parser.add_argument("--scratch", type=Path, help="folder with room for both files and stores")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(*given.child)))
        return
    result: dict[str, Any] = {"words": given.words}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        for name, pairs in (("small", given.pairs), ("large", given.pairs * given.times)):
            if not pairs:
                continue
            write_pairs(folder / f"{name}.jsonl", pairs, given.words)
            result[f"tokenise_{name}"] = in_process(folder / f"{name}.jsonl", folder / name)
            result[f"start_{name}"] = in_process(folder / f"{name}.jsonl", folder / name)
            (folder / f"{name}.jsonl").unlink()
    for name, facts in result.items():
        if isinstance(facts, dict):
            print(
                f"{name:16}{facts['pairs']:12,} pairs{facts['seconds']:9.2f} s"
                f"{facts['tokens_per_second']:13,.0f} tokens/s{facts['peak_bytes'] / 2**20:8,.0f} MiB peak"
            )
    if given.out is not None:
        write_atomically(given.out, json.dumps({**result, **surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
