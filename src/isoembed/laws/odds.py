"""Laws of a contrastive loss, which chance bounds: InfoNCE among K candidates starts at ln K.

A softmax over K candidates that gives the right one the probability e^-L leaves (e^L - 1) / (K - 1) = z of what chance
leaves.  A form f of the odds w = z / (1 - z) = (e^L - 1) / (K - e^L) in place of the loss gives

    L = ln(1 + K f) - ln(1 + f) <= ln K

which is straight in ln w where the loss itself bends towards chance.  Residuals stay those of ln L, so that noise,
intervals and hold-outs mean what they mean for every law; in ln w a run then weighs about (1 - z)^2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isoembed.core import InputError
from isoembed.laws.base import Law, Parameter
from isoembed.laws.link import Link
from isoembed.laws.points import Floats, Points, Rows
from isoembed.notes import refusal

#: the parameter that carries K, always held: a law file says for itself among how many its loss was taken
CANDIDATES = "K"


class Odds(Link):
    """`form` as a law of the odds; K, the candidates of a query, is held at what the points say."""

    own_units = True

    def __init__(self, form: Law) -> None:
        about = f"ln(1 + K f) - ln(1 + f), f = {form.about}"
        super().__init__(form, f"{form.name}-odds", about, Parameter(CANDIDATES, 2.0, 2.0**53, (1024.0,)))

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        odds_BR, gradient_BPR = self.form.loss_and_gradient(theta_BP[:, :-1], rows)
        K = theta_BP[:, -1:]
        odds_BR = np.maximum(odds_BR, -0.5 / K)  # below zero the loss is: no step is accepted there
        slope_BR = K / (1.0 + K * odds_BR) - 1.0 / (1.0 + odds_BR)
        by_K = odds_BR / (1.0 + K * odds_BR)
        return (
            np.log1p(K * odds_BR) - np.log1p(odds_BR),
            np.concatenate([gradient_BPR * slope_BR[:, None], by_K[:, None]], axis=1),
        )

    def level(self, theta_BP: Floats, rows: Rows, loss_R: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        odds_BR, gradient_BPR = self.form.loss_and_gradient(theta_BP[:, :-1], rows)
        K = theta_BP[:, -1:]
        target_BR = np.expm1(loss_R) / (K - np.exp(loss_R))
        slope_BR = K / (1.0 + K * target_BR) - 1.0 / (1.0 + target_BR)
        return odds_BR, np.concatenate([gradient_BPR, 0.0 * odds_BR[:, None]], axis=1), target_BR, slope_BR

    def held(self, points: Points) -> dict[str, float]:
        return self.form.held(points) | {CANDIDATES: _candidates(points)}

    def applies(self, points: Points) -> NDArray[np.bool_]:
        """Runs whose loss is below ln K: others have learnt nothing, and have no odds."""
        return np.asarray(points.loss < np.log(points.candidates or np.inf))

    def check(self, points: Points) -> None:
        chance = float(np.log(_candidates(points)))
        if above := int(np.sum(points.loss >= chance)):
            known = {"law": self.name, "candidates": _candidates(points), "chance": chance, "rows": len(points)}
            raise InputError(refusal("above-chance", above=above, **known))
        super().check(points)


def _candidates(points: Points) -> float:
    """K of the points' loss; raises InputError where nobody said."""
    if points.candidates is None:
        raise InputError(
            "An odds law needs to know among how many candidates the loss was taken; a table does not say: give "
            "`candidates`."
        )
    return float(points.candidates)
