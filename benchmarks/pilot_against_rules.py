"""One budget, three ways to spend it: a pilot first, the rule without measurements, the largest model that fits.

    python benchmarks/pilot_against_rules.py --data PAIRS.jsonl.gz --out FOLDER      resumed by running it again
    python benchmarks/pilot_against_rules.py --family FILE.gguf@ --data docstrings --out FOLDER --result pilot_real.json

The pilot's runs are paid from the budget; the two others train with all of it.  All are full `isoembed run`s on one
family, the nano suite or the depths of one model, one after the other, at `--batch-pairs`, the same pairs held out.
The rule is the paper's for the method (full fine-tuning below 9.06e16 FLOP) with the provisional 20 tokens per
parameter for the size; the family's own measured law is not used by any of them, since it holds for another batch.
The peak learning rates are the family's measured ones.

Results: benchmarks/results/pilot_against_rules.json, pilot_real.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from isoembed.core import short_name, write_atomically
from isoembed.methods import Full
from isoembed.recommendation.request import MIN_STEPS
from isoembed.records import Ledger
from isoembed.workflows.models import suite

RESULTS = Path(__file__).parent / "results"


def isoembed(*arguments: str) -> dict[str, Any]:
    """A command's JSON; what it says goes to this terminal."""
    done = subprocess.run([sys.executable, "-m", "isoembed", *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="nano", help="as --family of isoembed run")
    parser.add_argument("--data", required=True, help="as --data of isoembed run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=1e13)
    parser.add_argument("--pilot", default="10%")
    parser.add_argument("--batch-pairs", type=int, default=16)
    parser.add_argument("--heldout-pairs", type=int, default=4096)
    parser.add_argument("--result", default="pilot_against_rules.json", help="its name in benchmarks/results")
    given = parser.parse_args()
    shared = ["--family", given.family, "--data", given.data, "--budget", f"{given.budget:g}", "--batch-pairs",
              str(given.batch_pairs), "--heldout-pairs", str(given.heldout_pairs), "--cache", str(given.out / "tokens"),
              "--resume"]  # fmt: skip

    rule = isoembed("run", *shared, "--method", "full", "--out", str(given.out / "rule"), "--dry-run")["recipe"]
    tokens = MIN_STEPS * given.batch_pairs * (rule["data"]["query_tokens"] + rule["data"]["positive_tokens"])
    models = suite(given.family, None)[0].models
    affordable = [model for model in models if given.budget >= tokens * Full().cost(model).flop_per_token]
    largest = max(affordable, key=lambda model: model.params)
    ways = {
        "pilot": ["--pilot", given.pilot],
        "rule": ["--method", "full", "--model", rule["model"]["name"]],
        "largest": ["--method", "full", "--model", largest.name],
    }
    found: dict[str, Any] = {}
    for name, options in ways.items():
        answer = isoembed("run", *shared, *options, "--out", str(given.out / name))
        record = answer["record"]
        found[name] = {
            "model": record["recipe"]["model"]["name"],
            "method": record["recipe"]["method"],
            "flop": record["model_flop"],
            "tokens": record["tokens"],
            "heldout_loss": record["heldout"]["loss"],
            "forecast": answer["recommendation"]["loss"],
            "trained_ndcg@10": {key: value for key, value in answer["scores"].items() if "trained" in key},
        }
        if name == "pilot":
            runs = Ledger.open(given.out / "pilot" / "pilot.jsonl.gz").records()
            found[name] |= {"pilot_runs": len(runs), "pilot_flop": sum(run.recipe.flop for run in runs)}
        print(name, found[name], flush=True)
    made = {"data": short_name(Path(given.data).name), "budget": given.budget, "batch_pairs": given.batch_pairs}
    write_atomically(RESULTS / given.result, json.dumps(made | {"ways": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
