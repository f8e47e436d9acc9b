"""Where a law holds: what its runs have in common, and which hyperparameters they tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.families.base import ModelSpec
from isoembed.fitting.notes import FitNote
from isoembed.fitting.repetition import RepeatedRuns
from isoembed.fitting.trained_rates import TrainedRate
from isoembed.fitting.width import WidthRuns
from isoembed.laws.points import Points
from isoembed.methods import Adapters, Method, read_label
from isoembed.options import PLAIN, Options
from isoembed.recipe import DataStats, PartialSetup

#: a positive share, as str(Fraction) writes it
_SHARE = r"^[1-9][0-9]{0,8}(/[1-9][0-9]{0,8})?$"


class Settings(PartialSetup):
    """One value each for all runs behind a law; None where the table did not say."""

    COMPARED: ClassVar[dict[str, str]] = {
        "family": "family",
        **PartialSetup.COMPARED,
        "negatives": "hard negatives",
        "heldout": "held-out set",
        "data": "training set",
        "tokenizer": "tokenizer",
    }

    family: str | None = None
    along: Literal["depth"] | None = Field(
        None, description="depth: its runs are of one model's first blocks; None: of models pretrained apart"
    )
    negatives: int = Field(0, description="mean hard negatives per pair, rounded; tables are taken to have none")
    options: Options = PLAIN
    target: Literal["heldout", "training"] | None = Field(None, description="which loss was fitted")
    heldout: str | None = Field(None, description="fingerprint of the held-out set")
    data: str | None = Field(None, description="fingerprint of the training pairs")
    tokenizer: str | None = Field(None, description="hash of the tokenizer")
    params: Literal["params", "total_params"] = Field("params", description="what N counts: without or with the table")
    flop: Literal["model_flop", "all_in_flop"] = Field("model_flop", description="what C counts")
    step_tokens: float | None = Field(
        None, gt=0, description="mean real tokens per step; None in older laws and tables"
    )

    @classmethod
    def of(cls, family: str, setup: PartialSetup, data: DataStats, *, heldout: str | None) -> Settings:
        """Those of one run, or of what is asked."""
        return cls(
            **{name: getattr(setup, name) for name in PartialSetup.model_fields},
            family=family,
            negatives=round(data.negatives),
            heldout=heldout,
            data=data.fingerprint,
            tokenizer=data.tokenizer,
        )

    def size(self, model: ModelSpec) -> int:
        """N of `model` as the law counts it."""
        return model.params if self.params == "params" else model.total_params


class TestedSetting(Frozen):
    """One hyperparameter setting of which there were runs, stated so that it carries over to other sizes."""

    method: Method = Field(description="the setting, as one of the runs had it")
    of_width: str | None = Field(
        None, pattern=_SHARE, description="adapters: the rank as a share of the hidden width, as 1/8"
    )

    @property
    def words(self) -> tuple[str, ...]:
        """The hyperparameters: `r=32`, or `r=d/8` where ranks went by the width; () of a method that has none."""
        if self.of_width is None or not isinstance(self.method, Adapters):
            return self.method.words
        share = Fraction(self.of_width)
        return self.method.words_at(f"{share.numerator if share.numerator > 1 else ''}d/{share.denominator}")

    @property
    def label(self) -> str:
        """`lora r=32`, or `lora r=d/8`."""
        return " ".join((self.method.called(), *self.words))

    def on(self, model: ModelSpec) -> Method:
        """The method with this setting on a model of any size."""
        if self.of_width is None or not isinstance(self.method, Adapters):
            return self.method
        return self.method.resized(max(1, round(Fraction(self.of_width) * model.hidden)))


@dataclass(frozen=True, eq=False)
class Group:
    """Runs to which one law is fitted.  `method` is None where the table names none."""

    method: str | None
    points: Points
    rows: tuple[int, ...]
    """row of the table, or of the ledger ordered by key, behind each point, counted from 1"""
    tested_settings: tuple[TestedSetting, ...] = ()
    settings: Settings = Settings()  # noqa: RUF009 - a frozen value
    facts: tuple[FitNote, ...] = ()
    repeats: RepeatedRuns | None = None
    """runs that repeat their data, which the law is not fitted to"""
    widths: tuple[WidthRuns, ...] = ()
    """runs of other dimensions, which the law is not fitted to either"""
    trained_rates: tuple[TrainedRate, ...] = ()
    """the learning rate behind each point; () of a table's"""

    def only(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Group:
        """The runs kept, as a mask or indices."""
        places = np.arange(len(self.points))[kept].tolist()
        return replace(
            self,
            points=self.points[kept],
            rows=tuple(self.rows[place] for place in places),
            trained_rates=tuple(self.trained_rates[place] for place in places) if self.trained_rates else (),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was seen of the runs, in words."""
        return tuple(each.describe() for each in self.facts)


def settings_tested(runs: list[tuple[Method, int]]) -> list[TestedSetting]:
    """One TestedSetting per run, from its method and the hidden width of its model (0: unknown).

    Ranks of adapters are stated as shares of the width where that takes fewer values than the ranks themselves.
    """
    ranks = [(method.rank, width) for method, width in runs if isinstance(method, Adapters) and width]
    shares = {Fraction(rank, width) for rank, width in ranks}
    relative = len(shares) < len({rank for rank, _ in ranks})
    return [
        TestedSetting(method=method, of_width=str(Fraction(method.rank, width)))
        if relative and isinstance(method, Adapters) and width
        else TestedSetting(method=method)
        for method, width in runs
    ]


def method_labelled(label: str) -> Method | None:
    """The method that a table's label names, as `read_label`; None where it names none."""
    try:
        return read_label(label)
    except InputError:
        return None
