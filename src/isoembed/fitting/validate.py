"""Check a set of laws against runs at other batches and contexts, method by method: see `isoembed.fitting.transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import Frozen, InputError, number_of
from isoembed.fitting.holdout import log_loss
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.io.ledger import group_runs, loss_of
from isoembed.fitting.notes import FitNote, off, reason, remark
from isoembed.fitting.settings import Settings
from isoembed.fitting.transfer import Forecast, TransferCheck, comparable, forecast, tokens_to_law_units
from isoembed.laws.points import Floats, Points
from isoembed.notes import Noted
from isoembed.records import Ledger, RunRecord

#: runs of different sizes or lengths below which nothing is said
LEAST_RUNS = 3


class Checked(Frozen):
    """One law and what it was seen to do at another batch and context."""

    method: str | None
    law: str
    seen: TransferCheck


class Check(Noted):
    """All that a ledger says of a set of laws at other settings."""

    noted: ClassVar = "facts"
    described: ClassVar = {"notes": "remark"}

    laws: LawSet
    results: tuple[Checked, ...]
    facts: tuple[FitNote, ...] = Field((), description="what was left out")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        return self._sentences("remark")


def check_ledger(laws: LawSet, path: Path) -> Check:
    """`check` against the runs of the ledger at `path` that ended well."""
    ledger = Ledger.open(path)
    found = check(laws, ledger.records(), source=path.name)
    damaged = (remark("damaged", records=len(ledger.damaged)),) if ledger.damaged else ()
    return found.model_copy(update={"facts": (*found.facts, *damaged)})


def check(laws: LawSet, records: Sequence[RunRecord], *, source: str = "the runs") -> Check:
    """Forecast the records that were made at another batch or context than the laws', and judge the forecasts.

    Returns the laws with what was seen of them, setting by setting.  Runs at the laws' own setting, and of methods that
    no law applies to, are left out with a note.
    Raises InputError where no run is at another setting, or one differs in more than batch and context.
    """
    own = laws.settings
    places: dict[tuple[int, int], list[RunRecord]] = {}
    for record in records:
        places.setdefault((record.recipe.batch_pairs, record.recipe.context_tokens), []).append(record)
    at_home = places.pop((own.batch_pairs or 0, own.context_tokens or 0), [])
    if not places:
        raise InputError(
            f"A check needs runs at another batch or context than the law's {own.batch_pairs} pairs and "
            f"{own.context_tokens} tokens; of {number_of(len(records), 'run')} that ended well in {source} none has "
            "these."
        )
    facts = [remark("at-home", runs=len(at_home))] if at_home else []
    updated = list(laws.laws)
    results = []
    for _, there in sorted(places.items()):
        groups = group_runs(there, [], {"params": own.params, "flop": own.flop}, source=source)
        settings = groups[0].settings
        comparable(own, settings)
        kept = [there[row - 1] for group in groups for row in group.rows]
        covered: set[str] = set()
        for index, law in enumerate(laws.laws):
            runs = [run for run in kept if law.applies_to(run.recipe.method, run.recipe.model)]
            if not runs:
                continue
            covered.update(run.key for run in runs)
            seen = _judged(law, settings, runs, source)
            updated[index] = updated[index].with_check(seen)
            results.append(Checked(method=law.method, law=law.law, seen=seen))
        facts += groups[0].facts
        if len(covered) < len(kept):
            facts.append(remark("no-law", runs=len(kept) - len(covered)))
    return Check(laws=LawSet(laws=tuple(updated)), results=tuple(results), facts=tuple(facts))


def _judged(law: LawFile, settings: Settings, runs: Sequence[RunRecord], source: str) -> TransferCheck:
    """The verdict on one law from its runs at `settings`."""
    different = {(run.recipe.model.name, run.recipe.method.label, run.steps) for run in runs}
    if len(different) < LEAST_RUNS:
        few = reason("too-few-there", runs=len(different), least=LEAST_RUNS)
        return TransferCheck(settings=settings, verdict="too-few-runs", facts=(few,), n_runs=len(runs), source=source)
    boot = law.bootstrap()
    factor_R = np.array([tokens_to_law_units(law.settings, run.tokens / run.steps) for run in runs])
    spent_R = np.array([getattr(run, law.settings.flop) for run in runs])
    seen_R = np.array([loss_of(run, "heldout") for run in runs], dtype=np.float64)

    def judged(law_units_R: Floats) -> Forecast:
        points = Points.of(
            [law.settings.size(run.recipe.model) for run in runs],
            [run.tokens for run in runs] * law_units_R,
            seen_R,
            flop=spent_R * law_units_R,
            fraction=[run.recipe.cost.trained_share for run in runs],
        )
        return forecast(
            log_loss(boot.loss(points)),
            log_loss(boot.law.predict(boot.fit.params, points)),
            np.log(seen_R),
            noise=law.run_noise,
            run_noise_R=np.array([law.run_noise_at(flop) for flop in points.flop]),
            tail=boot.tail,
        )

    steps = judged(factor_R)
    return TransferCheck(
        settings=settings,
        verdict="holds" if steps.holds else "biased",
        facts=() if steps.holds else (off("biased-there", steps.bias.value or 0.0, steps.bias),),
        n_runs=len(runs),
        steps=steps,
        tokens=judged(np.ones_like(factor_R)),
        beyond=float(np.max(spent_R * factor_R) / law.range["flop"][1]),
        source=source,
    )
