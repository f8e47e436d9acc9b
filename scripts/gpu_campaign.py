"""The GPU campaign: what a short stretch on a GPU is spent on, in order of value, each part bounded in time.

    python scripts/gpu_campaign.py --minutes 8 --payload build/gpu/payload --out build/gpu/run
    python scripts/gpu_campaign.py --minutes 8 --out build/gpu/run --dry-run       what it would do, its FLOP, seconds
    python scripts/gpu_campaign.py --tiny --device cpu --out build/tiny            all of it at the smallest sizes

1. right: every method on the device against the CPU; switches; memory; resume; the export.
2. fast: tokens/s, MFU, peak memory beside sentence-transformers' cached loss; a profile.
3. study: an IsoFLOP slice on a real model cut to several depths, into a ledger (`benchmarks/gpu_study.py`).
4. pretrain: the nano suite's two largest sizes on ten times the tokens; needs --corpus.

Each part is a process of its own.  Its result is written the moment it ends: OUT/STAGE.json, and of the study
OUT/study.jsonl.gz, which `isoembed fit`, `report` and `recipe --law` read.  A part that fails, or takes longer than it
may, says why, and the next one starts.  Run again, it goes on from what OUT holds; --again STAGE makes one anew.

--payload is what `scripts/gpu_pack.py` packed; without it the study says so and is left out.  With --tiny one is made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from isoembed.core import write_atomically  # noqa: E402
from isoembed.families import family_named  # noqa: E402

BENCHMARKS = ROOT / "benchmarks"
STAGES = ("right", "fast", "study", "pretrain")
#: seconds that a stage may take in all; None: what is left
LIMITS: dict[str, float | None] = {"right": 90.0, "fast": 180.0, "study": None, "pretrain": None}
#: a part is not begun with less left
LEAST_SECONDS = 15.0
#: FLOP/s to reckon with where nothing was measured: a data centre's GPU in bf16, at the MFU aimed at
ASSUMED_FLOP_PER_SECOND = 0.4 * 9.9e14
#: tokens of a batch of the speed stage: 1,024 pairs in the lengths of the paper's corpus
BATCH_TOKENS = 1024 * 78
SPEED_METHODS = ("full", "lora", "freeze")
SPEED_SIDES = ("isoembed", "isoembed+packed", "isoembed+compile", "st-cached:64", "st-cached:256")
SPEED_STEPS = 5
#: the model that is packed
REAL = "smollm2-135m"
#: most telling first
SPEED_MODELS = ("pythia-410m", "pythia-160m", REAL, "pythia-1b", "pythia-70m", "pythia-1.4b")


@dataclass(frozen=True)
class Part:
    """One process of a stage: what it is for, what it runs, what it may take."""

    stage: str
    name: str
    about: str
    command: tuple[str, ...]
    seconds: float
    flop: float = 0.0
    needs: tuple[Path, ...] = field(default=())


def parts(given: argparse.Namespace) -> Iterator[Part]:
    """All of the campaign, in order."""
    python, tiny = sys.executable, ("--tiny",) if given.tiny else ()
    on = ("--device", given.device)
    for check, about in {
        "methods": "every method, fp32 and bf16: loss, gradients and five steps against the CPU",
        "switches": "twenty steps in bf16, packed, compiled, blocks recomputed, against fp32",
        "memory": "peak against the one stated; out of memory and cut smaller",
        "export": "resumed against not stopped; the exported folder's vectors",
    }.items():
        command = (
            python,
            str(BENCHMARKS / "device_checks.py"),
            check,
            *on,
            *tiny,
            "--out",
            str(given.work / f"{check}.json"),
        )
        yield Part("right", check, about, command, 240.0 if given.tiny else 45.0)
    for model in ("nano-28k",) if given.tiny else SPEED_MODELS:
        yield speed_part(given, model, first=model == SPEED_MODELS[0] or given.tiny)
    yield study_part(given)
    if given.corpus is not None and not given.tiny:
        command = (
            python, str(ROOT / "scripts" / "pretrain_nano.py"), str(given.corpus), "--tokens", "8e7", "--sizes",
            "nano-1.6m", "nano-3.1m", *on, "--work", str(given.out / "pretrain"),
            "--out", str(given.out / "pretrained"),
        )  # fmt: skip
        yield Part("pretrain", "nano", "nano-1.6m and nano-3.1m on 80M tokens", command, 600.0, 6 * 4.7e6 * 8e7)


def speed_part(given: argparse.Namespace, model: str, *, first: bool) -> Part:
    """Speed on one model: all methods and sides; of the first model a profile too."""
    source, needs = model, tuple[Path, ...]()
    if model == REAL:
        source = str(given.out / "study" / "models" / model)
        needs = (Path(source),)
        params = family_named("smollm2").model(model).params
    else:
        params = next((spec.params for spec in family_named("pythia").models if spec.name == model), 30_000)
    methods, sides = (SPEED_METHODS[:2], ("isoembed", "isoembed+packed", "st-cached:16")) if given.tiny else (
        SPEED_METHODS, SPEED_SIDES)  # fmt: skip
    size = ("--batch", "16", "--steps", "2", "--warm", "1", "--precision", "fp32") if given.tiny else (
        "--steps", str(SPEED_STEPS))  # fmt: skip
    flop = 6.0 * params * len(methods) * len(sides) * (32 * 78 if given.tiny else SPEED_STEPS * BATCH_TOKENS)
    command = (
        sys.executable, str(BENCHMARKS / "gpu_speed.py"), "--model", source, "--methods", *methods, "--sides", *sides,
        *size, "--device", given.device, *(("--profile",) if first else ()), "--out", str(given.work / f"{model}.json"),
    )  # fmt: skip
    seconds = (300.0 if given.tiny else 30.0) + 4.0 * flop / ASSUMED_FLOP_PER_SECOND
    return Part("fast", model, f"{', '.join(methods)} beside the cached loss", command, seconds, flop, needs)


def study_part(given: argparse.Namespace) -> Part:
    """The IsoFLOP slice, for what time is left."""
    command = [
        sys.executable, str(BENCHMARKS / "gpu_study.py"), "--payload", str(given.payload), "--out",
        str(given.out / "study"), "--device", given.device,
    ]  # fmt: skip
    if given.tiny:
        command += ["--name", "nano-28k", "--depths", "1", "2", "--budgets", "5e8", "1e9", "--batch", "16"]
    flop = 60.0 * given.minutes * ASSUMED_FLOP_PER_SECOND / 2
    about = "depths 4 to 30 of SmolLM2-135M at 1.5e14 to 9.6e15 FLOP, six settings of methods, two rates each"
    return Part("study", "slice", about, tuple(command), 600.0, 0.0 if given.tiny else flop, (given.payload / "model",))


def run(part: Part, seconds: float, given: argparse.Namespace) -> dict[str, Any]:
    """Run a part for at most `seconds`; what it found, or why it did not."""
    missing = [str(path.relative_to(given.out) if path.is_relative_to(given.out) else path.name) for path in part.needs
               if not path.exists()]  # fmt: skip
    if missing:
        return {"status": "left out", "why": f"{', '.join(missing)} is not there: pack with scripts/gpu_pack.py"}
    command = list(part.command)
    if part.stage == "study":
        command += ["--seconds", f"{max(5.0, seconds - 25.0):.0f}"]  # and time to end the run begun
    threads = {"OMP_NUM_THREADS": "1"} if given.tiny else {}
    paths = os.pathsep.join([str(ROOT / "src"), str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = time.monotonic()
    with (given.work / f"{part.name}.log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
            env={**os.environ, **threads, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(process)
        log.seek(max(0, log.tell() - 4000))
        tail = log.read().strip().splitlines()[-6:]
    found: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
    if status is None:
        found |= {"status": "stopped", "why": f"it may take {seconds:.0f} s here"}
    elif status:
        found |= {"status": "failed", "why": " | ".join(tail)[-1500:]}
    else:
        found |= {"status": "done"}
    result = given.work / f"{part.name}.json"
    if result.is_file():  # also of a part that was stopped: what it had found by then
        found["result"] = json.loads(result.read_text())
    return found


def stop(process: subprocess.Popen[Any]) -> None:
    """End a part with all it started: asked first, so that it may save."""
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def verdict(found: dict[str, Any]) -> str:
    """How a part ended, and what of it wants looking at, in a line."""
    result, words = found.get("result", {}), [f"{found['status']}, {found.get('seconds', 0)} s"]
    if "runs" in found:
        words.append(f"{found['runs']} runs, {found['failed']} failed")
    if bad := result.get("out_of_bounds"):
        words.append(f"OUT OF BOUNDS: {', '.join(bad)}")
    words += [
        f"{row['method']} {row['side']}: {row.get('failed', 'other losses than ours')}"
        for row in result.get("rows", [])
        if "failed" in row or not row.get("valid", True)
    ]
    return "; ".join([*words, *([found["why"]] if "why" in found else [])]).replace("\n", " ")


def keep(given: argparse.Namespace, stage: str, results: dict[str, Any]) -> None:
    """Write what a stage has found so far; the study's ledger as one file."""
    write_atomically(given.out / f"{stage}.json", json.dumps(results, indent=1) + "\n")
    if stage == "study" and (given.out / "study" / "records").is_dir():
        from gpu_study import compact  # here, so that a dry run needs no torch

        well, failed = compact(given.out / "study", given.out / "study.jsonl.gz")
        results["slice"] |= {"runs": well, "failed": failed}
        write_atomically(given.out / f"{stage}.json", json.dumps(results, indent=1) + "\n")


def campaign(given: argparse.Namespace) -> None:
    """All parts that are not done, while there is time."""
    end = time.monotonic() + 60.0 * given.minutes
    given.work.mkdir(parents=True, exist_ok=True)
    if given.payload is None:
        given.payload = given.out / "payload"
        if given.tiny:
            tiny_payload(given.payload)
    unpack(given)
    for stage in given.stages:
        file = given.out / f"{stage}.json"
        results = json.loads(file.read_text()) if file.is_file() and stage not in given.again else {}
        # a rehearsal is of every stage, however slow the machine
        limit, began = None if given.tiny else LIMITS[stage], time.monotonic()
        stage_end = end if limit is None else min(end, began + limit)
        for part in parts(given):
            if part.stage != stage or results.get(part.name, {}).get("status") == "done":
                continue
            left = min(part.seconds, (end if stage == "study" else stage_end) - time.monotonic())
            if left < LEAST_SECONDS:
                results[part.name] = {"status": "left out", "why": "no time was left"}
            else:
                print(f"{stage:9}{part.name:14}{part.about} (at most {left:.0f} s)", flush=True)
                results[part.name] = run(part, left, given)
            keep(given, stage, results)
            print(f"{'':9}{'':14}{verdict(results[part.name])}"[:400], flush=True)


def unpack(given: argparse.Namespace) -> None:
    """The packed model as a folder of transformers, which speed and study take."""
    model = given.out / "study" / "models" / ("nano-28k" if given.tiny else REAL)
    if (given.payload / "model").is_dir() and not (model / "config.json").is_file():
        from travel import expand_model

        expand_model(given.payload / "model", model)


def tiny_payload(folder: Path) -> None:
    """What the packer makes, of what ships: the smallest nano model, and pairs of counted words."""
    from isoembed.data.dataset import prepare
    from isoembed.encoder.config import resolve
    from isoembed.encoder.tokenizer import load_tokenizer
    from travel import compact_model, compact_pairs

    if (folder / "pairs.npz.xz").is_file():
        return
    compact_model(Path(resolve("nano/nano-28k")), folder / "model")
    rows = [
        {"query": f"what is item {n}?", "pos": f"item {n} costs {7 * n} coins of {n % 13} lands"} for n in range(2000)
    ]
    texts = folder / "pairs.jsonl"
    texts.write_text("\n".join(map(json.dumps, rows)) + "\n")
    data = prepare(
        str(texts), load_tokenizer("nano/nano-28k"), context_tokens=32, folder=folder / "tokens", heldout_pairs=64
    )
    compact_pairs(data, "counted words", folder / "pairs.npz.xz")


def explain(given: argparse.Namespace) -> None:
    """The dry run: every part with its FLOP and seconds, and what OUT holds already."""
    given.payload = given.payload or given.out / "payload"
    print(f"{'stage':9}{'part':14}{'FLOP':>9}{'at most':>9}   what it does")
    for part in parts(given):
        if part.stage not in given.stages:
            continue
        file = given.out / f"{part.stage}.json"
        known = json.loads(file.read_text()).get(part.name, {}).get("status", "") if file.is_file() else ""
        absent = [path.name for path in part.needs if not path.exists()]
        note = f" ({known})" if known else f" (needs {', '.join(absent)})" if absent else ""
        flop = f"{part.flop:9.2g}" if part.flop else f"{'-':>9}"
        print(f"{part.stage:9}{part.name:14}{flop}{part.seconds:8.0f} s   {part.about}{note}")
    shares = ", ".join(f"{stage} {limit:.0f} s" for stage, limit in LIMITS.items() if limit)
    print(f"\n{given.minutes:g} minutes in all; of these at most {shares}, the study has the rest.")
    print(f"FLOP/s reckoned with: {ASSUMED_FLOP_PER_SECOND:.2g}.  The study's FLOP are what half of the minutes buy.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True, help="results, and what is needed to go on")
    parser.add_argument("--payload", type=Path, help="what scripts/gpu_pack.py packed")
    parser.add_argument("--stages", type=lambda text: tuple(text.split(",")), default=STAGES)
    parser.add_argument("--again", type=lambda text: tuple(text.split(",")), default=(), help="stages to make anew")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--corpus", type=Path, help="texts to pretrain on")
    parser.add_argument("--tiny", action="store_true", help="everything at the smallest sizes")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    if unknown := [stage for stage in (*given.stages, *given.again) if stage not in STAGES]:
        parser.error(f"stages are {', '.join(STAGES)}; got {', '.join(unknown)}")
    given.out = given.out.resolve()
    given.work = given.out / "parts"
    explain(given) if given.dry_run else campaign(given)


if __name__ == "__main__":
    main()
