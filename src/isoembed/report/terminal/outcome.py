"""What `isoembed run` says of a job in some twenty lines of 80 columns; all else is in recipe.json, and said where
all is asked for."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoembed.budget import device_named
from isoembed.core import number_of
from isoembed.estimates import recipe_memory, training_seconds
from isoembed.recipe import Recipe
from isoembed.recommendation.result import Recommendation
from isoembed.records import RunRecord
from isoembed.report.terminal.layout import duration, gib, pairs_table, si

if TYPE_CHECKING:
    from rich.console import RenderableType

    from isoembed.evaluation.score import Scores

#: columns of a line beside its name
WIDTH = 69
#: the end of a line that goes on elsewhere
_CUT = " ..."
#: of what the matrix products of a machine reach, a training's share: measured from a third to three quarters
GEMM_SHARE = 0.5
#: systems as the scores name them -> as the score line does, best known last
_SYSTEMS = {"trained": "trained", "BM25": "BM25", "static table": "static", "base, untrained": "base"}
#: in place of the note's own sentence, which is long
_BY_LAW = "the {law} law of {family}: best of {candidates:@candidate}"
#: standard deviation of the difference of two systems' scores on one query, about
_NOISE = 0.35
#: of a difference of scores: with more, so few queries tell little
_MUCH = 0.03
#: of its budget, less was not spent
_SPENT = 0.9


def recipe_text(
    recommendation: Recommendation, notes: Iterable[str], flop_per_second: float | None = None, *, more: str = ""
) -> RenderableType:
    """What will be trained, on what, at what cost, a line each.

    notes: on the data; flop_per_second: of this machine's matrix products; more: what shows lines whole that are cut
    here, said where one is.
    """
    recipe, reach = recommendation.recipe, recommendation.reach
    rows = [
        ("Recipe", _what(recipe)),
        ("Why", _why(recommendation)),
        ("Data", _data(recipe)),
        ("Schedule", _schedule(recipe)),
        ("Cost", _cost(recommendation, flop_per_second)),
        ("Forecast", _forecast(recommendation)),
        *([("Warning", reach.describe())] if reach is not None and reach.outside else []),
        *(("Warning", line) for line in recommendation.warnings),
        *(("Note", note.removesuffix(".")) for note in notes),
    ]
    shown = [(name, shortened(value)) for name, value in rows]
    was_cut = any(value.endswith(_CUT) for _, value in shown)
    return pairs_table([*shown, ("More", more)] if more and was_cut else shown)


def result_text(
    record: RunRecord,
    scores: Scores | None,
    *,
    out: Path,
    budget_flop: float,
    outcome: str = "",
    advice: Sequence[str] = (),
) -> RenderableType:
    """What came of it, what that means, and what to do next.

    outcome: of the forecast, where there was one; advice: what would make a better run of it.
    """
    rows = [("Loss", _loss(record)), *_kept(record), ("Spent", _spent(record, budget_flop))]
    rows += [("Forecast", outcome)] if outcome else []
    if scores is not None and (found := next(iter(_by_task(scores)), None)) is not None:
        metric, values, queries = found
        rows.append(("Scores", f"{metric}: {' | '.join(f'{name} {fraction(values[name])}' for name in values)}"))
        remedy = "" if advice else _remedy(record, budget_flop)
        rows += [("Verdict", line) for line in verdict(values, queries, remedy)]
    rows += [("Advice", line) for line in advice]
    rows.append(("Next", f'isoembed search {shlex.quote(str(out))} "what to look for"'))
    return pairs_table(rows)


def verdict(values: Mapping[str, float], queries: int, remedy: str = "") -> tuple[str, ...]:
    """Whether the trained model is worth having, by its score beside those of the others on that many queries: first
    what is told against it, line by line.

    remedy: what would help where BM25 is not beaten.
    """
    trained, base, static, words = (values.get(name) for name in ("trained", "base", "static", "BM25"))
    assert trained is not None
    noise = 2 * _NOISE / math.sqrt(max(1, queries))
    lines = []
    if base is not None and trained < base - noise:
        lines.append(f"worse than its untrained base by {fraction(base - trained)}: try a lower learning rate")
    elif base is not None and trained <= base + noise:
        lines.append(f"no better than its untrained base, as far as {_queries(queries)} tell")
    if static is not None and trained < static - noise:
        lines.append(f"behind its own static token table by {fraction(static - trained)}")
    if words is None:
        return tuple(lines) or ("no baseline to compare with",)
    if trained > words + noise:
        return (*lines, f"beats BM25 by {fraction(trained - words)}")
    if trained > words - noise and noise > _MUCH:
        return (*lines, f"no worse than BM25, as far as {_queries(queries)} tell")
    gap = "about level with BM25" if trained > words - noise else f"BM25 is ahead by {fraction(words - trained)}"
    return (*lines, f"{gap}: {remedy}" if remedy else gap)


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count:,} queries"


def _remedy(record: RunRecord, budget_flop: float) -> str:
    """What would help a model that BM25 beats: no larger budget where the data ended before this one was spent."""
    spent = (record.model_flop + record.teacher_flop) / budget_flop
    ended = spent < _SPENT and record.epochs is not None and record.epochs > 0.99
    return "more pairs would help" if ended else "a larger budget, or more pairs, would help"


def fraction(value: float) -> str:
    """A part of one without its zero: `.249`."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"


def shortened(text: str, width: int = WIDTH) -> str:
    """The first words of `text`, in one line of at most `width` characters."""
    words = " ".join(text.split())
    return words if len(words) <= width else f"{words[: width - 4].rsplit(' ', 1)[0].rstrip(',;:')}{_CUT}"


def _what(recipe: Recipe) -> str:
    model = recipe.model
    first = "block" if model.depth == 1 else f"{model.depth} blocks"
    blocks = number_of(model.blocks, "block") if model.depth is None else f"its first {first}"
    return f"{recipe.method.label} on {model.name}, {blocks}, {si(model.params)} parameters"


def _why(recommendation: Recommendation) -> str:
    sure = recommendation.certainty
    certain = "" if sure is None else f"; the best method with probability {fraction(sure.method)}"
    basis = [
        each.worded(_BY_LAW) if each.code == "by-law" else each.describe()
        for each in recommendation.notes
        if each.kind == "basis"
    ]
    return f"{'; '.join(basis)}{certain}"


def _data(recipe: Recipe) -> str:
    data = recipe.data
    count = recipe.epochs or 0.0
    epochs = f"{count:.2g}" if count < 99.5 else f"{count:,.0f}"
    share = "" if recipe.epochs is None else f"; {epochs} epoch{'' if epochs == '1' else 's'}"
    unique = recipe.unique
    pairs = "" if unique is None else f": {unique:,} unique pairs"
    return f"{data.source}{pairs} of {data.tokens_per_pair:.0f} tokens{share}"


def _schedule(recipe: Recipe) -> str:
    return (
        f"{recipe.steps:,} steps of {recipe.batch_pairs} pairs; rate {recipe.learning_rate:.2g}, warm-up "
        f"{recipe.warmup_share:.0%}, {recipe.fall_in_words}"
    )


def _cost(recommendation: Recommendation, flop_per_second: float | None) -> str:
    recipe, budget = recommendation.recipe, recommendation.budget
    memory = recipe_memory(recipe, bf16=budget.device is not None)
    taught = [f"and {si(recipe.teacher_flop, 'FLOP')} of its teacher's"] if recipe.teacher_flop else []
    parts = [" ".join([si(recipe.flop, "FLOP"), *taught]), f"{gib(memory.least)} of memory or more"]
    if flop_per_second is not None:
        parts.append(f"about {duration(recipe.flop / (GEMM_SHARE * flop_per_second))} here (a guess)")
    if budget.device is not None:
        device = device_named(budget.device)
        seconds = training_seconds(recipe, device, count=budget.count, utilisation=budget.share)
        parts.append(f"{duration(seconds)} on {budget.count} x {device.name}")
    return ", ".join(parts)


def _forecast(recommendation: Recommendation) -> str:
    if recommendation.loss is not None and recommendation.no_forecast is None:
        return f"loss {recommendation.loss.describe()}, 95 %"
    why = next((each for each in recommendation.notes if each.kind == "no-forecast"), None)
    if why is None:
        return "none: no law speaks of this recipe"
    return f"none: {why.describe() if why.code == 'order-alone' else why.reason}"


def _loss(record: RunRecord) -> str:
    after, before = record.heldout, record.heldout_before
    if after is None:
        return "no held-out pairs" if record.final_loss is None else f"{record.final_loss:.3f} in training"
    fell = "" if before is None else f"{before.loss:.3f} -> "
    chance = math.log(after.candidates)
    return (
        f"{fell}{after.loss:.3f} on {after.pairs:,} held-out pairs (chance is ln {after.candidates:,} = {chance:.2f})"
    )


def _kept(record: RunRecord) -> list[tuple[str, str]]:
    """What early stopping did: which weights these are, and what ended the run."""
    said = [] if record.kept_step is None else [f"the weights of step {record.kept_step:,} of {record.steps:,}"]
    if record.ended_early:
        patience = number_of(record.recipe.early_stopping.patience or 0, "evaluation")
        said.append(f"ended after {record.steps:,} of {record.recipe.steps:,} steps, its patience of {patience} spent")
    return [("Kept", "; ".join(said))] if said else []


def _spent(record: RunRecord, budget_flop: float) -> str:
    speed = record.model_flop / max(record.wall_seconds, 1e-9)
    taught = f" and {si(record.teacher_flop, 'FLOP')} of its teacher's" if record.teacher_flop else ""
    share = 100 * (record.model_flop + record.teacher_flop) / budget_flop
    again = "" if record.inherited is None else f"; {record.inherited.describe()}"
    return (
        f"{si(record.model_flop, 'FLOP')}{taught}, {share:.1f} % of the budget, in "
        f"{duration(record.wall_seconds)} at {si(speed, 'FLOP/s')}{again}"
    )


def _by_task(scores: Scores) -> Iterable[tuple[str, dict[str, float], int]]:
    """Main metric, system -> its value, and the queries, of each task on which the trained model was scored."""
    for task, score in scores.systems.get("trained", {}).items():
        metric = next(iter(score.metrics))
        found = {
            name: by_task[task].metrics[metric]
            for system, name in _SYSTEMS.items()
            if (by_task := scores.systems.get(system)) and task in by_task
        }
        yield metric, found, next(iter(score.counts.values()), 1)
