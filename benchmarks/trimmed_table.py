"""What a trimmed vocabulary saves: full fine-tuning of one model with its whole token table and with a trimmed one.

    python benchmarks/trimmed_table.py MODEL DATA --depth 2 --out result.json

MODEL as --model of run, DATA a file of pairs.  The sides take the same steps on the same texts, each in a process of
its own, in turn; the fastest round of a side counts.  Memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from isoembed.core import write_atomically
from isoembed.data.sources import open_source
from isoembed.encoder.load import load_model, weights_hash
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Full
from isoembed.recipe import Setup, solve
from isoembed.training.execution import Execution
from isoembed.training.speed import measure_speed
from isoembed.workflows.job import DataOptions
from isoembed.workflows.trim import trim_vocabulary

SETUP = Setup(batch_pairs=32, context_tokens=75)
STEPS = 6


def side(source: str, depth: int, pairs: str) -> dict[str, float]:
    """Speed, peak memory and bytes of the weights of full fine-tuning of the cut model at `source`."""
    spec = spec_from_config(source, depth=depth)
    with tempfile.TemporaryDirectory() as cache:
        data = DataOptions(pairs).prepare(load_tokenizer(source), SETUP, cache=cache)
        flop = (STEPS + 1) * SETUP.batch_pairs * data.stats.tokens_per_pair * Full().cost(spec).flop_per_token
        recipe = solve(flop, spec, Full(), 3e-4, SETUP, data.stats, family="custom")
        recipe = recipe.model_copy(update={"base_hash": weights_hash(load_model(source, depth=depth))})
        speed = measure_speed(recipe, data, Execution(mini_batch_tokens=4096), steps=STEPS)
    return {
        "flop_per_second": speed.flop_per_second,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "weights_bytes": 4 * spec.total_params,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", action="store_true", help="measure MODEL alone, print it and stop")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(side(asked.model, asked.depth, asked.data)))
        return
    with tempfile.TemporaryDirectory() as place:
        facts = trim_vocabulary(asked.model, open_source(asked.data), Path(place) / "trimmed")
        sides = {"whole": asked.model, "trimmed": f"{place}/trimmed"}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(asked.rounds):
            for name, source in sides.items():
                command = [sys.executable, __file__, source, asked.data, f"--depth={asked.depth}", "--side"]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rounds[name].append(json.loads(said.splitlines()[-1]))
    best = {name: max(tries, key=lambda each: each["flop_per_second"]) for name, tries in rounds.items()}
    ratios = {key: best["trimmed"][key] / best["whole"][key] for key in best["whole"]}
    found = {"model": Path(asked.model).name, "data": Path(asked.data).name, "depth": asked.depth} | {
        "tokens": facts.tokens,
        "tokens_before": facts.tokens_before,
        "rounds": rounds,
        "trimmed_over_whole": ratios,
    }
    print(json.dumps(ratios, indent=1))
    if asked.out is not None:
        write_atomically(asked.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
