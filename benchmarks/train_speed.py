"""Training side by side: isoembed, sentence-transformers' trainer and a GradCache-style loop, and the machine's limit.

    python benchmarks/train_speed.py --model pythia-14m --method full --batch 1024 --memory-gib 4 --out result.json

Same weights, same pairs in the same order, same loss and optimiser, tokenisation included.  Every side runs in a
process of its own, so that its peak of memory is its own, one after the other; `--repeats` goes round all of them again
and the best round counts.  Where the losses of a side leave isoembed's by more than 1e-3 at any step, the comparison is
marked invalid.  Rates are useful FLOP/s: the paper's C of the real tokens, over the time of the steps after `--warm`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from isoembed.core import write_atomically
from isoembed.methods import method_named
from speed_case import Case, add_model_options, build, surroundings

SIDES = Path(__file__).with_name("speed_sides.py")
MINI_BATCHES = (8, 16, 32, 64, 128)


def default_sides() -> list[str]:
    cached = [f"st-cached:{size}" for size in MINI_BATCHES]
    return ["isoembed", "st-plain", *cached, "st-cached-tokens:4096", "gradcache:32", "gradcache-checkpointed:32"]


def measure(folder: Path, side: str, timeout: float) -> dict[str, Any]:
    """What the side's process wrote; or why it wrote nothing."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    threads = str(Case.load(folder).threads)
    command = [sys.executable, str(SIDES), str(folder), side, str(result)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"side": side, "failed": f"not done after {timeout:.0f} s"}
    if done.returncode == 0:
        facts: dict[str, Any] = json.loads(result.read_text())
        return facts
    killed = "killed, as where memory runs out" if done.returncode == -9 else done.stderr.strip()[-2000:]
    return {"side": side, "failed": killed}


def summary(case: Case, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One side over its rounds: rates from the fastest, memory from the largest."""
    failed = [facts for facts in rounds if "failed" in facts]
    if failed:
        return failed[0]
    timed = case.steps - case.warm_steps
    best = min(rounds, key=lambda facts: sum(facts["step_seconds"][case.warm_steps :]))
    seconds = sum(best["step_seconds"][case.warm_steps :])
    seconds += best.get("tokenise_seconds", 0.0) * timed / case.steps
    rate = best["tokens"] * timed / case.steps / seconds
    return {
        "side": best["side"],
        "tokens_per_second": rate,
        "useful_flop_per_second": rate * best["model_flop_per_token"],
        "step_seconds_median": statistics.median(best["step_seconds"][case.warm_steps :]),
        "rounds_seconds": [sum(facts["step_seconds"][case.warm_steps :]) for facts in rounds],
        "peak_bytes": max(facts["peak_bytes"] for facts in rounds),
        "resident_bytes": best["resident_bytes"],
        "losses": best["losses"],
        **{name: best[name] for name in ("padding", "recomputation") if name in best},
    }


def compare(case: Case, sides: list[dict[str, Any]]) -> dict[str, Any]:
    """isoembed against each other side, and against the peer's best, overall and within the stated memory."""
    ours = next((side for side in sides if side["side"] == "isoembed"), {})
    if "losses" not in ours:
        return {}
    for side in sides:
        if "losses" in side:
            away = [abs(a - b) for a, b in zip(side["losses"], ours["losses"], strict=True)]
            side["loss_difference"] = max(away)
            side["valid"] = len(away) == case.steps and max(away) <= case.tolerance
            side["speed_ratio"] = ours["tokens_per_second"] / side["tokens_per_second"]
            side["memory_ratio"] = ours["peak_bytes"] / side["peak_bytes"]
    peers = [side for side in sides if side["side"].startswith("st-") and side.get("valid")]
    within = [side for side in peers if case.memory_bytes is None or side["peak_bytes"] <= case.memory_bytes]
    found: dict[str, Any] = {}
    for name, group in (("peer", peers), ("peer_within_memory", within)):
        if group:
            best = max(group, key=lambda side: side["tokens_per_second"])
            found[name] = best["side"]
            found[f"speed_over_{name}"] = best["speed_ratio"]
            found[f"memory_over_{name}"] = best["memory_ratio"]
    found |= {name: ours[name] for name in ("padding", "recomputation")}
    if case.memory_bytes is not None:
        found["peak_over_stated"] = ours["peak_bytes"] / case.memory_bytes
    return found


def table(result: dict[str, Any]) -> str:
    """The result as text, one line per side."""
    lines = [f"{'side':26}{'tokens/s':>10}{'GFLOP/s':>9}{'of GEMM':>9}{'peak MiB':>10}{'we / it':>9}  losses"]
    for side in result["sides"]:
        if "failed" in side:
            lines.append(f"{side['side']:26}failed: {side['failed'].splitlines()[-1] if side['failed'] else '?'}")
            continue
        agree = f"{side['loss_difference']:.1e}" + ("" if side["valid"] else " INVALID")
        lines.append(
            f"{side['side']:26}{side['tokens_per_second']:10,.0f}{side['useful_flop_per_second'] / 1e9:9.1f}"
            f"{side['useful_flop_per_second'] / result['gemm_flop_per_second']:9.0%}"
            f"{side['peak_bytes'] / 2**20:10,.0f}{side['speed_ratio']:8.2f}x  {agree}"
        )
    lines += [
        f"{name}: {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in result["ratios"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--pairs", default="paper", help="paper (random words in its lengths), docstrings, or a file")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm", type=int, default=1, help="steps that are not timed")
    parser.add_argument("--memory-gib", type=float, help="peak that isoembed may take [default: half of what is free]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sides", nargs="+", default=default_sides(), help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds a side")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    case = Case(
        model=given.model,
        method=method_named(given.method, fraction=given.fraction, rank=given.rank),
        pairs=given.pairs,
        batch_pairs=given.batch,
        steps=given.steps,
        warm_steps=given.warm,
        threads=given.threads,
        memory_bytes=None if given.memory_gib is None else given.memory_gib * 2**30,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(case, folder)
        limits, rounds = [], []
        for _ in range(given.repeats):
            limits.append(measure(folder, "gemm", given.timeout))
            rounds.append([measure(folder, side, given.timeout) for side in given.sides])
        limits.append(measure(folder, "gemm", given.timeout))
    sides = [summary(case, list(of_side)) for of_side in zip(*rounds, strict=True)]
    ratios = compare(case, sides)
    result = {
        "case": case.model_dump(mode="json"),
        "sides": sides,
        "ratios": ratios,
        "gemm_flop_per_second": max(limit["gemm_flop_per_second"] for limit in limits),
        "gemm": limits,
        **surroundings(),
    }
    print(table(result))
    if given.out is not None:
        write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
