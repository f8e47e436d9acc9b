"""The contract of a law, documented once.

A law is the loss as a function of (N, D, S, C) and a parameter vector theta.  Most parameters enter linearly once the
others are given; that is what makes many starts cheap (variable projection, Golub and Pereyra 1973).

Shapes: B problems at once (starts, or bootstrap samples), P parameters, R rows, F budgets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from isoembed.core import InputError
from isoembed.laws.points import Floats, Points, Rows
from isoembed.notes import refusal


@dataclass(frozen=True)
class Parameter:
    """One parameter.  Bounds hold in working units (N, D, C, loss divided by their geometric means).

    `grid` lists start values; empty for a parameter that is linear given the others, which is solved instead.
    """

    name: str
    low: float = -np.inf
    high: float = np.inf
    grid: tuple[float, ...] = ()

    @property
    def linear(self) -> bool:
        return not self.grid


def exponent(name: str, *grid: float) -> Parameter:
    """A decay exponent: positive, and far below 4 for anything seen in language models."""
    return Parameter(name, 0.01, 4.0, grid)


@dataclass(frozen=True)
class Units:
    """Logarithms of the geometric means by which N, D, C and the loss are divided before a fit."""

    log_params: float = 0.0
    log_tokens: float = 0.0
    log_flop: float = 0.0
    log_loss: float = 0.0

    @classmethod
    def of(cls, points: Points, *, loss: bool = True) -> Units:
        """The units that centre `points`; the loss keeps its own where `loss` is False."""
        rows = points.rows
        return cls(
            float(np.mean(rows.log_params_R)),
            float(np.mean(rows.log_tokens_R)),
            float(np.mean(rows.log_flop_R)),
            float(np.mean(np.log(points.loss))) if loss else 0.0,
        )

    def centre(self, rows: Rows) -> Rows:
        """`rows` in these units."""
        return Rows(
            rows.log_params_R - self.log_params,
            rows.log_tokens_R - self.log_tokens,
            rows.log_flop_R - self.log_flop,
            rows.frozen_share_R,
        )


class Law(ABC):
    """A scaling law: its parameters, its loss with an analytic gradient, how it changes units."""

    name: str
    about: str
    parameters: tuple[Parameter, ...]
    #: columns that must differ between rows for the law to mean anything
    varies: tuple[str, ...]
    #: columns that the law also reads where the table has them
    also_reads: tuple[str, ...] = ()
    #: whether the loss must stay in nats in a fit, for the law is not the same law of a loss in other units
    own_units: bool = False
    #: terms that runs may not tell from zero, as the parameters held without each of them and without all
    may_lack: tuple[Mapping[str, float], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def is_linear(self, name: str) -> bool:
        """Whether the parameter of that name is linear given the others."""
        return self.parameters[self.names.index(name)].linear

    @abstractmethod
    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Loss (B, R) and its derivative by each parameter (B, P, R).

        For a linear parameter the derivative must not depend on any linear parameter: it is the feature that the
        parameter multiplies.
        """

    def level(self, theta_BP: Floats, rows: Rows, loss_R: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """What the linear parameters add up to (B, R), its derivatives (B, P, R), the observed `loss_R` on that scale
        (B, R), and the loss's slope by it there (B, R): the loss itself, but for a law behind a link."""
        loss_BR, gradient_BPR = self.loss_and_gradient(theta_BP, rows)
        return loss_BR, gradient_BPR, np.broadcast_to(loss_R, loss_BR.shape), np.ones_like(loss_BR)

    @abstractmethod
    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        """Parameters in the user's units from those in working units (exact, so that N in millions changes nothing
        but A)."""

    def log_optimal_params(self, theta_BP: Floats, flop_F: Floats, flop_per_param_token: float) -> Floats | None:
        """ln N (B, F) of least loss at C = `flop_per_param_token` N D, where a closed form exists; else None."""
        return None

    def held(self, points: Points) -> dict[str, float]:
        """Parameters that `points` cannot identify, with the value at which they are held."""
        return {}

    def applies(self, points: Points) -> NDArray[np.bool_]:
        """Which rows (R,) the law can speak of: all, but where chance bounds the loss."""
        return np.ones(len(points), dtype=bool)

    def check(self, points: Points) -> None:
        """Raise InputError where the law means nothing on `points`."""
        for column in self.varies:
            if points.distinct(column) < 2:
                value = float(points.column(column)[0])
                raise InputError(refusal("all-alike", law=self.name, column=column, rows=len(points), value=value))
        if points.distinct("loss") < 2:
            raise InputError(refusal("losses-alike", rows=len(points), value=float(points.loss[0])))

    def start_grid(self) -> Floats:
        """Start values (B, P): the product of the grids, zero for linear parameters."""
        return np.array(list(product(*((p.grid or (0.0,)) for p in self.parameters))))

    def vector(self, params: Mapping[str, float]) -> Floats:
        """Named parameters as theta (P,)."""
        return np.array([params[name] for name in self.names])

    def predict(self, params: Mapping[str, float], points: Points | Rows) -> Floats:
        """Loss in nats for each row, from parameters in the user's units."""
        rows = points.rows if isinstance(points, Points) else points
        loss_BR, _ = self.loss_and_gradient(self.vector(params)[None], rows)
        return np.asarray(loss_BR[0])


def columns(theta_BP: Floats) -> list[Floats]:
    """Each parameter as (B, 1), ready to meet rows."""
    return [theta_BP[:, index, None] for index in range(theta_BP.shape[1])]
