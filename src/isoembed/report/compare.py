"""Two ledgers, or two laws, beside each other: what each recommends, where they differ, and whether losses compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.fitting.intervals import Interval
from isoembed.fitting.io.law_file import LawFile
from isoembed.fitting.settings import Settings
from isoembed.recommendation.result import Recommendation
from isoembed.report.data import ReportData
from isoembed.report.slider import in_a_sentence, recommended
from isoembed.report.terminal.layout import si

#: budgets at which both are asked, from the smallest fitted one of both to the largest
_BUDGETS = 5
#: settings, beside those that `Settings.differences` looks at, without which a law's numbers are of other things
_COUNTED = {"along": "sizes", "target": "loss", "params": "N counts", "flop": "C counts"}
#: settings that a training loss depends on
_OF_TRAINING_LOSS = ("batch_pairs", "temperature", "negatives", "data")

#: a name, what A says, what B says
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Answers:
    """What A and B recommend at one budget: a recommendation, or why there is none."""

    budget: Budget
    found: tuple[Recommendation | str, Recommendation | str]
    losses_compare: bool

    @property
    def sentences(self) -> tuple[str, str]:
        """Each answer as it is read aloud."""
        first, second = (
            f"No recipe: {each}" if isinstance(each, str) else in_a_sentence(each.recipe) for each in self.found
        )
        return first, second

    @property
    def rows(self) -> list[Row]:
        """Both recipes, a property a row; - where there is no recipe."""
        return [(name, *self._both(words)) for name, words in _PROPERTIES.items()]

    @property
    def differ(self) -> list[str]:
        """The properties of the recipe, not of its forecast, in which the two differ."""
        return [name for name, a, b in self.rows if a != b and name in _OF_THE_RECIPE]

    @property
    def verdict(self) -> str:
        """Where they differ, in a sentence, and whose loss is lower where losses compare."""
        first, second = self.found
        if isinstance(first, str) or isinstance(second, str):
            who = [letter for letter, each in zip("AB", self.found, strict=True) if not isinstance(each, str)]
            return f"Only {who[0]} answers." if who else "Neither answers."
        differ = self.differ
        words = f"They differ in {', '.join(differ)}." if differ else "Both name the same recipe."
        if not self.losses_compare or first.loss is None or second.loss is None:
            return words
        return f"{words} {_lower(first.loss, second.loss)}"

    def _both(self, words: Callable[[Recommendation], str]) -> tuple[str, str]:
        first, second = ("-" if isinstance(each, str) else words(each) for each in self.found)
        return first, second


#: nats that no reader would tell apart
_ALIKE = 5e-4


def _lower(first: Interval, second: Interval) -> str:
    """Whose forecast is lower, and whether the intervals overlap."""
    if first.value is None or second.value is None:
        return ""
    apart = abs(first.value - second.value)
    if apart < _ALIKE:
        return "They expect the same loss."
    lower = "A" if first.value < second.value else "B"
    overlap = first.ends[0] <= second.ends[1] and second.ends[0] <= first.ends[1]
    return f"{lower} expects {apart:.2g} nats less; the two intervals {'overlap' if overlap else 'lie apart'}."


_OF_THE_RECIPE: dict[str, Callable[[Recommendation], str]] = {
    "method": lambda each: each.recipe.method.label,
    "model": lambda each: f"{each.recipe.model.name}, N {si(each.recipe.model.params)}",
    "tokens": lambda each: si(each.recipe.train_tokens),
    "epochs": lambda each: "not known" if each.recipe.epochs is None else f"{each.recipe.epochs:.2g}",
    "learning rate": lambda each: f"{each.recipe.learning_rate:.3g}",
    "steps": lambda each: f"{each.recipe.steps:,} of {each.recipe.batch_pairs} pairs",
}
_PROPERTIES: dict[str, Callable[[Recommendation], str]] = {
    **_OF_THE_RECIPE,
    "loss, 95 % of one run": lambda each: each.loss.describe() if each.loss else f"none: {each.no_forecast}",
    "method is best with": lambda each: f"{each.certainty.method:.2f}" if each.certainty else "-",
    "beyond the data": lambda each: each.reach.describe() if each.reach else "-",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A and B, and what may be compared of them."""

    a: ReportData
    b: ReportData
    names: dict[str, str]
    """what A and B are called"""

    @classmethod
    def open(cls, *sides: tuple[Path, Path | None]) -> Comparison:
        """A and B, each a ledger with its law (None: fitted here), or a law alone, which ends in .json.  Raises
        InputError as `ReportData.open`."""
        first, second = (_opened(*each) for each in sides)
        names = [source.name + (f" under {law.name}" if law else "") for source, law in sides]
        if names[0] == names[1]:
            names = [str(source) + (f" under {law}" if law else "") for source, law in sides]
        return cls(first, second, dict(zip("AB", names, strict=True)))

    @property
    def sides(self) -> dict[str, ReportData]:
        return {"A": self.a, "B": self.b}

    @cached_property
    def settings(self) -> tuple[Settings, Settings]:
        return self.a.settings, self.b.settings

    @cached_property
    def differences(self) -> list[Row]:
        """The settings in which the two differ, by the one comparison of setups."""
        first, second = self.settings
        names = {name: Settings.COMPARED[name] for name in first.differences(second)}
        names |= {name: words for name, words in _COUNTED.items() if getattr(first, name) != getattr(second, name)}
        found = [(words, *(_said(getattr(each, name)) for each in self.settings)) for name, words in names.items()]
        if self._other_candidates:
            found.append(("candidates, K", f"{self.a.candidates:,}", f"{self.b.candidates:,}"))
        return found  # type: ignore[return-value] # two settings

    @property
    def _other_candidates(self) -> bool:
        return None not in (self.a.candidates, self.b.candidates) and self.a.candidates != self.b.candidates

    @cached_property
    def apart(self) -> list[str]:
        """Why the loss of one must not be held against the loss of the other; empty where it may."""
        first, second = self.settings
        differ = first.differences(second)
        if first.target != second.target and None not in (first.target, second.target):
            return [f"A's losses are {first.target} ones, B's are {second.target} ones"]
        found = []
        if self._other_candidates and self.a.candidates and self.b.candidates:
            found.append(
                f"A's losses are among {self.a.candidates:,} candidates, B's among {self.b.candidates:,}: chance is "
                f"{math.log(self.a.candidates):.2f} nats in the one and {math.log(self.b.candidates):.2f} in the other"
            )
        elif "heldout" in differ:
            found.append("A's losses were taken on another held-out set than B's")
        if first.target == "training":
            found += [
                f"a training loss goes by its {Settings.COMPARED[name]}, and these differ"
                for name in _OF_TRAINING_LOSS
                if name in differ
            ]
        return found

    @property
    def not_said(self) -> str | None:
        """That nobody said whether losses compare; None where it is known."""
        first, second = self.settings
        if self.apart or first.target == "training" or (first.heldout is not None and second.heldout is not None):
            return None
        return "It is not said on which held-out set a law's losses were taken: compare losses only if it was the same."

    @property
    def counted_alike(self) -> bool:
        """Whether N and C are the same things in both."""
        first, second = self.settings
        return first.params == second.params and first.flop == second.flop

    @cached_property
    def answers(self) -> list[Answers]:
        """Both recommendations at budgets over what was fitted of both; empty where neither has a law."""
        ranges = [law.range["flop"] for each in self.sides.values() if each.laws for law in each.laws.laws]
        if not ranges:
            return []
        texts = dict.fromkeys(
            f"{flop:.3g}"
            for flop in np.geomspace(min(low for low, _ in ranges), max(high for _, high in ranges), _BUDGETS)
        )
        budgets = [Budget.parse(text) for text in texts]
        return [
            Answers(budget, (_answer(self.a, budget), _answer(self.b, budget)), not self.apart) for budget in budgets
        ]

    @cached_property
    def laws(self) -> list[tuple[str, str, list[tuple[str, str, str, bool]]]]:
        """For each method of either: its name, the forms of law, and rows of numbers with their intervals, of which the
        last value says whether these lie apart."""
        by_method: list[dict[str, LawFile]] = [
            {law.method or law.law: law for law in each.law_files} for each in self.sides.values()
        ]
        found = []
        for method in dict.fromkeys([*by_method[0], *by_method[1]]):
            first, second = (laws.get(method) for laws in by_method)
            forms = f"{first.law if first else 'none'} | {second.law if second else 'none'}"
            alike = first is not None and second is not None and first.law == second.law
            numbers = [_numbers(law) if law else {} for law in (first, second)]
            rows = [
                (name, *(_said(each.get(name)) for each in numbers), alike and _lie_apart(name, *numbers))
                for name in dict.fromkeys([*numbers[0], *numbers[1]])
            ]
            found.append((method, first.law if alike and first else forms, rows))
        return found  # type: ignore[return-value] # two numbers


def _opened(source: Path, law: Path | None) -> ReportData:
    if source.suffix != ".json":
        return ReportData.open(source, law)
    if law is not None:
        raise InputError(f"{source.name} is a law already, and takes no other one; give the ledger of its runs.")
    return ReportData.of_laws(source)


def _answer(report_data: ReportData, budget: Budget) -> Recommendation | str:
    if report_data.laws is None:
        return next(iter(report_data.notes), "there is no law")
    try:
        return recommended(report_data, budget)
    except InputError as error:
        return str(error)


def _numbers(law: LawFile) -> dict[str, Any]:
    """A law's parameters, and the exponents of its compute optimum, as intervals; then what it was fitted to."""
    optimum = law.compute_optimum()
    exponents = {"a of N* ~ C^a": optimum.params_exponent, "b of D* ~ C^b": optimum.tokens_exponent} if optimum else {}
    low, high = law.range["flop"]
    return {
        **law.params,
        **exponents,
        "noise of ln loss": f"{law.run_noise:.2%}",
        "runs": f"{law.n_points:,}",
        "fitted C": f"{low:.3g} to {high:.3g}",
        "status": law.status,
    }


def _lie_apart(name: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    one, other = first.get(name), second.get(name)
    if not isinstance(one, Interval) or not isinstance(other, Interval) or one.value is None or other.value is None:
        return False
    if None in (one.low, one.high, other.low, other.high):
        return False
    return one.ends[1] < other.ends[0] or other.ends[1] < one.ends[0]


def _said(value: Any) -> str:
    if isinstance(value, Interval):
        return value.describe()
    return "-" if value is None else str(value)
