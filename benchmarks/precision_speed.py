"""Training in fp32 and bf16, ours and sentence-transformers', on the first blocks of a real model, side by side.

    python benchmarks/precision_speed.py SmolLM2-135M.gguf --depths 2 3 6 --batches 64 512 --out result.json

Every side trains the same pairs in the same order in a process of its own (`speed_sides.py`), one after the other;
`--repeats` goes round all of them again.  A ratio is taken within a round and given as the median over the rounds with
its smallest and largest value, so that other work on the machine, which slows a whole round, matters less.  Rates are
useful FLOP/s: the paper's C of the real tokens, over the median time of a step; `tokenize` is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from isoembed.core import write_atomically
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Full
from isoembed.recipe import Precision
from speed_case import Case, build, surroundings
from train_speed import measure

RESULT = Path(__file__).with_name("results") / "precision_speed.json"
#: name -> (side of `speed_sides.py`, precision)
SIDES: dict[str, tuple[str, Precision]] = {
    "ours bf16": ("isoembed", "bf16"),
    "ours fp32": ("isoembed", "fp32"),
    "st plain fp32": ("st-plain", "fp32"),
    "st plain bf16": ("st-plain", "bf16"),
    "st cached fp32": ("st-cached:32", "fp32"),
    "st cached bf16": ("st-cached:32", "bf16"),
}
OURS = "ours bf16"
#: nats that the sides' first losses may differ by: rounding in bf16
SAME = 0.03


def one_case(model: str, depth: int, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """All sides on the first `depth` blocks of `model` at one batch size."""
    with tempfile.TemporaryDirectory() as scratch:
        cut, folder = Path(scratch) / "cut", Path(scratch) / "case"
        folder.mkdir()
        base: Any = load_model(model, depth=depth)
        base.save_pretrained(cut)
        load_tokenizer(model).save_pretrained(cut)
        case = Case(
            model=str(cut),
            method=Full(),
            pairs=given.pairs,
            batch_pairs=batch,
            steps=given.steps,
            warm_steps=1,
            learning_rate=3e-4,
            threads=given.threads,
        )
        build(case, folder, str(cut))
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in given.sides}
        for _ in range(given.repeats):
            for name in given.sides:
                side, precision = SIDES[name]
                chosen = case.model_copy(update={"precision": precision})
                (folder / "case.json").write_text(chosen.model_dump_json())
                rounds[name].append(measure(folder, side, given.timeout))
                print(f"@{depth} batch {batch} {name}: {_rate(rounds[name][-1]) or 'failed'}", flush=True)
    first = {name: facts["losses"][0] for name, (facts, *_) in rounds.items() if "failed" not in facts}
    if max(first.values()) - min(first.values()) > SAME:
        raise SystemExit(f"all sides must begin at one loss, for they train the same texts; they begin at {first}")
    return {"depth": depth, "batch_pairs": batch, "sides": {name: _summary(name, rounds) for name in rounds}}


def _rate(facts: dict[str, Any]) -> float | None:
    """Useful FLOP/s of a round; None where the side failed."""
    if "failed" in facts:
        return None
    seconds = facts["step_seconds"]
    per_step = facts["tokens"] * facts["model_flop_per_token"] / len(seconds)
    return float(per_step / statistics.median(seconds[1:]))


def _summary(name: str, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A side's rates, and over the rounds how many times as fast ours in bf16 is."""
    rates = [_rate(facts) for facts in rounds[name]]
    pairs = [(_rate(ours), its) for ours, its in zip(rounds.get(OURS, []), rates, strict=False)]
    ratios = [ours / its for ours, its in pairs if ours and its]
    known = [rate for rate in rates if rate]
    if not known:
        return {"failed": rounds[name][0].get("failed", "")}
    return {
        "flop_per_second": known,
        "ours_bf16_over_it": statistics.median(ratios) if ratios else None,
        "least": min(ratios, default=None),
        "most": max(ratios, default=None),
        "peak_bytes": max(facts["peak_bytes"] for facts in rounds[name] if "failed" not in facts),
        "losses": rounds[name][0].get("losses"),
    }


def table(cases: list[dict[str, Any]]) -> str:
    """One line per side: GFLOP/s, how many times as fast ours in bf16 is (least to most of the rounds), last loss."""
    lines = [
        "| blocks | batch | side | GFLOP/s | ours bf16 / it | peak GiB | last loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for name, side in case["sides"].items():
            start = f"| {case['depth']} | {case['batch_pairs']} | {name} |"
            if "failed" in side:
                lines.append(f"{start} failed | | | |")
                continue
            ratio = side["ours_bf16_over_it"]
            spread = "" if ratio is None else f"{ratio:.2f} ({side['least']:.2f} to {side['most']:.2f})"
            rate = statistics.median(side["flop_per_second"]) / 1e9
            lines.append(
                f"{start} {rate:.0f} | {spread} | {side['peak_bytes'] / 2**30:.1f} | {side['losses'][-1]:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, a folder or a model's name")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 6])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--pairs", default="docstrings", help="any of isoembed's sources, or paper")
    parser.add_argument("--steps", type=int, default=6, help="the first is not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds a side")
    parser.add_argument("--quick", action="store_true", help="three blocks, batch 64, four steps, two rounds")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.quick:
        given.depths, given.batches, given.steps, given.repeats = [3], [64], 4, 2
    cases = []
    for depth in given.depths:
        for batch in given.batches:
            cases.append(one_case(given.model, depth, batch, given))
            result = {**surroundings(), "load": os.getloadavg(), "threads": given.threads, "cases": cases}
            write_atomically(given.out, json.dumps(result, indent=1) + "\n")
    print(table(cases))


if __name__ == "__main__":
    main()
