"""Recommendations, records and scores as aligned text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from isoembed.budget import device_named
from isoembed.estimates import recipe_memory, training_seconds
from isoembed.flops import projection_flop
from isoembed.methods import LoRA, LoRATop
from isoembed.recipe import Recipe
from isoembed.recommendation.result import Recommendation
from isoembed.records import RunRecord
from isoembed.report.terminal.laws import beyond_text, candidates_table, law_rows
from isoembed.report.terminal.layout import columns_table, duration, gib, pairs_table, si

if TYPE_CHECKING:
    from isoembed.data.inspect import Inspection
    from isoembed.evaluation.score import Scores
    from isoembed.workflows.search import Hit


def recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """The recipe, name and value."""
    cost, data = recipe.cost, recipe.data
    unique = "the" if recipe.unique_pairs is None else f"the first {recipe.unique_pairs:,}"
    epochs = "" if recipe.epochs is None else f", {recipe.epochs:.2f} of {unique} unique pairs"
    return [
        ("method", f"{recipe.method.label} ({recipe.method.about})"),
        (
            "model",
            f"{recipe.model.name} ({si(recipe.model.params)} non-embedding parameters, "
            f"{si(recipe.model.embedding_params)} in the token table; {recipe.model.origin})",
        ),
        (
            "tokens",
            f"{recipe.train_tokens:,} real tokens ({si(recipe.train_tokens / recipe.model.params)} per parameter)",
        ),
        ("pairs", f"{recipe.pairs:,.0f} at {data.tokens_per_pair:.1f} tokens per pair{epochs}"),
        ("steps", f"{recipe.steps:,} of {recipe.batch_pairs} pairs, context {recipe.context_tokens} tokens"),
        (
            "learning rate",
            f"{recipe.learning_rate:.3g}, warm-up over {recipe.warmup_share:.0%} of the tokens, then "
            f"{recipe.fall_in_words}",
        ),
        *([("average", recipe.average_in_words)] if recipe.average_in_words else []),
        *([("early stopping", str(recipe.early_stopping))] if recipe.early_stopping.evaluates else []),
        ("loss", f"{recipe.objective}, {recipe.pooling_in_words}"),
        (
            "model FLOP",
            f"{recipe.flop:.3g} = 2 x ({si(cost.forward)} forward + {si(cost.backward)} backward + "
            f"{si(cost.updated)} updated) x {si(recipe.train_tokens)} tokens",
        ),
        *_projection_rows(recipe),
        *([("teacher FLOP", f"{recipe.teacher_flop:.3g}, from the budget too")] if recipe.teacher_flop else []),
        (
            "hardware FLOP",
            f"from {recipe.flop:.3g} (all graphs kept) to {recipe.most_hardware_flop:.3g} "
            f"(every mini-batch run twice); {_beside(recipe)} beside it",
        ),
        (
            "serving",
            f"2 N = {2 * recipe.model.params:.3g} FLOP a token, {2e3 * recipe.model.params * data.positive_tokens:.3g} "
            "a thousand texts; attention and the token lookup are left out",
        ),
    ]


def _projection_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """What a learned projection is and costs; none where there is none."""
    if (dimensions := recipe.options.dimensions) is None:
        return []
    width = recipe.model.hidden
    flop = projection_flop(width, dimensions, round((2 + recipe.data.negatives) * recipe.pairs))
    words = f"{width} to {dimensions} dimensions, {width * dimensions:,} weights trained beside the method's"
    return [("projection", f"{words}; {flop:.2g} FLOP, {flop / recipe.flop:.2%} of C, beside it")]


def device_rows(recommendation: Recommendation, device: str | None) -> list[tuple[str, str]]:
    """Memory and time, estimated, on the device named or that of the budget."""
    recipe, budget = recommendation.recipe, recommendation.budget
    device = device or budget.device
    memory = recipe_memory(recipe, bf16=device is not None)
    words = f"at least {gib(memory.least)}, and {gib(memory.whole)} to keep a whole batch's graph (estimates)"
    if device is None:
        return [("memory", f"{words}, in fp32 on a CPU; name a GPU for its own and for the time")]
    chosen = device_named(device)
    origin = "assumed" if budget.utilisation is None else "as given"
    seconds = training_seconds(recipe, chosen, count=budget.count, utilisation=budget.share)
    fits = (
        "fits"
        if memory.least <= chosen.memory_bytes
        else "does not fit: take a smaller model or a method that trains less"
    )
    return [
        ("memory", f"{words} of the {chosen.name}'s {gib(chosen.memory_bytes)}: {fits}"),
        (
            "time",
            f"about {duration(seconds)} on {budget.count} x {chosen.name} at {budget.share:.0%} of peak ({origin})",
        ),
    ]


def recommendation_text(recommendation: Recommendation, device: str | None = None) -> RenderableType:
    """Everything `isoembed recipe` prints."""
    reach = recommendation.reach
    rows = [("beyond the data", beyond_text(reach))] if reach is not None and reach.outside else []
    out_of_reach = [each.describe() for each in recommendation.notes if each.code == "out-of-reach"]
    rows += [("beyond the law", line) for line in out_of_reach]
    rows += [("budget", recommendation.budget.stated), ("basis", recommendation.basis)]
    rows += recipe_rows(recommendation.recipe) + device_rows(recommendation, device)
    rows += law_rows(recommendation)
    rows += [("known", line) for line in recommendation.known]
    rows += [("assumed", line) for line in recommendation.assumed]
    rows += [("warning", line) for line in recommendation.warnings if line not in out_of_reach]
    if recommendation.bracket:
        rows.append(("size bracket", f"{', '.join(recommendation.bracket)} (unmeasured: a pilot would tell)"))
    parts: list[RenderableType] = [pairs_table(rows)]
    if recommendation.certainty is not None:
        if len(recommendation.methods) > 1:
            parts += [Text(""), candidates_table("best of a method", recommendation.methods)]
        if recommendation.runners_up:
            parts += [Text(""), candidates_table("runner-up", recommendation.runners_up)]
    elif recommendation.runners_up:
        parts += [
            Text(""),
            columns_table(
                ("runner-up", "tokens", "tokens/parameter", "steps", "remark"),
                [
                    (
                        other.recipe.model.name,
                        si(other.recipe.train_tokens),
                        si(other.tokens_per_param),
                        f"{other.recipe.steps:,}",
                        "; ".join(other.remarks),
                    )
                    for other in recommendation.runners_up
                ],
            ),
        ]
    return Group(*parts)


def section(title: str) -> RenderableType:
    """A heading between the parts of a long output."""
    return Text(f"\n{title}", style="bold cyan")


def _executed(record: RunRecord) -> str:
    """Hardware FLOP, as multiples of the model's and, where it was counted, of what one pass would have run."""
    ratio = f"{record.executed_flop:.3g}, {record.executed_flop / record.model_flop:.2f} x"
    if record.recomputed_flop is None:
        return f"{ratio} (padding, recomputation)"
    once = record.executed_flop - record.recomputed_flop
    return (
        f"{ratio} ({_beside(record.recipe)} {once / record.model_flop:.2f} x, "
        f"recomputation {record.executed_flop / once:.2f} x)"
    )


def _beside(recipe: Recipe) -> str:
    """What a first pass executes beside C: adapters of narrow layers may run merged into them."""
    merge = isinstance(recipe.method, LoRA | LoRATop)
    return "padding and, on a CPU, merged adapters" if merge else "padding"


def spent_text(record: RunRecord, budget_flop: float | None = None) -> RenderableType:
    """What a run cost, of the budget that the user stated or else of what its recipe meant to spend, and how far its
    loss fell; name and value."""
    whole, name = (record.recipe.total_flop, "recipe") if budget_flop is None else (budget_flop, "budget")
    rows = [
        ("model FLOP", f"{record.model_flop:.4g}, {record.model_flop / whole:.2%} of the {name}"),
        *(
            [("teacher FLOP", f"{record.teacher_flop:.4g}, {taught / whole:.2%}")]
            if (taught := record.teacher_flop)
            else []
        ),
        *([] if record.inherited is None else [("of them", record.inherited.describe())]),
        ("hardware FLOP", _executed(record)),
        ("total FLOP", f"{record.all_in_flop:.3g} (with attention and the token table's update)"),
        ("tokens", f"{record.tokens:,} in {record.pairs:,} pairs and {record.steps:,} steps"),
        ("trained parameters", f"{record.trainable_params:,} ({record.table_params:,} of them the token table)"),
        ("time", f"{duration(record.wall_seconds)} at {record.tokens_per_second:,.0f} tokens/s"),
        ("useful speed", si(record.model_flop / record.wall_seconds, "FLOP/s")),
        ("peak memory", gib(record.peak_memory_bytes)),
        ("training loss", "none" if record.final_loss is None else f"{record.final_loss:.3f} (mean of the last tenth)"),
    ]
    if record.heldout is not None and record.heldout_before is not None:
        rows.append(
            (
                "held-out loss",
                f"{record.heldout_before.loss:.3f} -> {record.heldout.loss:.3f} on {record.heldout.pairs:,} pairs in "
                f"blocks of {record.heldout.candidates:,}",
            )
        )
    return pairs_table(rows + evaluation_rows(record))


def evaluation_rows(record: RunRecord) -> list[tuple[str, str]]:
    """What a run that stops early, or keeps its best weights, came to, and what looking cost; none of any other."""
    if not record.evaluations:
        return []
    seconds = sum(point.seconds for point in record.evaluations)
    share = record.evaluation_flop / record.model_flop
    looked = (
        f"{len(record.evaluations)}, {record.evaluation_flop:.3g} FLOP ({share:.1%} of C, beside it), "
        f"{duration(seconds)}"
    )
    kept = f"step {record.steps:,}, the last one"
    if record.kept_step is not None and record.heldout_last is not None:
        kept = (
            f"step {record.kept_step:,} of {record.steps:,}; held-out loss of the last {record.heldout_last.loss:.3f}"
        )
    return [("weights kept", kept), ("held-out evaluations", looked)]


def scores_text(scores: Scores) -> RenderableType:
    """One table a task: systems down, metrics across; every score a fraction of 1."""
    parts: list[RenderableType] = []
    tasks = dict.fromkeys(task for found in scores.systems.values() for task in found)
    for task in tasks:
        found = {system: by_task[task] for system, by_task in scores.systems.items() if task in by_task}
        metrics = list(dict.fromkeys(metric for score in found.values() for metric in score.metrics))
        counts = ", ".join(f"{value:,} {name}" for name, value in next(iter(found.values())).counts.items())
        parts += [
            Text(""),
            Text(f"{task} ({counts})", style="bold"),
            columns_table(
                ("system", *metrics, "seconds"),
                [
                    (
                        system,
                        *(f"{score.metrics[metric]:.3f}" if metric in score.metrics else "-" for metric in metrics),
                        f"{score.seconds:.1f}",
                    )
                    for system, score in found.items()
                ],
            ),
            *(
                Text(f"note: {note}")
                for note in dict.fromkeys(note for score in found.values() for note in score.notes)
            ),
        ]
    return Group(*parts)


def hits_text(hits: Sequence[Hit]) -> RenderableType:
    """Documents found, best first: score, title, the beginning of the text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for hit in hits:
        text = " ".join(hit.text.split())
        shown = text if len(text) <= 200 else f"{text[:200].rsplit(' ', 1)[0]} ..."
        table.add_row(Text(f"{hit.score:.3f}"), Text.assemble((hit.title, "bold"), "\n", shown))
    return table


def achieved_text(recommendation: Recommendation, record: RunRecord) -> str:
    """The loss forecast for the recipe beside what its run came to; empty where either is missing."""
    forecast, heldout = recommendation.loss, record.heldout
    if forecast is None or forecast.value is None or heldout is None:
        return ""
    low, high = forecast.ends
    within = "inside" if low <= heldout.loss <= high else "outside"
    apart = heldout.loss / forecast.value - 1
    said = f"{forecast.describe()}, got {heldout.loss:.3f}: {within} the interval, {apart:+.1%}"
    return said if within == "inside" else f"{said}; {_why_apart(recommendation, record)}"


def _why_apart(recommendation: Recommendation, record: RunRecord) -> str:
    """What may have put a run outside of its forecast."""
    reasons = []
    if (reach := recommendation.reach) is not None and reach.outside:
        reasons.append(f"it lies {reach.describe()}")
    if (spent := record.model_flop / recommendation.recipe.flop) < 0.99:
        reasons.append(f"it spent {spent:.0%} of its FLOP")
    if any(each.code == "not-good" for each in recommendation.notes):
        reasons.append("the law is not good (see the warning)")
    if (record.recipe.epochs or 0.0) > 1.0:
        reasons.append("its pairs repeat")
    return "; ".join(reasons) or "no reason is known: the law is off here, add this run to its ledger and fit again"


def inspection_text(inspection: Inspection) -> RenderableType:
    """Everything `isoembed data inspect` prints."""
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in inspection.skipped.items())
    rows = [
        ("source", inspection.source),
        ("fingerprint", inspection.fingerprint),
        ("pairs", f"{inspection.pairs:,}, of them {inspection.duplicates:,} exact duplicates"),
        ("skipped rows", skipped or "none"),
        (
            "hard negatives",
            f"{inspection.hard_negatives:,}, of {inspection.negatives:,} pairs" if inspection.negatives else "none",
        ),
        ("tokens per pair", f"{inspection.tokens_per_pair:.1f} at context {inspection.context_tokens}"),
        ("one epoch", f"{inspection.epoch_tokens:,} tokens of unique pairs"),
    ]
    for fields in inspection.fields:
        negatives = f", negatives {', '.join(fields.negatives)}" if fields.negatives else ""
        rows.append(("fields read", f"query {fields.query}, positive {fields.positive}{negatives}"))
        if fields.ignored:
            rows.append(("not read", ", ".join(fields.ignored)))
    rows += [("note", remark) for remark in inspection.remarks]
    if inspection.groups:
        rows.insert(3, ("groups", f"{inspection.groups:,}, never split between training and held-out"))
    percentiles = list(inspection.query.percentiles)
    sides = columns_table(
        ("tokens", "mean", *(f"p{percent}" for percent in percentiles), "kept", "truncated"),
        [
            (
                name,
                f"{side.mean_tokens:.1f}",
                *(f"{side.percentiles[percent]:,}" for percent in percentiles),
                f"{side.kept_tokens:.1f}",
                f"{side.truncated:.1%}",
            )
            for name, side in (("query", inspection.query), ("positive", inspection.positive))
        ],
    )
    epochs = columns_table(
        ("model", "parameters", f"FLOP of one epoch, {inspection.method}"),
        [(epoch.model, si(epoch.params), f"{epoch.flop:.3g}") for epoch in inspection.epoch_flop],
    )
    return Group(pairs_table(rows), Text(""), sides, Text(""), epochs)
