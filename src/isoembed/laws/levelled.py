"""A law on other pairs than its runs had: L = ln(1 + c (e^M - 1)), M the loss that the law itself expects.

e^L - 1 is what the softmax leaves over what it gives the right one; from one data set to another it changes by about
one factor c (`isoembed.fitting.level`, which measures it).  Sizes and budgets keep their order, so that optima stay.
"""

from __future__ import annotations

import numpy as np

from isoembed.core import InputError
from isoembed.laws.base import Law, Parameter
from isoembed.laws.link import Link
from isoembed.laws.points import Floats, Points, Rows

#: a form's loss beyond any run's, at the ends of the sizes among which an optimum is searched: e^M stays a number
MOST_LOSS = 500.0


class Levelled(Link):
    """`form` with the factor c; it is moved there and never fitted."""

    def __init__(self, form: Law) -> None:
        about = f"ln(1 + c (e^M - 1)), M = {form.about}"
        super().__init__(form, f"{form.name}-level", about, Parameter("c", 0.0, np.inf, (1.0,)))
        self.own_units = form.own_units

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        loss_BR, gradient_BPR = self.form.loss_and_gradient(theta_BP[:, :-1], rows)
        c = theta_BP[:, -1:]
        left_BR = np.maximum(np.expm1(np.minimum(loss_BR, MOST_LOSS)), -0.5 / c)  # below zero the loss is there
        slope_BR = c * (1.0 + left_BR) / (1.0 + c * left_BR)
        by_c = left_BR / (1.0 + c * left_BR)
        return (
            np.log1p(c * left_BR),
            np.concatenate([gradient_BPR * slope_BR[:, None], by_c[:, None]], axis=1),
        )

    def held(self, points: Points) -> dict[str, float]:
        return self.form.held(points) | {"c": 1.0}

    def check(self, points: Points) -> None:
        raise InputError(
            f"`law` must be one that is fitted: {self.name} is {self.form.name} moved to other pairs; fit "
            f"{self.form.name}, or take `level_from`."
        )
