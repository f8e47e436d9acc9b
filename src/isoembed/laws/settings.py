"""Where a law holds: what its runs have in common, and which hyperparameters they tried."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.families.base import ModelSpec
from isoembed.laws.points import Points
from isoembed.methods import Freeze, LoRA, Method, method_named


class Settings(Frozen):
    """One value each for all runs behind a law; None where the table did not say."""

    family: str | None = None
    batch_pairs: int | None = None
    context_tokens: int | None = None
    temperature: float | None = None
    pooling: str | None = None
    target: Literal["heldout", "training"] | None = Field(None, description="which loss was fitted")
    heldout: str | None = Field(None, description="fingerprint of the held-out set")
    data: str | None = Field(None, description="fingerprint of the training pairs")
    tokenizer: str | None = Field(None, description="hash of the tokenizer")
    params: Literal["params", "total_params"] = Field("params", description="what N counts: without or with the table")
    flop: Literal["model_flop", "all_in_flop"] = Field("model_flop", description="what C counts")

    def size(self, model: ModelSpec) -> int:
        """N of `model` as the law counts it."""
        return model.params if self.params == "params" else model.total_params


class Tried(Frozen):
    """One hyperparameter setting of which there were runs, stated so that it carries over to other sizes."""

    method: Method = Field(description="the setting, as one of the runs had it")
    of_width: str | None = Field(None, description="LoRA: the rank as a share of the hidden width, as 1/8")

    @property
    def label(self) -> str:
        """`lora r=32`, or `lora r=d/8` where ranks went by the width."""
        if self.of_width is None:
            return self.method.label
        share = Fraction(self.of_width)
        return f"lora r={share.numerator if share.numerator > 1 else ''}d/{share.denominator}"

    def on(self, model: ModelSpec) -> Method:
        """The method with this setting on a model of any size; alpha keeps its ratio to the rank."""
        if self.of_width is None or not isinstance(self.method, LoRA):
            return self.method
        rank = max(1, round(Fraction(self.of_width) * model.hidden))
        return LoRA(rank=rank, alpha=self.method.alpha / self.method.rank * rank)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs to which one law is fitted.  `method` is None where the table names none."""

    method: str | None
    points: Points
    rows: tuple[int, ...]
    """row of the table, or of the ledger ordered by key, behind each point, counted from 1"""
    tried: tuple[Tried, ...] = ()
    settings: Settings = Settings()  # noqa: RUF009 - a frozen value
    notes: tuple[str, ...] = ()


def settings_tried(runs: list[tuple[Method, int]]) -> list[Tried]:
    """One Tried a run, from its method and the hidden width of its model (0: unknown).

    LoRA ranks are stated as shares of the width where that takes fewer values than the ranks themselves.
    """
    lora = [(method.rank, width) for method, width in runs if isinstance(method, LoRA) and width]
    shares = {Fraction(rank, width) for rank, width in lora}
    relative = len(shares) < len({rank for rank, _ in lora})
    return [
        Tried(method=method, of_width=str(Fraction(method.rank, width)))
        if relative and isinstance(method, LoRA) and width
        else Tried(method=method)
        for method, width in runs
    ]


def method_labelled(label: str) -> Method | None:
    """The method that a table's label names: `full`, `bias`, `lora`, `lora r=32`, `freeze`, `freeze 0.5`; else None.

    alpha is twice the rank, which a label does not say.
    """
    name, _, rest = label.strip().partition(" ")
    try:
        if name == "lora" and rest:
            rank = int(rest.removeprefix("r="))
            return LoRA(rank=rank, alpha=2.0 * rank)
        if name == "freeze" and rest:
            return Freeze(fraction=float(rest))
        return None if rest else method_named(name)
    except (ValueError, InputError):
        return None
