"""What every figure is drawn from: a ledger's runs, and the laws fitted to them; nothing else is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from isoembed.core import InputError
from isoembed.families import FAMILIES, Family
from isoembed.families.base import ModelSpec
from isoembed.families.known import family_of
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.io.ledger import Target, group_runs
from isoembed.fitting.isoflop import budgets
from isoembed.fitting.notes import FitNote, remark
from isoembed.fitting.settings import Group, Settings, TestedSetting, settings_tested
from isoembed.fitting.study import as_fitted, study_source
from isoembed.laws import law_named
from isoembed.laws.points import Points
from isoembed.methods import METHODS
from isoembed.notes import refusal_of
from isoembed.recipe import DataStats
from isoembed.recommendation.candidates import sized
from isoembed.recommendation.recommend import shipped_law
from isoembed.records import FailedRun, Ledger, RunRecord
from isoembed.report.forecast_grid import ForecastGrid

#: the law that the paper prefers, fitted where none is given
DEFAULT_LAW = "embedding"
#: two-sided 95 % of a normal distribution
_SIGMAS = 1.96


@dataclass(frozen=True, eq=False)
class Replicates:
    """Runs that differ in nothing but their seed, at the best learning rate tested."""

    records: tuple[RunRecord, ...]
    tried: TestedSetting
    """the method and its hyperparameters as they carry over to other sizes"""
    loss: float
    """nats, the mean over seeds"""
    spread: float | None
    """half a 95 % interval of ln loss, from the noise between seeds; None where nothing was repeated"""

    @property
    def record(self) -> RunRecord:
        return self.records[0]

    @property
    def model(self) -> ModelSpec:
        return self.record.recipe.model

    @property
    def method(self) -> str:
        return self.record.recipe.method.name

    @property
    def setting(self) -> str:
        """The hyperparameters alone, `r=d/8`; empty of a method that has none."""
        return " ".join(self.tried.words)

    @property
    def flop(self) -> float:
        """C that was planned: the same for all runs of a budget, which what was spent is to a step only."""
        return self.record.recipe.flop

    @property
    def ends(self) -> tuple[float, float]:
        """The interval's ends in nats; the loss itself twice where the noise is unknown."""
        spread = self.spread or 0.0
        return self.loss * float(np.exp(-spread)), self.loss * float(np.exp(spread))


@dataclass(frozen=True, eq=False)
class ReportData:
    """A ledger's outcomes and laws; opened with `ReportData.open`."""

    source: str
    outcomes: tuple[RunRecord | FailedRun, ...]
    damaged: dict[str, str]
    laws: LawSet | None
    facts: tuple[FitNote, ...]
    """what is missing and why: a law that could not be fitted, or was fitted to other runs"""

    @classmethod
    def open(cls, ledger: Path, law: Path | None = None) -> ReportData:
        """The runs at `ledger` and the law at `law`; else the law that ships, where it was fitted to these very runs
        and `recipe` goes by it, or the embedding law fitted to the runs where they allow it.

        Raises InputError where there is no ledger, where it holds no run with a loss, or runs of different settings.
        """
        book = Ledger.open(ledger)
        outcomes = tuple(book.outcomes())
        bare, facts = cls(ledger.name, outcomes, dict(book.damaged), None, ()), list[FitNote]()
        laws = bare._shipped() if law is None else LawSet.load(law)
        if laws is None or not bare.records:
            group_runs(bare.records, [law_named(DEFAULT_LAW)], source=ledger.name)  # says where nothing can be drawn
        if laws is None:
            try:
                laws = study_source(ledger, [law_named(DEFAULT_LAW)])
            except InputError as error:
                facts.append(remark("no-law-fitted", error=refusal_of(error)))
        found = replace(bare, laws=laws)
        return replace(found, facts=(*facts, *found._of_other_runs(), *found._without_size()))

    @classmethod
    def of_laws(cls, law: Path) -> ReportData:
        """The laws of that file alone, without the runs behind them.

        Raises InputError where it is no law, or one of a family that does not ship, whose sizes it does not say.
        """
        laws = LawSet.load(law)
        if not any(family.is_called(laws.settings.family or "") for family in FAMILIES):
            raise InputError(
                f"A law alone must be of a family that ships; that of {law.name} is of "
                f"{laws.settings.family or 'none that is named'}. Give the ledger of its runs, with `law`."
            )
        found = cls(law.name, (), {}, laws, ())
        return replace(found, facts=tuple(found._without_size()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing and why, in words."""
        return tuple(each.describe() for each in self.facts)

    def _shipped(self) -> LawSet | None:
        laws = shipped_law(self.family.name) if self.records else None
        return None if laws is None or replace(self, laws=laws)._of_other_runs() else laws

    def _of_other_runs(self) -> list[FitNote]:
        known = {group.method: group for group in self.groups.values()}
        return [
            remark("other-runs", law=law.method or law.law)
            for law in self.law_files
            if law.method not in known or as_fitted(law, known[law.method]) is None
        ]

    def _without_size(self) -> list[FitNote]:
        out = sized(self.laws)[1] if self.laws is not None else ()
        return [remark("no-size", law=each.method or each.law) for each in out]

    @cached_property
    def records(self) -> tuple[RunRecord, ...]:
        """The runs that ended well, ordered by key."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, RunRecord))

    @cached_property
    def failures(self) -> tuple[FailedRun, ...]:
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, FailedRun))

    @property
    def target(self) -> Target:
        """Which loss is shown: the one that the laws were fitted to."""
        return (self.laws.settings.target if self.laws else None) or "heldout"

    def loss(self, record: RunRecord) -> float | None:
        """Nats; None where the run was not evaluated."""
        if self.target == "training":
            return record.final_loss
        return None if record.heldout is None else record.heldout.loss

    @cached_property
    def settings(self) -> Settings:
        """What the runs have in common."""
        return self.laws.settings if self.laws else next(iter(self.groups.values())).settings

    @property
    def data(self) -> DataStats | None:
        """The training data of the runs; None of laws alone."""
        return self.records[0].recipe.data if self.records else None

    @property
    def candidates(self) -> int | None:
        """K: among how many texts a loss finds the right one; None where nobody said."""
        found = {group.points.candidates for group in self.groups.values()}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def groups(self) -> dict[str | None, Group]:
        """The points behind each law by its method, in the package's order; those of the default law where there is
        none; empty of laws alone."""
        order = {name: place for place, name in enumerate(self.methods)}
        found = self._groups()
        return dict(sorted(found.items(), key=lambda each: order[self.drawn(each[1])[0].recipe.method.name]))

    def _groups(self) -> dict[str | None, Group]:
        if not self.records:
            return {}
        if self.laws is None:
            return {group.method: group for group in group_runs(self.records, [law_named(DEFAULT_LAW)])}
        settings = self.laws.settings
        found: dict[str | None, Group] = {}
        for name in dict.fromkeys(law.law for law in self.laws.laws):
            wanted = {law.method for law in self.laws.laws if law.law == name}
            for others in ((), (DEFAULT_LAW,)):  # alone, or compared with one that takes a method's settings together
                if not (missing := wanted - found.keys()):
                    break
                groups = group_runs(
                    self.records,
                    [law_named(each) for each in (name, *others)],
                    {"params": settings.params, "flop": settings.flop},
                    target=self.target,
                    source=self.source,
                )
                found |= {group.method: group for group in groups if group.method in missing}
        return found

    def law_of(self, group: Group) -> LawFile | None:
        """The law fitted to `group`'s method."""
        return next((law for law in self.law_files if law.method == group.method), None)

    def drawn(self, group: Group) -> list[RunRecord]:
        """The record behind each point of `group`."""
        return [self.records[row - 1] for row in group.rows]

    @cached_property
    def replicates(self) -> tuple[Replicates, ...]:
        """Every setting at its best learning rate, ordered by method, size and budget."""
        if not self.records:
            return ()
        target = self.target
        kept = [
            record
            for group in group_runs(self.records, [law_named(DEFAULT_LAW)], target=target)
            for record in self.drawn(group)
        ]
        tried = settings_tested([(record.recipe.method, record.recipe.model.hidden) for record in kept])
        members: dict[str, list[tuple[RunRecord, TestedSetting]]] = {}
        for record, how in zip(kept, tried, strict=True):
            members.setdefault(record.recipe.key_without("seed"), []).append((record, how))
        noise = self._seed_noise([[record for record, _ in runs] for runs in members.values()])
        found = []
        for runs in members.values():
            records = tuple(record for record, _ in runs)
            loss = float(np.mean([self._known(record) for record in records]))
            spread = None if noise is None else _SIGMAS * noise / float(np.sqrt(len(records)))
            found.append(Replicates(records, runs[0][1], loss, spread))
        order = {name: place for place, name in enumerate(self.methods)}
        return tuple(sorted(found, key=lambda run: (order[run.method], run.model.params, run.setting, run.flop)))

    def _seed_noise(self, settings: Iterable[list[RunRecord]]) -> float | None:
        """Standard deviation of ln loss between seeds, pooled over the settings that were repeated."""
        logs = [np.log([self._known(record) for record in records]) for records in settings if len(records) > 1]
        free = sum(len(log) - 1 for log in logs)
        return float(np.sqrt(sum(float(np.sum((log - log.mean()) ** 2)) for log in logs) / free)) if free else None

    def _known(self, record: RunRecord) -> float:
        loss = self.loss(record)
        assert loss is not None
        return loss

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that ran, or of which there are laws alone, in the package's order."""
        names = {record.recipe.method.name for record in self.records}
        if not self.records and self.laws:
            names = {each.method.name for law in self.laws.laws for each in law.tested_settings}
        return tuple(name for known in METHODS if (name := known.called()) in names)

    @cached_property
    def law_files(self) -> tuple[LawFile, ...]:
        """The law of each method, in the package's order of methods, those of other names last."""
        order = {known.called(): place for place, known in enumerate(METHODS)}

        def place(law: LawFile) -> int:
            return min((order[each.method.name] for each in law.tested_settings), default=len(order))

        return tuple(sorted(self.laws.laws if self.laws else (), key=place))

    @cached_property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models that ran, smallest first."""
        found = {record.recipe.model.name: record.recipe.model for record in self.records}
        return tuple(sorted(found.values(), key=lambda model: model.params))

    @cached_property
    def family(self) -> Family:
        """The built-in family of the runs, or one made of the models that ran, at the rates of their shape."""
        name = self.records[0].recipe.family if self.records else self.settings.family
        for family in FAMILIES:
            if family.is_called(name or ""):
                return family
        named = {"name": name or "custom", "models": self.models, "about": "the models of the ledger's runs"}
        along = "depth" if any(model.depth is not None for model in self.models) else "size"
        return family_of(self.models[0]).model_copy(update={**named, "along": along})

    @cached_property
    def grid(self) -> ForecastGrid | None:
        """The laws ready to be asked; None where there are none, or they name no size."""
        if self.laws is None:
            return None
        try:
            return ForecastGrid(self.laws, self.family, self.data)
        except InputError:
            return None

    def by_budget(
        self, keep: Callable[[Replicates], bool] = lambda _: True, *, sizes: int = 1
    ) -> list[tuple[float, list[Replicates]]]:
        """Runs split into budgets, ascending, each by the mean FLOP of all that the ledger has there, so that figures
        agree; budgets with fewer than so many `sizes` are left out."""
        found = []
        for flop, runs in self._budgets:
            mine = [run for run in runs if keep(run)]
            if mine and len({run.model.name for run in mine}) >= sizes:
                found.append((flop, mine))
        return found

    @cached_property
    def _budgets(self) -> list[tuple[float, list[Replicates]]]:
        if not self.replicates:
            return []
        points = Points.of(
            [run.model.params for run in self.replicates],
            [run.record.tokens for run in self.replicates],
            [run.loss for run in self.replicates],
            flop=[run.flop for run in self.replicates],
        )
        return [
            (float(np.exp(np.mean(np.log(of_budget.flop)))), [self.replicates[row] for row in of_budget.run])
            for of_budget in budgets(points)
        ]
