"""From the command to its first answer: `isoembed recipe`, and the first training step on a store that is warm.

python benchmarks/start_up.py --repeats 5 --out result.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_speed import write_pairs
from isoembed.cache import working_folder
from isoembed.core import write_atomically
from speed_case import surroundings

ISOEMBED = [sys.executable, "-m", "isoembed"]


def recipe_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([*ISOEMBED, "recipe", "--budget", "1e17", "--family", "pythia"], capture_output=True, check=True)
    return time.perf_counter() - started


def first_step_seconds(folder: Path, model: str, number: int) -> float:
    """Until the metrics file has a line; the run is then stopped."""
    out = folder / f"run{number}"
    command = [*ISOEMBED, "train", "--budget", "1e13", "--model", model, "--method", "full", "--data"]
    command += [str(folder / "pairs.jsonl"), "--cache", str(folder / "tokens"), "--out", str(out)]
    metrics = working_folder(out, folder / "tokens") / "metrics.jsonl"
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"No first step; the run said: {process.stderr.read() if process.stderr else ''}")
            time.sleep(0.01)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-200k")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pairs(folder / "pairs.jsonl", given.pairs)
        cold = first_step_seconds(folder, given.model, 0)
        warm = [first_step_seconds(folder, given.model, number) for number in range(1, given.repeats + 1)]
    recipe = [recipe_seconds() for _ in range(given.repeats)]
    result: dict[str, Any] = {
        "pairs": given.pairs,
        "recipe_seconds": recipe,
        "first_step_seconds": warm,
        "first_step_seconds_cold": cold,
    }
    print(f"recipe      {min(recipe):6.2f} s at best, {statistics.median(recipe):.2f} s median")
    print(f"first step  {min(warm):6.2f} s at best, {statistics.median(warm):.2f} s median; cold store {cold:.2f} s")
    if given.out is not None:
        write_atomically(given.out, json.dumps({**result, **surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
