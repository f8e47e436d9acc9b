"""A ledger's runs as points: one group per method, under settings that all of them share.

A law says nothing of runs that differ in what it does not read.  Runs of other batches, contexts, temperatures, data or
held-out sets are therefore refused, not mixed; of runs that differ in their learning rate alone, the best rate stands.
A sweep's variations, runs that differ from one of the others in pooling or options alone, are left out; of those that
differ in their dimensions alone the difference is kept (`isoembed.fitting.width`).  Runs that
repeat their data are kept apart: their D is no number of unique tokens (`isoembed.fitting.repetition`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from isoembed.core import InputError, number_of
from isoembed.fitting.notes import FitNote, remark
from isoembed.fitting.repetition import ONE_EPOCH, RepeatedRuns, matched_to_single_epoch, repeated_note
from isoembed.fitting.settings import Group, Settings, TestedSetting, settings_tested
from isoembed.fitting.trained_rates import TrainedRate
from isoembed.fitting.width import WidthRuns
from isoembed.laws.base import Law
from isoembed.laws.points import Points
from isoembed.recipe import SetupNote, differs
from isoembed.records import Ledger, RunRecord

Target = Literal["heldout", "training"]
#: what a ledger's columns may be named: the field of a record that is read, the default first
LEDGER_COLUMNS = {"params": ("params", "total_params"), "flop": ("model_flop", "all_in_flop")}


def read_ledger(
    path: Path, laws: Sequence[Law], names: Mapping[str, str] | None = None, *, target: Target = "heldout"
) -> list[Group]:
    """The runs of the ledger at `path` that ended well, one group per method, ready for `laws`.

    names: `params` may be total_params (token table included), `flop` all_in_flop (attention and table included).
    """
    ledger = Ledger.open(path)
    records = ledger.records()
    if not records and ledger.damaged:
        place, why = next(iter(ledger.damaged.items()))
        raise InputError(f"A fit needs runs, and no record of {path.name} can be read: {place}: {why}. Restore it.")
    groups = group_runs(records, laws, names, target=target, source=path.name)
    facts = (remark("damaged", records=len(ledger.damaged)),) if ledger.damaged else ()
    return [replace(group, facts=(*group.facts, *facts)) for group in groups]


def group_runs(
    records: Sequence[RunRecord],
    laws: Sequence[Law],
    names: Mapping[str, str] | None = None,
    *,
    target: Target = "heldout",
    source: str = "the runs",
) -> list[Group]:
    """Records as one group per method.  N is the model's size, D the tokens seen, S the trained share N_U / N_F.

    Where one of `laws` reads S, all hyperparameters of a method are one group; else each is a method of its own.
    Raises InputError where the runs' settings differ, or all of them repeat their data.
    """
    columns = _columns(names)
    found = [(row, record) for row, record in enumerate(records, 1) if loss_of(record, target) is not None]
    if not found:
        raise InputError(
            f"A fit needs runs with a {target} loss; of {number_of(len(records), 'run')} that ended well in {source} "
            "none has one; run a sweep into it first."
        )
    found, ended = _to_the_end(found, source)
    every, (found, others) = found, _alike(found)
    settings = _settings([record for _, record in found], target, columns, source)
    single = [(row, record) for row, record in found if not _repeats(record)]
    if not single:
        raise InputError(
            f"A law needs single-epoch runs: all {len(found)} of {source} repeat theirs; add runs of at most one epoch."
        )
    kept, facts = _best_rates(single, target)
    tested = settings_tested([(record.recipe.method, record.recipe.model.hidden) for _, record in kept])
    together = any("fraction" in law.also_reads for law in laws)
    members: dict[str, list[tuple[int, RunRecord, TestedSetting]]] = {}
    for (row, record), how in zip(kept, tested, strict=True):
        key = how.method.name if together else how.label
        members.setdefault(key, []).append((row, record, how))
    repeated = [record for _, record in found if _repeats(record)]
    facts = (*ended, *others, *facts, *_apart([record for _, record in kept], repeated))
    return [
        Group(
            key,
            _points([record for _, record, _ in runs], target, columns),
            tuple(row for row, _, _ in runs),
            tuple({how.label: how for _, _, how in runs}.values()),
            settings,
            facts,
            _matched([record for _, record, _ in runs], repeated, target, columns),
            _widths([record for _, record, _ in runs], [record for _, record in every], target, columns["flop"]),
            tuple(TrainedRate.of(record.recipe) for _, record, _ in runs),
        )
        for key, runs in sorted(members.items())
    ]


def _repeats(record: RunRecord) -> bool:
    return (record.recipe.epochs or 0.0) > ONE_EPOCH


def _matched(
    single: Sequence[RunRecord], repeated: Sequence[RunRecord], target: Target, columns: Mapping[str, str]
) -> RepeatedRuns | None:
    """The runs of `repeated` that are a recipe of `single` on fewer unique pairs; None where there are none."""
    records = [*single, *repeated]
    return matched_to_single_epoch(
        _points(records, target, columns),
        [_same(record) for record in records],
        np.arange(len(records)) >= len(single),
        np.array([record.pairs / (record.recipe.unique or record.pairs) for record in records]),
    )


def _widths(
    kept: Sequence[RunRecord], every: Sequence[RunRecord], target: Target, column: str
) -> tuple[WidthRuns, ...]:
    """Of `every` run those that are a recipe of `kept` but for their dimensions; of plain runs those of the same seeds,
    or all where no seed is the same."""
    plain: dict[str, list[RunRecord]] = {}
    narrow: dict[tuple[str, int], list[RunRecord]] = {}
    for record in kept:
        plain.setdefault(_but_for_width(record), []).append(record)
    for record in every:
        recipe, width = _but_for_width(record), record.recipe.options.dimensions
        others = plain.get(recipe)
        if width is not None and others is not None and others[0].recipe.options.dimensions is None:
            narrow.setdefault((recipe, width), []).append(record)
    found = []
    for (recipe, width), runs in narrow.items():
        seeds = {run.recipe.seed for run in runs}
        beside = [run for run in plain[recipe] if run.recipe.seed in seeds] or plain[recipe]
        losses, plain_losses = (
            tuple(loss for run in some if (loss := loss_of(run, target)) is not None) for some in (runs, beside)
        )
        flop = float(np.mean([getattr(run, column) for run in runs]))
        found.append(WidthRuns(width, runs[0].recipe.model.name, flop, losses, plain_losses))
    return tuple(sorted(found, key=lambda each: (each.model, each.flop, -each.dimensions)))


def _but_for_width(record: RunRecord) -> str:
    options = record.recipe.options.model_copy(update={"dimensions": None})
    return record.recipe.model_copy(update={"options": options}).key_without("seed")


def _apart(single: Sequence[RunRecord], repeated: Sequence[RunRecord]) -> tuple[FitNote, ...]:
    recipes = {_same(record) for record in single}
    return repeated_note(len(repeated), sum(_same(record) not in recipes for record in repeated))


def _same(record: RunRecord) -> str:
    return record.recipe.key_without("seed", "unique_pairs")


def _columns(names: Mapping[str, str] | None) -> dict[str, Any]:
    columns = {column: fields[0] for column, fields in LEDGER_COLUMNS.items()}
    for column, name in (names or {}).items():
        if name not in LEDGER_COLUMNS.get(column, ()):
            raise InputError(
                "A ledger's columns are known: `params_col` may be params or total_params, `flop_col` model_flop or "
                f"all_in_flop; got {name} for {column}. Leave it out."
            )
        columns[column] = name
    return columns


def loss_of(record: RunRecord, target: Target) -> float | None:
    """Nats; None where the run has no such loss."""
    if target == "training":
        return record.final_loss
    return None if record.heldout is None else record.heldout.loss


def _points(records: Sequence[RunRecord], target: Target, columns: Mapping[str, str]) -> Points:
    return Points.of(
        [getattr(record.recipe.model, columns["params"]) for record in records],
        [record.tokens for record in records],
        [loss for record in records if (loss := loss_of(record, target)) is not None],
        flop=[getattr(record, columns["flop"]) for record in records],
        fraction=[record.recipe.cost.trained_share for record in records],
        candidates=_candidates(records, target),
    )


def _candidates(records: Sequence[RunRecord], target: Target) -> int | None:
    """Among how many the runs' loss was taken; None where they differ in it."""
    if target == "training":
        counts = {record.recipe.batch_pairs + round(record.negatives / record.steps) for record in records}
    else:
        counts = {record.heldout.candidates for record in records if record.heldout}
    return counts.pop() if len(counts) == 1 else None


def _settings(records: Sequence[RunRecord], target: Target, columns: Mapping[str, Any], source: str) -> Settings:
    """What all runs share; refuses those that do not."""
    recipes = [record.recipe for record in records]
    differ: dict[str, SetupNote] = {}
    weights: dict[str, str | None] = {}
    for recipe in recipes:
        if recipe.semantics != recipes[0].semantics:
            differ["semantics"] = differs("semantics", recipes[0].semantics, recipe.semantics)
        if recipe.base_hash != weights.setdefault(recipe.model.name, recipe.base_hash):
            differ["base_hash"] = SetupNote(code="other-weights", fields={"model": recipe.model.name})
    each = dict.fromkeys(_settings_of(record, target) for record in records)
    first = next(iter(each))
    for other in each:
        differ = first.differences(other) | differ
    if differ:
        raise InputError(
            f"A law needs runs alike: those of {source} differ ({'; '.join(map(str, differ.values()))}); put the "
            "others into a ledger of their own."
        )
    return first.model_copy(
        update={
            "along": "depth" if any(recipe.model.depth for recipe in recipes) else None,
            "target": target,
            "params": columns["params"],
            "flop": columns["flop"],
            "step_tokens": sum(record.tokens for record in records) / sum(record.steps for record in records),
        }
    )


def _settings_of(record: RunRecord, target: Target) -> Settings:
    recipe, heldout = record.recipe, record.heldout if target == "heldout" else None
    return Settings.of(recipe.family, recipe, recipe.data, heldout=None if heldout is None else heldout.fingerprint)


def _to_the_end(
    found: list[tuple[int, RunRecord]], source: str
) -> tuple[list[tuple[int, RunRecord]], tuple[FitNote, ...]]:
    """The runs whose loss is that after all of their tokens, and a note of how many others there are: a law of D knows
    nothing of runs that ended early, or keep the weights of an earlier step."""
    whole = [run for run in found if run[1].to_the_end]
    if not whole:
        raise InputError(
            f"A law needs losses after all of a run's tokens; those of {source} ended early or keep the weights of an "
            "earlier step. Add runs that do neither."
        )
    left = len(found) - len(whole)
    return whole, (remark("early", runs=left),) if left else ()


def _alike(found: list[tuple[int, RunRecord]]) -> tuple[list[tuple[int, RunRecord]], tuple[FitNote, ...]]:
    """The runs of the pooling and options that most have, and a note of how many others there are; all of them where
    no pooling and options are most runs', or where one of the others is no variation of a run that is kept."""
    kinds = [(record.recipe.pooling, record.recipe.options) for _, record in found]
    (commonest, count), *_ = Counter(kinds).most_common(1)
    if count == len(found) or 2 * count <= len(found):
        return found, ()
    same = [record.recipe.key_without("seed", "pooling", "options") for _, record in found]
    if {recipe for recipe, kind in zip(same, kinds, strict=True) if kind != commonest} - {
        recipe for recipe, kind in zip(same, kinds, strict=True) if kind == commonest
    }:
        return found, ()
    kept = [run for run, kind in zip(found, kinds, strict=True) if kind == commonest]
    return kept, (remark("variations", runs=len(found) - count),)


def _best_rates(
    found: list[tuple[int, RunRecord]], target: Target
) -> tuple[list[tuple[int, RunRecord]], tuple[FitNote, ...]]:
    """Of runs that differ in learning rate (and seed) alone those at the rate of least mean loss, and a note of how
    many that left out."""
    settings: dict[str, dict[float, list[tuple[int, RunRecord]]]] = {}
    for row, record in found:
        setting = record.recipe.key_without("seed", "learning_rate")
        settings.setdefault(setting, {}).setdefault(record.recipe.learning_rate, []).append((row, record))
    kept = []
    for rates in settings.values():
        kept += min(rates.values(), key=lambda runs: float(np.mean([loss_of(record, target) for _, record in runs])))
    dropped = len(found) - len(kept)
    return sorted(kept, key=lambda run: run[0]), (remark("worse-rates", runs=dropped),) if dropped else ()
