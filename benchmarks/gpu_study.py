"""An IsoFLOP slice on one real model cut to several depths, for as many seconds as there are: an ordinary ledger.

    python benchmarks/gpu_study.py --payload build/gpu/payload --out build/gpu/run/study --seconds 240 --device cuda

PAYLOAD is what `scripts/gpu_pack.py` packed.  Depths are folders with the model's first blocks and its final norm.
First two learning rates a method, on one depth; then every method at the better of its two, runs near the expected
optimum first, so that an early end still gives a law.  Runs of fewer than `MIN_STEPS` steps or of more than one epoch
over the pairs are left out.  Started again, it goes on from what the ledger holds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModel

from isoembed.encoder.load import weights_hash
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.evaluation.tasks import open_tasks
from isoembed.families.base import ModelSpec
from isoembed.methods import Adapters, Method, method_named
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.records import FailedRun, Ledger, RunRecord
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.stage import Stage
from isoembed.sweep.work import work
from isoembed.training.execution import Execution
from isoembed.workflows.execute import RunContext, execute
from travel import expand_model, expand_pairs

DEPTHS = (4, 8, 15, 22, 30)
BUDGETS = (6e14, 2.4e15, 1.5e14, 9.6e15)
BATCH, MIN_STEPS = 1024, 20
#: so many runs that fail before any has ended well end the study: the rest of the time is for what is mended
HOPELESS = 3
#: tokens per parameter of the expected optimum: the paper's fall from about 11 to about 1 over its budgets
OPTIMUM = 4.0
#: the rates are tried at this budget on the depth in this place
RATE_BUDGET, RATE_DEPTH = 6e14, 1
#: hyperparameters, and the two rates to try: about a tenth of the pretraining peak, and three times that
METHODS: dict[str, list[dict[str, float]]] = {
    "full": [{}],
    "lora": [{"rank": 32}, {"rank": 128}],
    "freeze": [{"fraction": 0.5}, {"fraction": 0.75}],
    "bias": [{}],
}
RATES = {"full": (3e-4, 1e-3), "freeze": (5e-4, 1.5e-3), "lora": (1e-3, 3e-3), "bias": (3e-3, 1e-2)}


def ways(spec: ModelSpec) -> list[Method]:
    """The methods that there is something to train for: a Llama has no biases."""
    found: list[Method] = []
    for name, settings in METHODS.items():
        for setting in settings if name != "bias" or spec.bias_params else ():
            method = method_named(name, **setting)
            found.append(method.resized(method.rank) if isinstance(method, Adapters) else method)
    return found


def cut(model: Path, depths: tuple[int, ...], out: Path) -> list[ModelSpec]:
    """The model's first blocks, a folder for each depth, and their counts."""
    whole: Any = None
    specs = []
    for depth in depths:
        folder = out / f"{model.name}@{depth}"
        if not (folder / "config.json").is_file():
            whole = whole or AutoModel.from_pretrained(model, dtype="float32")
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            config = type(whole.config).from_dict({**whole.config.to_dict(), "num_hidden_layers": depth})
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:depth]
            shorter: Any = type(whole)(config)
            kept = {name: value for name, value in whole.state_dict().items() if name in shorter.state_dict()}
            shorter.load_state_dict(kept)
            shorter.save_pretrained(partial)
            for file in model.glob("*token*.json"):
                shutil.copy(file, partial / file.name)
            partial.rename(folder)
        specs.append(spec_from_config(str(folder)).model_copy(update={"source": str(folder)}))
    return specs


class Slice:
    """What the study runs: runs of rates first, then those of the budgets at the better rate."""

    def __init__(self, specs: list[ModelSpec], data: DataStats, budgets: tuple[float, ...], batch: int) -> None:
        self.specs, self.data, self.budgets, self.batch = specs, data, budgets, batch

    def recipe(self, flop: float, spec: ModelSpec, method: Method, rate: float) -> Recipe:
        return solve(
            flop,
            family=self.specs[0].name.partition("@")[0],
            model=spec,
            method=method,
            data=self.data,
            setup=Setup(batch_pairs=self.batch, context_tokens=self.data.context_tokens),
            learning_rate=rate,
        )

    def fits(self, flop: float, spec: ModelSpec, method: Method) -> bool:
        """Whether there are steps enough, and no pair twice."""
        pairs = flop / (method.cost(spec).flop_per_token * self.data.tokens_per_pair)
        return pairs >= MIN_STEPS * self.batch and (self.data.pairs is None or pairs <= self.data.pairs)

    def rates(self) -> Iterator[tuple[Recipe, str]]:
        """Two of them for each kind of method."""
        spec = self.specs[min(RATE_DEPTH, len(self.specs) - 1)]
        budget = RATE_BUDGET if RATE_BUDGET in self.budgets else self.budgets[0]
        for name, kinds in itertools.groupby(ways(spec), key=lambda method: method.name):
            method = next(kinds)
            if self.fits(budget, spec, method):
                yield from ((self.recipe(budget, spec, method, rate), "rates") for rate in RATES[name])

    def runs(self, best: dict[str, float]) -> Iterator[tuple[Recipe, str]]:
        """Each budget's, nearest to the expected optimum first."""
        for flop in self.budgets:
            found = [
                (abs(math.log(flop / (6 * spec.params**2 * OPTIMUM))), number, spec, method)
                for spec in self.specs
                for number, method in enumerate(ways(spec))
                if self.fits(flop, spec, method)
            ]
            for _, _, spec, method in sorted(found, key=lambda run: run[:2]):
                rate = best.get(method.name, RATES[method.name][0])
                yield self.recipe(flop, spec, method, rate), f"budget {flop:.2g}"


def best_rates(records: list[RunRecord]) -> dict[str, float]:
    """The rate of each method's run of least held-out loss."""
    ranked = sorted(
        (record for record in records if record.heldout is not None),
        key=lambda record: -record.heldout.loss if record.heldout else 0.0,
    )
    return {record.recipe.method.name: record.recipe.learning_rate for record in ranked}


def study(given: argparse.Namespace) -> None:
    """Work off the runs until the time is up; the ledger holds what was done."""
    end = time.monotonic() + given.seconds
    place = given.out
    model = place / "models" / given.name
    if not (model / "config.json").is_file():
        expand_model(given.payload / "model", model)
    data = expand_pairs(given.payload / "pairs.npz.xz", place / "tokens" / "store")
    specs = cut(model, tuple(given.depths), place / "models")
    hashes: dict[str, str] = {}
    plan = Slice(specs, data.stats, tuple(given.budgets), given.batch)
    folder = SweepFolder(place)
    tasks = given.payload / "tasks"
    context = RunContext(
        data=data,
        tokenizer=load_tokenizer(str(model)),
        tasks=open_tasks(tasks) if tasks.is_dir() else (),
        execution=Execution(device=given.device, checkpoint_seconds=math.inf),
    )

    def add(recipes: Iterator[tuple[Recipe, str]]) -> int:
        known = {run.recipe.key for run in folder.runs()}
        runs: list[PlannedRun] = []
        for recipe, stage in recipes:
            name = recipe.model.name
            if name not in hashes:
                hashes[name] = weights_hash(AutoModel.from_pretrained(recipe.model.source, dtype="float32"))
            precision = "bf16" if given.device.startswith("cuda") else "fp32"
            full = recipe.model_copy(update={"base_hash": hashes[name], "precision": precision})
            if full.key not in known:
                order = len(known) + len(runs)
                runs.append(PlannedRun(recipe=full, part=Stage(kind="other", name=stage), order=order, scored=True))
        return folder.add_runs(runs)

    # what failed is tried again by a study that is started again: it may have been mended meanwhile
    well = {record.key for record in folder.ledger.records()}
    folder.retry([run.key for run in folder.runs() if run.key not in well])
    add(plan.rates())
    work(
        folder,
        lambda run, where: execute(run.recipe, where, context, scored=run.scored),
        tries=1,
        more=lambda: add(plan.runs(best_rates(folder.ledger.records()))),
        stopping=lambda: time.monotonic() > end or hopeless(folder.ledger.outcomes()) is not None,
    )
    if (why := hopeless(folder.ledger.outcomes())) is not None:
        sys.exit(f"no run has ended well: {why}")


def hopeless(outcomes: Sequence[RunRecord | FailedRun]) -> str | None:
    """Why nothing will come of further runs, where all of the first ones have failed; None where something may."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedRun)]
    return failed[-1].failures[-1] if len(failed) == len(outcomes) >= HOPELESS else None


def compact(ledger: Path, file: Path) -> tuple[int, int]:
    """Write the ledger's runs as one file, without paths; returns how many ended well, and how many failed."""
    source = Ledger.open(ledger)
    outcomes = [
        outcome.model_copy(update={"recipe": (recipe := outcome.recipe.published()), "key": recipe.key})
        for outcome in source.outcomes()
    ]
    source.export(file, outcomes)
    well = sum(isinstance(outcome, RunRecord) for outcome in outcomes)
    return well, len(outcomes) - well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payload", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the ledger")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--name", default="smollm2-135m", help="of the model, in the records")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--batch", type=int, default=BATCH)
    study(parser.parse_args())


if __name__ == "__main__":
    main()
