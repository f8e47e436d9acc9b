"""What each option of the objective costs beside the plain recipe: time a step, peak memory, and what is done once.

    python benchmarks/options_cost.py PAIRS... --model FILE.gguf@2 --method "freeze 0.5" --teacher FOLDER --out out.json
    python benchmarks/options_cost.py --table out.json

Each option trains `--steps` steps of the same model in a process of its own, one after the other; `--rounds` goes round
all of them again.  A ratio is taken to the plain recipe of the same round; the table has its median with the smallest
and the largest.  Once: what comes before and behind the steps, clusters and a teacher's vectors among it where no
earlier run has left them in the cache; the longest of the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from isoembed.budget import Budget
from isoembed.methods import method_of
from isoembed.options import Options
from isoembed.recipe import PartialSetup
from isoembed.recommendation.request import Request
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.workflows.job import DataOptions, plan_job
from isoembed.workflows.models import chosen
from kept_rows import KeptRows, Row, parsed
from quality import NOT_TAKEN, variants

BATCH_PAIRS = 64
PLAIN = "plain"
#: FLOP, for any number of steps that is asked for
ENOUGH = Budget.parse("1e15")
#: of `quality.py`
JUDGED = (
    PLAIN,
    "average, decay .98",
    "one source a batch",
    "one cluster of 64 a batch",
    "prompts per source",
    "hardness weights",
    "cosine and contrastive",
    "kl and contrastive",
    "teacher as guide",
)


def tried(asked: argparse.Namespace, width: int) -> dict[str, PartialSetup]:
    """The options by name; those with a teacher only where there is one."""
    known = variants(asked.teacher, asked.pairs)
    found = {name: known[name] for name in JUDGED if name in known}
    others = {
        "warm-up, stable, decay": Options(schedule="wsd"),
        f"a projection to {width // 4}": Options(dimensions=width // 4),
        f"Matryoshka at {width // 2} and {width // 4}": Options(matryoshka=(width // 2, width // 4)),
        "attention both ways": Options(bidirectional=True),
    }
    return found | {name: PartialSetup(options=options) for name, options in others.items()}


def measured(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    """One run in this process."""
    family, model = chosen(None, asked.model)
    spec, method = family.models[0] if model is None else family.model(model), method_of(asked.method)
    data = DataOptions(",".join(asked.pairs), heldout_pairs=BATCH_PAIRS)

    setup = tried(asked, spec.hidden)[name].model_copy(update={"batch_pairs": BATCH_PAIRS})
    request = Request(budget=ENOUGH, family=family, model=model, method=method, **dict(setup))
    begun = time.monotonic()
    job = plan_job(request, data, cache=asked.cache)
    few = round(asked.steps * job.recipe.train_tokens / job.recipe.steps)
    recipe = job.recipe.model_copy(update={"train_tokens": few})
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(checkpoint_seconds=float("inf"), precision="auto")
        _, record = run(recipe, job.data, folder, execution=execution, before=NOT_TAKEN)
    return {
        "steps": record.steps,
        "step_seconds": record.wall_seconds / record.steps,
        "once_seconds": time.monotonic() - begun - record.wall_seconds,
        "peak_bytes": record.peak_memory_bytes,
        "precision": record.recipe.precision or "fp32",
    }


def in_a_process(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    """One run in a process of its own, after one that found its texts tokenised."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--one", name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: list[Row]) -> str:
    """A line an option: its step's time and its peak, to the plain recipe's, and the seconds that come once."""
    plain = {row["round"]: row for row in found if row["option"] == PLAIN}
    lines = ["| option | time a step, to plain | peak GiB | to plain | once, s |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["option"] for row in found):
        rows = [row for row in found if row["option"] == name and row["round"] in plain]
        times = [row["step_seconds"] / plain[row["round"]]["step_seconds"] for row in rows]
        peaks = [row["peak_bytes"] / plain[row["round"]]["peak_bytes"] for row in rows]
        once = max(row["once_seconds"] for row in rows)
        most = max(row["peak_bytes"] for row in rows) / 2**30
        spread = f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        lines.append(f"| {name} | {spread} | {most:.2f} | {median(peaks):.2f} | {once:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--method", default="full")
    parser.add_argument("--teacher")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("build/options"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parsed(parser, table)
    if asked.one is not None:
        print(json.dumps(measured(asked, asked.one)))
        return
    family, model = chosen(None, asked.model)
    width = (family.models[0] if model is None else family.model(model)).hidden
    found = KeptRows(asked.out)
    for number in range(asked.rounds):
        for name in tried(asked, width):
            place = {"option": name, "round": number, "model": model, "method": asked.method, "batch": BATCH_PAIRS}
            if not found.has(place):
                found.add(place | in_a_process(asked, name))
                print(found.rows[-1], flush=True)


if __name__ == "__main__":
    main()
