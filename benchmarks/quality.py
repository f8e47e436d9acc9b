"""Which objective is worth its compute?  Each variant against plain contrastive training, at equal total FLOP.

    python benchmarks/quality.py PAIRS... --model FILE.gguf@3 --method "lora r=36" --rate 3.3e-3 --teacher FOLDER
        --tasks TASKS --budgets 2e12,8e12 --seeds 3 --out quality.json
    python benchmarks/quality.py --table quality.json      --mix .1,.3 adds the averages of a run and its base
    python benchmarks/quality.py --ship quality.json       what gained, for `isoembed recipe` to say

A teacher's FLOP are part of the budget, so that its variants train on fewer pairs.  TASKS holds tasks as KIND/NAME;
those of `TASKS` below are scored.  Results are added to `--out` as they come, and what is there is not run again.  The
table has the mean over seeds of each variant less the plain recipe's of the same seed, with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from isoembed import teacher
from isoembed.budget import Budget
from isoembed.core import InputError, short_name, write_atomically
from isoembed.data.dataset import PairData
from isoembed.data.sources import WEIGHTED
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.evaluation.systems import BM25, DenseSystem, Static, System
from isoembed.evaluation.tasks import Task, open_task
from isoembed.methods import method_of
from isoembed.options import Options, Prompts, SourcePrompts
from isoembed.recipe import PartialSetup, Recipe
from isoembed.recommendation.objectives import FILE, VERDICTS, Verdict
from isoembed.recommendation.request import Request
from isoembed.records import Heldout, RunRecord
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.loop import run
from isoembed.training.setup import untrained
from isoembed.workflows.job import DataOptions, Job, plan_job
from isoembed.workflows.models import built_in_model, chosen
from kept_rows import KeptRows, Row, parsed
from trial_losses import LAST, TRIALS, in_place

BATCH_PAIRS = 32
#: of the untrained base: what a run on several blocks costs most of its time, and nobody asks for here
NOT_TAKEN = Heldout(loss=0.0, pairs=0, candidates=0, fingerprint="")
#: candidates of a held-out query from its own source
BLOCK = 64
#: six that are scored, and the score of each kind
TASKS = (
    "sts/stsbenchmark",
    "sts/sickr",
    "sts/sts15",
    "retrieval/stackfaq",
    "retrieval/cranfield",
    "retrieval/pubmedqa",
)
MAIN = {"sts": "spearman", "retrieval": "ndcg@10"}
#: what stands in front of the queries and of the positives of some sources, and of the texts of a kind of task
QUESTIONS, TITLES, SENTENCES = ("question: ", "answer: "), ("title: ", "text: "), ("sentence: ", "sentence: ")
SOURCE_PROMPTS = {
    **dict.fromkeys(("medquad", "opentriviaqa", "covid_qa", "gsm8k", "qmsum"), QUESTIONS),
    **dict.fromkeys(("chrome_dev_docs", "ml_papers_title_abstract", "msdocs", "openstax_ccby"), TITLES),
    **dict.fromkeys(("wikisplit", "disfl_qa", "bible_translations", "e2e_paraphrase"), SENTENCES),
}
#: as EmbeddingGemma weighs its hard negatives (Vera et al. 2025, arXiv 2509.20354, section 2.2)
HARDNESS = 5.0
#: that share the budget, and the mean of whose weights is scored: for seeds s, s + APART, ...
SEEDS, APART = {"mean of two seeds": 2, "mean of two seeds on one source a batch": 2}, 100
#: options that stand for something else: of several runs, or a trial's
TRIED_APART = {*SEEDS, LAST}
Weights = dict[str, torch.Tensor]
TASK_PROMPTS = {"sts": SENTENCES, "retrieval": QUESTIONS}


def variants(source: str | None, pairs: list[str]) -> dict[str, PartialSetup]:
    """By name; those with a teacher only where there is one."""
    names = [name for name in (short_name(Path(each).name) for each in pairs) if name in SOURCE_PROMPTS]
    prompts = Prompts(
        sources=tuple(
            SourcePrompts(source=name, query=query, positive=positive)
            for name, (query, positive) in ((name, SOURCE_PROMPTS[name]) for name in names)
        )
    )
    found = {
        "plain": Options(),
        "average, decay .98": Options(ema_decay=0.98),
        LAST: Options(ema_decay=0.98),  # whose average the trial's stands in the place of
        "one source a batch": Options(batch_by="source"),
        "one cluster of 64 a batch": Options(batch_by="cluster", clusters=64),
        "one cluster of 512 a batch": Options(batch_by="cluster", clusters=512),
        "prompts per source": Options(prompts=prompts),
        "prompts per source and one source a batch": Options(prompts=prompts, batch_by="source"),
        **dict.fromkeys(TRIALS, Options()),
        "hardness weights": Options(hardness_strength=HARDNESS),
        "hardness weights on one source a batch": Options(hardness_strength=HARDNESS, batch_by="source"),
        "attention both ways": Options(bidirectional=True),
        "attention both ways, hardness weights on one source a batch": Options(
            bidirectional=True, hardness_strength=HARDNESS, batch_by="source"
        ),
        "warm-up, stable, decay": Options(schedule="wsd"),
        "Matryoshka to a half and a quarter": Options(matryoshka=(288, 144)),
        "projection to a quarter": Options(dimensions=144),
        "attention both ways, hardness weights on one source a batch, Matryoshka to a half and a quarter": Options(
            bidirectional=True, hardness_strength=HARDNESS, batch_by="source", matryoshka=(288, 144)
        ),
        "attention both ways, hardness weights on one cluster of 64 a batch": Options(
            bidirectional=True, hardness_strength=HARDNESS, batch_by="cluster", clusters=64
        ),
        "one source a batch, equal shares": Options(batch_by="source", source_alpha=0.0),
        "one source a batch, shares to the power .5": Options(batch_by="source", source_alpha=0.5),
        "attention both ways, hardness weights on one source a batch, shares to the power .5": Options(
            bidirectional=True, hardness_strength=HARDNESS, batch_by="source", source_alpha=0.5
        ),
        "mean of two seeds": Options(),
        "mean of two seeds on one source a batch": Options(batch_by="source"),
    }
    if source is not None:
        taught = teacher(source)
        found |= {
            name: Options(teacher=taught.model_copy(update={"loss": loss, "weight": weight}))
            for name, loss, weight in (
                ("cosine alone", "cosine", 1.0),
                ("cosine and contrastive", "cosine", 0.5),
                ("mse and contrastive", "mse", 0.5),
                ("kl and contrastive", "kl", 0.5),
            )
        }
        guide = taught.model_copy(update={"weight": 0.0})
        found["teacher as guide"] = Options(teacher=guide, mask_by="teacher")
    # what hardness weights of exp(5 cos) make of the negatives' temperature, without their weights: 1 / (1 / .025 + 5)
    colder = {"temperature .0222": PartialSetup(temperature=1 / 45)}
    return {name: PartialSetup(options=options) for name, options in found.items()} | colder


def planned(asked: argparse.Namespace, setup: PartialSetup, flop: float, seed: int) -> Job:
    """The run of one variant; all of every source is read where their shares are said otherwise than by weights, and
    other pairs are held out."""
    family, name = chosen(None, asked.model)
    pairs = asked.pairs
    if setup.options is not None and setup.options.source_alpha is not None:  # shares are not by weights then
        pairs = [found[1] if (found := re.fullmatch(WEIGHTED, each)) else each for each in pairs]
    request = Request(
        budget=Budget.parse(repr(flop)),
        family=family,
        model=name,
        method=method_of(asked.method),
        learning_rate=asked.rate,
        seed=seed,
        **dict(setup.model_copy(update={"batch_pairs": BATCH_PAIRS})),
    )
    return plan_job(request, DataOptions(",".join(pairs)), cache=asked.cache)


def measured(
    asked: argparse.Namespace, variant: str, setup: PartialSetup, flop: float, seed: int, tasks: dict[str, Task]
) -> list[Row]:
    """One run: its losses, its FLOP, its scores; then those of its weights mixed with the base's, where asked.  Of
    several seeds that share the budget, those of the mean of their weights."""
    count = SEEDS.get(variant, 1)
    jobs = [planned(asked, setup, flop / count, seed + APART * number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(checkpoint_seconds=float("inf"), precision="auto")
        places = [Path(folder) / str(number) for number in range(count)]
        runs = [
            run(job.recipe, job.data, place, execution=execution, before=NOT_TAKEN)
            for job, place in zip(jobs, places, strict=True)
        ]
    job, (encoder, record) = jobs[0], runs[0]
    made = {
        "flop": sum(each.model_flop for _, each in runs),
        "teacher_flop": sum(each.teacher_flop for _, each in runs),
        "steps": sum(each.steps for _, each in runs),
        "rate": job.recipe.learning_rate,
        "seconds": sum(each.wall_seconds for _, each in runs),
    }
    embedder = Embedder(encoder, job.tokenizer, job.recipe.context_tokens)
    trained = [_weights(each) for each, _ in runs]

    def row(name: str, parts: list[Weights], shares: list[float]) -> Row:
        loss = record.heldout
        if len(parts) > 1:
            _put_mean(encoder, parts, shares)
            loss = heldout_loss(encoder, job.data, temperature=record.recipe.temperature, bf16=_bf16(record.recipe))
        assert loss is not None
        return {"variant": name, **made, "loss": loss.loss, **judged(embedder, job, record, tasks)}

    rows = [row(variant, trained, [1 / count] * count)]
    base = _weights(untrained(job.recipe)) if asked.mix else {}
    for share in map(float, filter(None, asked.mix.split(","))):
        named = f"{variant}, {share:.0%} of the base's weights"
        rows.append(row(named, [*trained, base], [*[(1 - share) / count] * count, share]))
    return rows


def _weights(model: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _put_mean(model: nn.Module, parts: list[Weights], shares: list[float]) -> None:
    """The weighted mean of `parts` as the weights of `model`."""
    if any(part.keys() != parts[0].keys() or any("lora" in name for name in part) for part in parts):
        raise InputError("Weights are averaged by their names, and a product of adapters is not; train without LoRA.")
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.stack([share * part[name] for share, part in zip(shares, parts, strict=True)]).sum(0))


def judged(embedder: Embedder, job: Job, record: RunRecord, tasks: dict[str, Task]) -> Row:
    """Loss among candidates of one source, and scores."""
    prompts = job.recipe.options.prompts
    return {
        "loss_one_source": one_source_loss(embedder.encoder, job.data, record.recipe),
        "scores": scored_behind(embedder, tasks) if prompts.sources else scored(DenseSystem(embedder), tasks),
    }


def _bf16(recipe: Recipe) -> bool:
    return recipe.precision == "bf16"


def scored_behind(embedder: Embedder, tasks: dict[str, Task]) -> dict[str, float]:
    """The main score of each task behind the prompts that suit its kind."""
    found: dict[str, float] = {}
    for kind, (query, positive) in TASK_PROMPTS.items():
        embedder.encoder.prompts = Prompts(query=query, positive=positive)
        of_kind = {name: task for name, task in tasks.items() if name.startswith(f"{kind}/")}
        found |= scored(DenseSystem(embedder), of_kind)
    return {name: found[name] for name in tasks}


def one_source_loss(encoder: Encoder, data: PairData, recipe: Recipe) -> float | None:
    """The held-out loss where all candidates are of the query's source: in blocks of `BLOCK`, the mean over the sources
    that fill one; None where none does."""
    source = data.heldout_store.column("source")[data.heldout]
    found = [
        heldout_loss(
            encoder,
            replace(data, heldout=data.heldout[source == each]),
            temperature=recipe.temperature,
            candidates=BLOCK,
            bf16=_bf16(recipe),
        )
        for each, count in zip(*np.unique(source, return_counts=True), strict=True)
        if count >= BLOCK
    ]
    losses = [each.loss for each in found if each is not None]
    return sum(losses) / len(losses) if losses else None


def tasks_in(folder: Path) -> dict[str, Task]:
    """Those of `TASKS` that lie in `folder`."""
    return {name: open_task(name.partition("/")[0], folder / name) for name in TASKS if (folder / name).exists()}


def scored(system: System, tasks: dict[str, Task]) -> dict[str, float]:
    """The main score of each task; 0 to 1."""
    return {name: task.score(system)[MAIN[name.partition("/")[0]]] for name, task in tasks.items()}


def beside(asked: argparse.Namespace, flop: float, tasks: dict[str, Task]) -> list[Row]:
    """The untrained base, its token table alone, BM25 on retrieval, and the teacher and its table."""
    job = planned(asked, PartialSetup(), flop, 0)
    base = Embedder(untrained(job.recipe), job.tokenizer, job.recipe.context_tokens)
    found = {"untrained": scored(DenseSystem(base), tasks), "static table": scored(Static(base), tasks)}
    found["BM25"] = scored(BM25(), {name: task for name, task in tasks.items() if name.startswith("retrieval/")})
    if asked.teacher is not None:
        taught = Embedder.load(asked.teacher)
        found["teacher"] = scored(DenseSystem(taught), tasks)
        found["teacher's static table"] = scored(Static(taught), tasks)
    return [{"variant": name, "budget": None, "scores": scores} for name, scores in found.items()]


def half_interval(gains: list[float]) -> float:
    """Half of Student's 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / math.sqrt(len(gains)))


def interval(gains: list[float]) -> str:
    """Mean and Student's 95 % interval."""
    if len(gains) < 2:
        return f"{gains[0]:+.3f}" if gains else "-"
    half = half_interval(gains)
    mark = "**" if abs(np.mean(gains)) > half else ""
    return f"{mark}{np.mean(gains):+.3f}{mark} ± {half:.3f}"


def table(found: list[dict[str, Any]], against: str = "plain") -> str:
    """A table a budget: held-out loss, then each task, of the variant `against`, and each other one's difference to it;
    where that was not run, the variants' own."""
    lines = []
    for trained in sorted({_trained(each) for each in found if each["budget"]}):
        runs = {(each["variant"], each["seed"]): each for each in found if _trained(each) == trained}
        model, method, budget = trained
        seeds = sorted({seed for _, seed in runs})
        names = [name for name in TASKS if name in next(iter(runs.values()))["scores"]]
        lines += [f"{model}, {method}, {budget:.3g} FLOP", ""]
        lines += [f"| variant | seeds | held-out loss | {' | '.join(names)} | mean |", "|---" * (len(names) + 4) + "|"]
        alone = not any((against, seed) in runs for seed in seeds)
        for variant in dict.fromkeys(name for name, _ in runs):
            mine = [seed for seed in seeds if (variant, seed) in runs and (alone or (against, seed) in runs)]
            cells = []
            for what in ("loss", *names, "mean"):
                own = [value(runs[variant, seed], what) for seed in mine]
                if alone or variant == against:
                    cells.append(f"{np.mean(own):.3f}")
                else:
                    plain = [value(runs[against, seed], what) for seed in mine]
                    cells.append(interval([one - other for one, other in zip(own, plain, strict=True)]))
            lines.append(f"| {variant} | {len(mine)} | {' | '.join(cells)} |")
        lines.append("")
    for each in found:
        if each["budget"] is None:
            lines.append(
                f"{each['variant']}: " + ", ".join(f"{name} {value:.3f}" for name, value in each["scores"].items())
            )
    return "\n".join(lines)


def winners(found: list[Row]) -> tuple[Verdict, ...]:
    """Of each place the variants that are options and that three seeds or more tell from plain, in their mean score."""
    known, won = variants(None, []), []
    for trained in sorted({_trained(each) for each in found if each["budget"]}):
        runs = {(each["variant"], each["seed"]): value(each, "mean") for each in found if _trained(each) == trained}
        for variant, setup in known.items():
            options = setup.options.model_dump(mode="json", exclude_defaults=True) if setup.options else {}
            seeds = [seed for name, seed in runs if name == variant and ("plain", seed) in runs]
            gains = [runs[variant, seed] - runs["plain", seed] for seed in seeds]
            if options and variant not in TRIED_APART and len(gains) > 2 and np.mean(gains) > half_interval(gains):
                model, method, flop = trained
                gain, half = (round(each, 4) for each in (float(np.mean(gains)), half_interval(gains)))
                place = {"model": model, "method": method, "flop": flop, "seeds": len(gains), "tasks": len(TASKS)}
                won.append(Verdict(options=options, gain=gain, half=half, width=_width(model, options), **place))
    return tuple(won)


def _width(model: str, options: dict[str, Any]) -> int | None:
    """That of the vectors which `options` name prefixes of."""
    found = built_in_model(model.partition("@")[0]) if "matryoshka" in options else None
    return None if found is None else found[1].hidden


def _trained(one: Row) -> tuple[str, str, float]:
    """Model, method and budget of a row; of what was not trained here, of nothing."""
    return one.get("model", ""), one.get("method", ""), one["budget"] or 0.0


def value(one: Row, what: str) -> float:
    """The `loss` of a row, the score of a task, or their `mean`."""
    if what == "mean":
        return float(np.mean(list(one["scores"].values())))
    return float(one[what] if what in one else one["scores"][what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--method", default="full")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--teacher")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--budgets", default="2e12")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="variants, separated by commas without a space; default: all")
    parser.add_argument("--mix", default="", help="also with these shares of the base's weights, as .1,.3")
    parser.add_argument("--cache", type=Path, default=Path("build/quality"))
    parser.add_argument("--against", default="plain", help="with --table: the variant that others are compared with")
    parser.add_argument("--ship", type=Path, help="the results of which the winners are written to what ships")
    known_args = parser.parse_known_args()[0]
    if known_args.ship is not None:
        write_atomically(
            FILE,
            VERDICTS.dump_json(winners(KeptRows(known_args.ship).rows), indent=1, exclude_none=True).decode() + "\n",
        )
        return
    asked = parsed(parser, partial(table, against=known_args.against))
    budgets = [float(each) for each in asked.budgets.split(",")]
    tasks = tasks_in(asked.tasks)
    known, name = variants(asked.teacher, asked.pairs), chosen(None, asked.model)[1]
    only = list(known) if asked.only is None else re.split(r",(?! )", asked.only)
    if unknown := sorted(set(only) - known.keys()):
        raise InputError(f"`only` names variants, of {', '.join(known)}; got {', '.join(unknown)}.")
    found = KeptRows(asked.out)
    if not found.rows:
        found.add(*beside(asked, budgets[0], tasks))
    for flop, seed, variant in itertools.product(budgets, range(asked.seeds), only):
        place = {"variant": variant, "model": name, "method": asked.method, "budget": flop, "seed": seed}
        if found.has(place):
            continue
        with in_place(variant):
            rows = measured(asked, variant, known[variant], flop, seed, tasks)
        found.add(*(place | row for row in rows))
        print({**place, "loss": found.rows[-1]["loss"], "seconds": found.rows[-1]["seconds"]}, flush=True)


if __name__ == "__main__":
    main()
