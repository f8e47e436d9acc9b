"""A planted study: two methods with laws, block freezing without one, scores, seeds, and a run that failed."""

from __future__ import annotations

from pathlib import Path

from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.methods import Freeze, Full
from isoembed.records import FailedRun, Ledger, RunRecord, ended
from isoembed.report.data import ReportData
from tests.fitting.ledgers import BUDGETS, planned, runs, true_loss
from tests.sweep.fake import record

#: what a hostile ledger may hold
SCRIPT = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def frozen() -> list[RunRecord]:
    """Block freezing at three shares on three sizes at one budget: each worse than full by a known factor."""
    found = []
    for model in NANO.models[:3]:
        for share in (0.25, 0.5, 1.0):
            recipe = planned(BUDGETS[3], model, Freeze(fraction=share))
            full = true_loss(Full(), model.params, recipe.train_tokens)
            found.append(record(recipe, full * (1.1 - 0.02 * share)))
    return found


def scored(records: list[RunRecord]) -> list[RunRecord]:
    """A task whose score falls with the loss."""
    return [
        run.model_copy(update={"scores": {"task/ndcg@10": 1.0 / run.heldout.loss, "task/mrr@10": 0.1}})
        for run in records
        if run.heldout
    ]


def failed() -> FailedRun:
    recipe = planned(BUDGETS[0], NANO.models[0], Freeze(fraction=0.75))
    return FailedRun(
        recipe=recipe, key=recipe.key, notes=(ended("error", "text", text=SCRIPT),), created="2026-11-24T00:00:00+00:00"
    )


def hostile() -> RunRecord:
    """A run whose model, data and task are named as an attacker would name them."""
    recipe = planned(BUDGETS[0], NANO.models[0], Freeze(fraction=0.75), seed=9)
    renamed = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"name": SCRIPT}),
            "data": recipe.data.model_copy(update={"source": SCRIPT}),
        }
    )
    return record(renamed, 5.0).model_copy(update={"scores": {f"{SCRIPT}/ndcg@10": 0.5}})


def law_file(records: list[RunRecord], place: Path) -> Path:
    """Hoffmann laws of the full and LoRA runs, fitted as `isoembed fit` does, with as few draws as decide."""
    hoffmann = law_named("hoffmann")
    records = sorted(records, key=lambda run: run.key)  # as a ledger has them
    groups = [group for group in group_runs(records, [hoffmann]) if not str(group.method).startswith("freeze")]
    LawSet(laws=tuple(study([hoffmann], group, source="planted", draws=200, by=()) for group in groups)).save(place)
    return place


def ledger(place: Path, records: list[RunRecord], *more: FailedRun) -> Path:
    """A ledger with these runs."""
    book = Ledger(place)
    assert all(book.add(run) for run in records)
    assert all(book.add(run) for run in more)
    return place


def planted_study(place: Path) -> tuple[Path, Path]:
    """Ledger and law of the planted study, two seeds a cell."""
    records = scored([*runs(shares=(1 / 8, 1 / 4), seeds=2), *frozen()])
    folder = ledger(place / "ledger", [*records, hostile()], failed())
    return folder, law_file(records, place / "law.json")


def planted_evidence(place: Path) -> ReportData:
    return ReportData.open(*planted_study(place))
