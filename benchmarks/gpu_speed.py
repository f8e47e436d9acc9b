"""Training speed on a GPU: one model, several methods and sides, all in one process.

    python benchmarks/gpu_speed.py --model pythia-410m --methods full lora freeze --device cuda --out result.json

As `train_speed.py`, whose sides these are: same weights, order, loss and optimiser.  One process will do where memory
is the GPU's: its peak is counted anew for every side.  MFU is the useful FLOP/s of the steps (the paper's C) over the
device's peak by its data sheet, or where that is not known over the fastest products measured; `tokens_per_second` has
tokenisation in it, on all sides.  The result is written after every method.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from isoembed.budget import DEVICES
from isoembed.core import write_atomically
from isoembed.methods import method_named
from speed_case import Case, build, surroundings
from speed_sides import facts_of
from train_speed import compare, summary

METHODS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"rank": 32}, "freeze": {"fraction": 0.5}, "bias": {}}
SIDES = ("isoembed", "st-cached:64", "st-cached:256")


def peak_flop() -> float | None:
    """The GPU's dense bf16 peak by its data sheet; None where it is not known."""
    name = torch.cuda.get_device_name().lower() if torch.cuda.is_available() else ""
    known = [device for device in DEVICES if device.name in name.replace(" ", "")]
    return float(known[-1].peak_flop_per_second) if known else None


def measured(case: Case, folder: Path, side: str) -> dict[str, Any]:
    """The side's facts, or why there are none: the next one is run all the same."""
    try:
        return facts_of(case, folder, side)
    except Exception as error:
        return {"side": side, "failed": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def profiled(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Where isoembed's steps spend their time: the most expensive operations, in microseconds there."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as found:
        facts_of(case, folder, "isoembed")
    on_device = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    rows = sorted(found.key_averages(), key=lambda event: getattr(event, on_device), reverse=True)[:20]
    return [
        {
            "operation": event.key[:90],
            "calls": event.count,
            "device_us": round(event.self_device_time_total),
            "cpu_us": round(event.self_cpu_time_total),
        }
        for event in rows
    ]


def mfu(case: Case, facts: dict[str, Any], peak: float | None) -> float | None:
    """Model FLOP of the timed steps over what the device could have done meanwhile."""
    if peak is None or "failed" in facts:
        return None
    timed = facts["step_seconds"][case.warm_steps :]
    flop: float = facts["tokens"] * len(timed) / case.steps * facts["model_flop_per_token"]
    return float(flop / sum(timed) / peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="pythia-410m", help="a nano model, a Pythia's shape with random weights, a folder"
    )
    parser.add_argument("--methods", nargs="+", default=["full", "lora", "freeze"], choices=METHODS)
    parser.add_argument("--sides", nargs="+", default=list(SIDES))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--profile", action="store_true", help="the first method's most expensive operations too")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    peak = peak_flop()
    result: dict[str, Any] = {"model": given.model, "peak_flop_per_second": peak, "rows": [], **surroundings()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number, name in enumerate(given.methods):
            case = Case(
                model=given.model,
                method=method_named(name, **METHODS[name]),
                pairs="paper",
                batch_pairs=given.batch,
                steps=given.steps,
                warm_steps=given.warm,
                threads=torch.get_num_threads(),
                learning_rate=1e-4,
                device=given.device,
                precision=given.precision,
            )
            if number == 0:
                build(case, folder)
                result["case"] = case.model_dump(mode="json")
                result["gemm"] = measured(case, folder, "gemm").get("gemm_flop_per_second")
            facts = [measured(case, folder, side) for side in given.sides]
            sides = [summary(case, [each]) for each in facts]
            result.setdefault("ratios", {})[name] = compare(case, sides)
            result["rows"] += [
                {"method": name, "mfu": mfu(case, each, peak or result["gemm"]), **side}
                for each, side in zip(facts, sides, strict=True)
            ]
            write_atomically(given.out, json.dumps(result, indent=1) + "\n")
            if given.profile and number == 0:
                result["profile"] = profiled(case, folder)
    write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
