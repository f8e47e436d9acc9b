"""What is asked of a recommendation, and the recipe that any one model and method give within it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from isoembed.budget import Budget
from isoembed.core import Count, InputError
from isoembed.estimates import TrainingMemory, training_memory
from isoembed.families import FAMILIES, NANO, Family, ModelSpec, family_named
from isoembed.families.base import RateRule
from isoembed.fitting.repetition import MOST_EPOCHS
from isoembed.fitting.settings import Settings
from isoembed.fitting.trained_rates import RateFactor
from isoembed.flops import Cost
from isoembed.methods import Full, Method, method_of
from isoembed.notes import refusal
from isoembed.recipe import (
    LARGEST_RATE,
    TO_THE_END,
    DataStats,
    EarlyStopping,
    PartialSetup,
    Recipe,
    Setup,
    check_trained,
    family_setup,
    price_of,
    solve,
)
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.notes import RecipeNote, note

#: a recipe of fewer steps is mostly warm-up: such a model is too large for the budget
MIN_STEPS = 30

#: the largest budget for which no family need be named: as far as the law that ships for nano reaches
DEFAULT_MOST_FLOP = 1.5e14


class Request(PartialSetup):
    """Budget, family, data and limits.  What the caller fixes is kept and not judged; what is None is open: the setup
    is then that of the law's runs, or the family's."""

    budget: Budget
    family: Family
    data: DataStats | None = Field(None, description="default: the paper's corpus, without end")
    constraints: Constraints = Constraints()
    method: Method | None = None
    any_hyperparameters: bool = Field(False, description="of the method: none was named, a law chooses its own")
    model: str | None = None
    learning_rate: float | None = Field(None, gt=0)
    seed: Count = 0
    early_stopping: EarlyStopping = TO_THE_END
    heldout: str | None = Field(
        None, description="fingerprint of the held-out set on which losses will be taken; None: not known, or a law's"
    )

    @model_validator(mode="before")
    @classmethod
    def _left_open(cls, given: Any) -> Any:
        """Of a method as it is given, whether its hyperparameters were; equal methods may differ in that."""
        if not isinstance(given, dict) or "any_hyperparameters" in given:
            return given
        return {**given, "any_hyperparameters": getattr(given.get("method"), "is_open", False)}

    @classmethod
    def of(
        cls,
        budget: Request | Budget | str | float,
        family: Family | str | None = None,
        setup: PartialSetup | Mapping[str, Any] | None = None,
        *,
        method: Method | str | None = None,
        **fields: Any,
    ) -> Request:
        """What a user asks: a budget in FLOP as a number or a text, a family by name (default: `default_family`), a
        method by its label.  Of a request, the same one with what is given here in place of its own.

        Raises InputError for a family or model that is not built in: `isoembed.family_named` finds others.
        """
        if isinstance(setup, Mapping):
            setup = PartialSetup(**setup)
        fields |= {name: getattr(setup, name) for name in PartialSetup.model_fields} if setup is not None else {}
        fields |= {} if family is None else {"family": _built_in(family)}
        if method is not None:
            method = method_of(method)
            fields |= {"method": method, "any_hyperparameters": method.is_open}
        given = {name: value for name, value in fields.items() if value is not None}
        if isinstance(budget, Request):
            asked = cls(**dict(budget) | given) if given else budget
        else:
            spend = Budget.parse(budget)
            family = given.get("family") or _family_of(given.get("model"), spend)
            asked = cls(**{**given, "budget": spend, "family": family})
        check_trained(asked)
        return asked

    def setup_at(self, *others: PartialSetup) -> Setup:
        """The setup, what is open in it from the first of `others` that says it, or the family's."""
        return self.completed(*others, family_setup(self.family))

    def complete(self, *others: PartialSetup) -> CompleteRequest:
        """What is asked with nothing left open, as `setup_at`."""
        setup = self.setup_at(*others)
        data = self.constraints.cap(self.data or DataStats.assumed(setup.context_tokens))
        whole = CompleteRequest(**{**dict(self), **dict(setup), "data": data})
        return whole if self.budget.epochs is None else whole.with_epochs_paid(self.budget.epochs)


class CompleteRequest(Setup, Request):
    """A request with nothing left open, and the recipe that any one model and method give within it."""

    data: DataStats
    rate_factor: RateFactor | None = Field(None, description="on the family's learning rates")

    @property
    def settings(self) -> Settings:
        """What is asked, as the settings of a law that would answer it."""
        return Settings.of(self.family.name, self, self.data, heldout=self.heldout)

    def with_epochs_paid(self, epochs: float) -> Self:
        """The request whose budget is so many epochs alone, with what they cost: in full fine-tuning, where no method
        is named."""
        if self.model is None and len(self.family.models) > 1:
            raise InputError(
                f"`epochs` alone are a budget for one model; {self.family.name} has {len(self.family.models)}. Name "
                "`model`, or give `budget` too."
            )
        if self.unique_tokens is None:
            raise InputError("`epochs` alone are a budget where it is known how many pairs there are; give `pairs`.")
        (model,) = self.models
        price = price_of((self.method or Full()).cost(model), self.options, self.data)
        flop = price.flop(epochs * self.unique_tokens)
        flop += 2.0 * model.params * self.constraints.serving_tokens
        constraints = Constraints(**{**dict(self.constraints), "epochs": epochs})
        budget = self.budget.model_copy(update={"flop": flop})
        return self.model_copy(update={"budget": budget, "constraints": constraints})

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The sizes to choose from, smallest first."""
        return tuple(self.constraints.within(self.family, self.all_sizes, self, self.data))

    @property
    def all_sizes(self) -> tuple[ModelSpec, ...]:
        """The same whatever the limits are."""
        return self.family.models if self.model is None else (self.family.model(self.model),)

    def projected(self, dimensions: int | None) -> Self:
        """The same request of embeddings of so many dimensions."""
        options = self.options.model_copy(update={"dimensions": dimensions})
        return self.model_copy(update={"options": options})

    @property
    def unique_tokens(self) -> float | None:
        """Real tokens in one epoch of the unique pairs; None where the data are unlimited."""
        return None if self.data.pairs is None else self.data.pairs * self.data.tokens_per_pair

    @property
    def step_tokens(self) -> float:
        """Expected real tokens of one step."""
        return self.batch_pairs * self.data.tokens_per_pair

    def memory(self, model: ModelSpec, method: Method) -> TrainingMemory:
        """Estimate of what training needs, in bf16 where the device that it must fit is named."""
        return training_memory(
            model,
            method.cost(model),
            batch_tokens=self.step_tokens,
            batch_pairs=self.batch_pairs,
            context_tokens=self.context_tokens,
            negatives=self.data.negatives,
            options=self.options,
            bf16=isinstance(self.constraints.device_memory, str),
        )

    def check_memory(self, model: ModelSpec, method: Method) -> None:
        """Raise InputError where training would not fit the device with its smallest mini-batch."""
        limit = self.constraints.memory_bytes
        if limit is None:
            return
        needed = self.memory(model, method).least
        if needed > limit:
            known = {"method": method.label, "model": model.name}
            raise InputError(refusal("memory", needed_gb=needed / 1e9, limit_gb=limit / 1e9, **known))

    def tokens(self, flop: float, model: ModelSpec, cost: Cost, *, most_epochs: float | None) -> float:
        """D: what `flop` pays for after serving, and at most so many epochs of the unique pairs; where these alone are
        the budget, all of them."""
        unique = self.unique_tokens
        if self.budget.epochs is not None and flop == self.budget.flop and unique is not None:
            return self.budget.epochs * unique
        price = price_of(cost, self.options, self.data)
        tokens = price.tokens(self.constraints.training_flop(flop, model))
        return tokens if most_epochs is None or unique is None else min(tokens, most_epochs * unique)

    def recipe(self, flop: float, model: ModelSpec, method: Method, *, most_epochs: float | None = None) -> Recipe:
        """The recipe that spends `flop` on `model` with `method`; raises InputError where it breaks a limit."""
        self.check_memory(model, method)
        cost = method.cost(model)
        tokens = self.tokens(flop, model, cost, most_epochs=most_epochs)
        rate, _ = self.rate(model, method, tokens)
        return solve(
            price_of(cost, self.options, self.data).flop(tokens),
            model,
            method,
            rate,
            self,
            self.data,
            family=self.family.name,
            seed=self.seed,
            early_stopping=self.early_stopping,
        )

    @property
    def data_note(self) -> RecipeNote:
        """What the data are, known or assumed."""
        data = self.data
        if data.fingerprint is None or data.pairs is None:
            return note("assumed", "data-assumed", source=data.source)
        return note("known", "data", pairs=data.pairs, tokens_per_pair=data.tokens_per_pair, source=data.source)

    def teacher_notes(self, recipe: Recipe) -> list[RecipeNote]:
        """What the teacher costs of the budget; empty without one."""
        teacher = self.options.teacher
        if teacher is None:
            return []
        flop = recipe.teacher_flop
        return [note("known", "teacher", name=teacher.name, flop=flop, share=flop / recipe.total_flop)]

    def unspent(self, flop: float, recipe: Recipe, *, in_vain: bool = False) -> list[RecipeNote]:
        """That the data end before the budget, and what would spend it unless repeats are `in_vain`; or that the budget
        ends before the epochs asked for.  Empty where neither does."""
        asked, unique = self.constraints.epochs, self.unique_tokens
        if self.budget.epochs is not None or unique is None:
            return []
        paid = self.tokens(flop, recipe.model, recipe.cost, most_epochs=None)
        if recipe.train_tokens < 0.99 * paid:
            epochs = math.floor(min(paid / unique, MOST_EPOCHS))
            more = not in_vain and epochs > recipe.train_tokens / unique
            return [
                note(
                    "warning",
                    "data-end",
                    epochs=recipe.train_tokens / unique,
                    tokens=recipe.train_tokens,
                    unspent=100 * (1 - recipe.train_tokens / paid),
                    remedy=epochs if more else (),
                )
            ]
        if asked is not None and recipe.train_tokens < 0.99 * asked * unique:
            done = recipe.train_tokens / unique
            return [note("warning", "budget-end", epochs=done, asked=asked)]
        return []

    def limit_notes(self, flop: float, model: ModelSpec) -> list[RecipeNote]:
        """What limits on the size leave to choose from, and what serving costs of `flop`; empty where neither was
        asked for."""
        tokens, limits, left = self.constraints.serving_tokens, self.constraints.size_limits, self.models
        notes = []
        if limits and self.model is None:
            fields = {"left": len(left), "sizes": len(self.family.models), "largest": left[-1].name}
            notes.append(note("known", "limited", limits=tuple(f"`{name}`" for name in limits), **fields))
        if tokens:
            cost = flop - self.constraints.training_flop(flop, model)
            notes.append(note("known", "serving", tokens=tokens, flop=cost, share=cost / flop))
        return notes

    @property
    def speed_notes(self) -> list[RecipeNote]:
        """At which share of its device's peak a budget of time is counted; empty for one in FLOP."""
        budget = self.budget
        if budget.device is None:
            return []
        code = "speed-assumed" if budget.utilisation is None else "speed-given"
        return [note("assumed", code, share=budget.share, device=budget.device)]

    def rate_notes(self, recipe: Recipe) -> list[RecipeNote]:
        """Where the recipe's learning rate comes from."""
        _, rule = self.rate(recipe.model, recipe.method, recipe.train_tokens)
        if rule is None:
            return [note("assumed", "rate-asked")]
        found = {"source": rule.source} | ({"like": rule.like} if rule.like else {})
        notes = [note("assumed", "rate-like" if rule.like else "rate", **found)]
        if (seen := self.rate_factor) is not None:
            notes.append(note("known", "rate-of-runs", factor=seen.factor, runs=seen.runs, off=math.expm1(seen.noise)))
        if (rule.along, self.family.along) == ("size", "depth"):
            notes.append(note("assumed", "rate-carried"))
        return notes

    def rate(self, model: ModelSpec, method: Method, tokens: float) -> tuple[float, RateRule | None]:
        """Peak learning rate for a run of `tokens`, and the rule that says so; None where it was asked for."""
        if self.learning_rate is not None:
            return self.learning_rate, None
        steps = max(1, round(tokens / self.step_tokens))
        rate, rule = self.family.peak_rate(model, method, steps=steps)
        return rate if self.rate_factor is None else min(rate * self.rate_factor.factor, LARGEST_RATE), rule


def _built_in(family: Family | str) -> Family:
    """The family itself, or a built-in one by its name."""
    if isinstance(family, Family) or any(each.is_called(family) for each in FAMILIES):
        return family_named(family)
    known = ", ".join(each.name for each in FAMILIES)
    raise InputError(
        f"`family` must be a `Family` or one of {known}; got {family!r}. Give isoembed.family_named({family!r}), "
        "which takes a hub id, a folder, a GGUF file, and MODEL@ for the cuts of a model."
    )


def _family_of(model: str | None, budget: Budget) -> Family:
    """The family where none was named."""
    found = default_family(budget)
    if model is not None and not found.has(model):
        own = next((each.name for each in FAMILIES if each.has(model)), None)
        known = f"family={own!r} too" if own else f"isoembed.family_named({model!r}) as `family` in its place"
        names = ", ".join(each.name for each in found.models)
        raise InputError(f"`model` alone must be one of {names}; got {model!r}. Give {known}.")
    return found


def default_family(budget: Budget) -> Family:
    """The family that ships, for a budget in FLOP that its law reaches; raises InputError for any other."""
    if budget.epochs is not None:
        raise InputError(f"`epochs` alone are a budget for one model; got {budget.stated}. Name `model`.")
    if budget.flop is None or budget.flop > DEFAULT_MOST_FLOP:
        named = ", ".join(family.name for family in FAMILIES if family.name != NANO.name)
        raise InputError(
            f"A budget in time or money, or above {DEFAULT_MOST_FLOP:.2g} FLOP, needs a named family; got "
            f"{budget.stated}. Give `family` ({named}), or `model` with a hub id or folder."
        )
    return NANO
