"""What a byte of the index is worth: held-out loss and scores against the width of embeddings, at equal FLOP.

    python benchmarks/width.py PAIRS... --model nano-113k --tasks TASKS --budget 5e11 --seeds 3 --out width.json
    python benchmarks/width.py --table width.json

At a half, a quarter and an eighth of the model's width, five ways: a learned projection, trained for each width, from
a random start and from the base's own principal components; one Matryoshka run, cut; the plain run, cut; and the plain
run's own principal components, of training texts, which costs no training.  Held-out losses are of the embeddings as
they are cut.  TASKS holds tasks as KIND/NAME.  Results are added to `--out` as they come, and what is there is not run
again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from isoembed.budget import Budget
from isoembed.encoder.embed import embed_ids
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.evaluation.systems import DenseSystem
from isoembed.evaluation.tasks import Task, open_task
from isoembed.methods import method_of
from isoembed.options import Options
from isoembed.recipe import PartialSetup
from isoembed.recommendation.request import Request
from isoembed.records import Heldout
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.loop import run
from isoembed.training.setup import untrained
from isoembed.workflows.job import DataOptions, Job, plan_job
from isoembed.workflows.models import chosen
from kept_rows import KeptRows, Row, parsed

BATCH_PAIRS = 32
#: of the untrained base, which nobody asks for here
NOT_TAKEN = Heldout(loss=0.0, pairs=0, candidates=0, fingerprint="")
#: of the model's width
SHARES = (2, 4, 8)
TASKS = {"sts/stsbenchmark": "spearman", "retrieval/stackfaq": "ndcg@10"}
PRINCIPAL_START = "projection from components"
#: training texts that principal components are taken of
TEXTS = 4096


class Remembered(Encoder):
    """An encoder that runs each mini-batch once, however it is cut."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.model, encoder.pooling, encoder.prompts)
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, prompt_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        key, dense = ids_BT.numpy().tobytes() + mask_BT.numpy().tobytes(), self.dense
        if key not in self.known:
            self.dense = None
            self.known[key], self.dense = super().forward(ids_BT, mask_BT, prompt_B), dense
        whole_BD = self.known[key]
        return whole_BD if dense is None else nn.functional.normalize(dense(whole_BD), dim=-1)


def planned(asked: argparse.Namespace, options: Options, seed: int) -> Job:
    """The method asked for, at the family's rate."""
    family, name = chosen(None, asked.model)
    request = Request(
        budget=Budget.parse(repr(asked.budget)),
        family=family,
        model=name,
        method=method_of(asked.method),
        seed=seed,
        **dict(PartialSetup(batch_pairs=BATCH_PAIRS, options=options)),
    )
    return plan_job(request, DataOptions(",".join(asked.pairs)), cache=asked.cache)


def measured(
    asked: argparse.Namespace, options: Options, seed: int, cuts: list[tuple[str, int]], tasks: dict[str, Task]
) -> list[Row]:
    """One run, and for each of the `cuts`, a way and a width, its losses and scores."""
    job = planned(asked, options, seed)
    way = cuts[0][0]
    with tempfile.TemporaryDirectory() as folder, begun_at(job) if way == PRINCIPAL_START else nullcontext():
        execution = Execution(checkpoint_seconds=float("inf"))
        encoder, record = run(job.recipe, job.data, folder, execution=execution, before=NOT_TAKEN)
    rows, trained, encoder = [], encoder.dense, Remembered(encoder)
    for way, width in cuts:
        encoder.dense = None
        encoder.dense = trained if trained is not None else map_of(way, width, encoder, job)
        heldout = heldout_loss(encoder, job.data, temperature=job.recipe.temperature)
        assert heldout is not None
        system = DenseSystem(Embedder(encoder, job.tokenizer, job.recipe.context_tokens))
        scores = {name: task.score(system)[TASKS[name]] for name, task in tasks.items()}
        rows.append({"way": way, "width": width, "loss": heldout.loss, "mrr": heldout.mrr, "scores": scores})
    known = {"seed": seed, "model": job.recipe.model.name, "flop": record.model_flop, "steps": record.steps}
    return [{**known, "seconds": record.wall_seconds, **row} for row in rows]


@contextmanager
def begun_at(job: Job) -> Iterator[None]:
    """Within, projections begin at the principal components of the untrained base."""
    base = untrained(job.recipe.model_copy(update={"options": Options()}))
    assert job.recipe.options.dimensions is not None
    start = map_of("principal components", job.recipe.options.dimensions, base, job)
    with patch("isoembed.encoder.dense.projection", lambda width, dimensions: deepcopy(start)):
        yield


def map_of(way: str, width: int, encoder: Encoder, job: Job) -> nn.Linear | None:
    """The map that cuts embeddings to `width`: their first dimensions, or their principal components."""
    whole = job.recipe.model.hidden
    if width == whole:
        return None
    rows_DD = torch.eye(whole)
    if way == "principal components":
        texts = job.data.store.ids("positive", job.data.train[:TEXTS])
        rows_DD = torch.linalg.svd(embed_ids(encoder, texts), full_matrices=False).Vh
    dense = nn.Linear(whole, width, bias=False)
    with torch.no_grad():
        dense.weight.copy_(rows_DD[:width])
    return dense


def table(found: list[Row]) -> str:
    """Means over the seeds, and the loss less that of plain, whole embeddings of the same seed."""
    lines = [
        "| bytes (fp32) | way | seeds | held-out loss | to the whole one | STSBenchmark | stackfaq nDCG@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    cell: dict[tuple[int, str], dict[int, Row]] = {}
    for row in found:
        cell.setdefault((row["width"], row["way"]), {})[row["seed"]] = row
    whole = max(width for width, _ in cell)
    plain = {seed: row["loss"] for seed, row in cell[whole, "plain"].items()}
    for (width, way), rows in sorted(cell.items(), key=lambda each: (-each[0][0], each[0][1])):
        away = np.array([row["loss"] - plain[seed] for seed, row in rows.items() if seed in plain])
        told = f"{away.mean():+.3f}" + (f" (sd {away.std(ddof=1):.3f})" if len(away) > 1 else "")
        scores = [f"{np.mean([row['scores'][name] for row in rows.values()]):.3f}" for name in TASKS]
        loss = np.mean([row["loss"] for row in rows.values()])
        lines.append(f"| {4 * width} | {way} | {len(rows)} | {loss:.3f} | {told} | {' | '.join(scores)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--model", default="nano-113k")
    parser.add_argument("--method", default="full")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--budget", type=float, default=5e11)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="runs, separated by commas, as plain,matryoshka,to 24; default: all")
    parser.add_argument("--cache", type=Path, default=Path("build/width"))
    asked = parsed(parser, table)
    tasks = {name: open_task(name.partition("/")[0], asked.tasks / name) for name in TASKS}
    family, name = chosen(None, asked.model)
    whole = family.model(name or asked.model).hidden
    widths = [whole // share for share in SHARES]
    found = KeptRows(asked.out)
    runs = {
        "plain": (
            Options(),
            [("plain", whole), *itertools.product(("plain, cut", "principal components"), widths)],
        ),
        "matryoshka": (Options(matryoshka=tuple(widths)), [("matryoshka, cut", width) for width in (whole, *widths)]),
        **{f"to {width}": (Options(dimensions=width), [("projection", width)]) for width in (*widths, whole)},
        **{f"to {width} from components": (Options(dimensions=width), [(PRINCIPAL_START, width)]) for width in widths},
    }
    only = list(runs) if asked.only is None else asked.only.split(",")
    for seed, run_name in itertools.product(range(asked.seeds), only):
        options, cuts = runs[run_name]
        if found.has({"run": run_name, "seed": seed}):
            continue
        found.add(*({"run": run_name, **row} for row in measured(asked, options, seed, cuts, tasks)))
        print({"run": run_name, "seed": seed, "seconds": found.rows[-1]["seconds"]}, flush=True)


if __name__ == "__main__":
    main()
