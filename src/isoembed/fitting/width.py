"""What embeddings of fewer dimensions cost, measured: runs with a learned projection beside the same recipes without.

The law is fitted to runs of one width.  A run that differs from one of them in `dimensions` alone says by how much
ln loss lies off there, for that model, method and budget.  Nothing is said of other models: how much a width costs
depends on how wide a model is and on how good.

Assumed: the same offset at other budgets of that model; noise of single runs, not less for equal seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from isoembed.core import Frozen, PositiveInt
from isoembed.fitting.notes import FitNote, remark


@dataclass(frozen=True)
class WidthRuns:
    """Runs of one recipe at one number of dimensions, and those of it without a projection."""

    dimensions: int
    model: str
    flop: float
    losses: tuple[float, ...]
    plain_losses: tuple[float, ...]

    def measured(self, noise: float) -> MeasuredWidth:
        """The offset between the two, where one run's ln loss has this standard deviation."""
        offset = _mean_log(self.losses) - _mean_log(self.plain_losses)
        error = noise * math.sqrt(1 / len(self.losses) + 1 / len(self.plain_losses))
        return MeasuredWidth(
            dimensions=self.dimensions,
            model=self.model,
            flop=self.flop,
            offset=offset,
            error=error,
            loss=math.exp(_mean_log(self.plain_losses)),
            runs=len(self.losses),
        )


class MeasuredWidth(Frozen):
    """The offset of a law's loss at one number of dimensions."""

    dimensions: PositiveInt
    model: str = Field(description="of the runs, for which alone it holds")
    flop: float = Field(gt=0, description="C of the runs")
    offset: float = Field(description="of mean ln loss from that of the same recipe without a projection")
    error: float = Field(ge=0, description="standard error of it, from the noise of single runs")
    loss: float = Field(gt=0, description="nats without the projection")
    runs: PositiveInt = Field(description="with the projection")

    @property
    def cost(self) -> FitNote:
        """The same in nats."""
        nats, error = self.loss * math.expm1(self.offset), self.loss * math.exp(self.offset) * self.error
        return remark("nats", nats=nats, error=error)


def _mean_log(losses: Sequence[float]) -> float:
    return float(np.mean(np.log(losses)))
