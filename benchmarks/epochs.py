"""Few pairs, gone through more than once: held-out loss and nDCG@10 of small public sets after 1, 3, 5 and 10 epochs.

    python benchmarks/epochs.py PAIRS... --model nano-51k --out epochs.json
    python benchmarks/epochs.py --table epochs.json

PAIRS are files that `--data` takes.  Each run is a recipe of its own: its rate falls over all of its epochs, its
products are in bf16 where that pays (in the file that ships, not those of qmsum and covid_qa). Results are added to
`--out` as they come, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from isoembed.budget import Budget
from isoembed.data.dataset import PairData
from isoembed.encoder.embedder import Embedder
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.systems import BM25, DenseSystem, System
from isoembed.methods import Full
from isoembed.recipe import PartialSetup
from isoembed.recommendation.request import Request
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.training.setup import untrained
from isoembed.workflows.job import DataOptions, Job, plan_job
from isoembed.workflows.models import chosen
from kept_rows import KeptRows, parsed

EPOCHS = (1.0, 3.0, 5.0, 10.0)
BATCH_PAIRS = 32
EXECUTION = Execution(checkpoint_seconds=float("inf"), precision="auto")


def planned(spec: str, model: str, epochs: float, cache: Path) -> Job:
    """Full fine-tuning of `model` at its family's rate, so many epochs of the pairs at `spec`."""
    family, name = chosen(None, model)
    spend = Budget.from_epochs(epochs)
    request = Request(
        budget=spend, family=family, model=name, method=Full(), **dict(PartialSetup(batch_pairs=BATCH_PAIRS))
    )
    return plan_job(request, DataOptions(spec), cache=cache)


def ndcg(system: System, data: PairData) -> float:
    """nDCG@10 on the held-out pairs."""
    return RetrievalTask.from_pairs("held-out pairs", *data.heldout_texts()).score(system)["ndcg@10"]


def measured(spec: str, model: str, epochs: float, cache: Path) -> dict[str, Any]:
    """One run, beside its untrained base and BM25."""
    job = planned(spec, model, epochs, cache)
    recipe, data = job.recipe, job.data
    with tempfile.TemporaryDirectory() as folder:
        encoder, record = run(recipe, data, folder, execution=EXECUTION)
    assert record.heldout is not None
    assert record.heldout_before is not None
    base = untrained(recipe)
    return {
        "pairs": spec,
        "model": recipe.model.name,
        "epochs": epochs,
        "training_pairs": record.unique_pairs,
        "heldout_pairs": record.heldout.pairs,
        "steps": record.steps,
        "rate": recipe.learning_rate,
        "flop": record.model_flop,
        "seconds": record.wall_seconds,
        "loss_untrained": record.heldout_before.loss,
        "loss": record.heldout.loss,
        "mrr": record.heldout.mrr,
        "training_loss": record.final_loss,
        "ndcg_untrained": ndcg(DenseSystem(Embedder(base, job.tokenizer, recipe.context_tokens)), data),
        "ndcg": ndcg(DenseSystem(Embedder(encoder, job.tokenizer, recipe.context_tokens)), data),
        "ndcg_bm25": ndcg(BM25(), data),
    }


def table(found: list[dict[str, Any]]) -> str:
    """A row a set and model: held-out loss / nDCG@10 by epochs, steps in brackets; least loss in bold."""
    head = ["set", "model", "training pairs", "untrained", "BM25", *(f"{epochs:g} epochs" for epochs in EPOCHS)]
    lines = [head, ["---"] * len(head)]
    for key in dict.fromkeys((each["pairs"], each["model"]) for each in found):
        runs = {each["epochs"]: each for each in found if (each["pairs"], each["model"]) == key}
        first, lowest = next(iter(runs.values())), min(each["loss"] for each in runs.values())
        cells = []
        for epochs in EPOCHS:
            if (one := runs.get(epochs)) is None:
                cells.append("-")
                continue
            mark = "**" if one["loss"] == lowest else ""
            cells.append(f"{mark}{one['loss']:.2f}{mark} / {one['ndcg']:.3f} ({one['steps']})")
        before = f"{first['loss_untrained']:.2f} / {first['ndcg_untrained']:.3f}"
        pairs, bm25 = f"{first['training_pairs']:,}", f"{first['ndcg_bm25']:.3f}"
        lines.append([first["pairs"], first["model"], pairs, before, bm25, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--model", default="nano-51k")
    parser.add_argument("--epochs", default=",".join(f"{epochs:g}" for epochs in EPOCHS))
    asked = parsed(parser, table)
    found, model = KeptRows(asked.out), chosen(None, asked.model)[1]
    for spec in asked.pairs:
        name = Path(spec).name.partition(".")[0]
        for epochs in map(float, asked.epochs.split(",")):
            if found.has({"pairs": name, "model": model, "epochs": epochs}):
                continue
            with tempfile.TemporaryDirectory() as cache:
                row = measured(spec, asked.model, epochs, Path(cache)) | {"pairs": name}
            found.add(row)
            print({key: row[key] for key in ("pairs", "model", "epochs", "steps", "loss", "ndcg", "seconds")})


if __name__ == "__main__":
    main()
