"""The rectified law of fine-tuning one model, Lin et al. 2024 (arXiv 2402.02314): L(D) = E + B / (D_l + D^beta).

D_l is what pretraining already knew of the task: below it more data hardly help yet, above it the loss is a power.
"""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.points import Floats, Points, Rows


class Rectified(Law):
    """E + B / (D_l + D^beta), of one model: N does not enter."""

    name = "rectified"
    about = "E + B/(D_l + D^beta), one model"
    varies = ("tokens",)
    parameters = (
        Parameter("E", 0.0),
        Parameter("B", 0.0),
        Parameter("D_l", 0.0, 1e6, (0.0, 0.1, 1.0, 10.0)),
        exponent("beta", 0.1, 0.3, 0.6, 1.0, 1.6),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        E, B, D_l, beta = columns(theta_BP)
        power = np.exp(beta * rows.log_tokens_R)
        data = 1.0 / (D_l + power)
        by_known = -B * data**2
        by_beta = by_known * power * rows.log_tokens_R
        return E + B * data, np.stack([np.ones_like(data), data, by_known, by_beta], axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        E, B, D_l, beta = theta_BP.T
        unit, scale = np.exp(beta * units.log_tokens), np.exp(units.log_loss)
        return np.stack([scale * E, scale * B * unit, D_l * unit, beta], axis=1)

    def held(self, points: Points) -> dict[str, float]:
        """Three token counts cannot tell D_l from a steeper or flatter power: it is held at zero."""
        return {"D_l": 0.0} if points.distinct("tokens") < 4 else {}


RECTIFIED = Rectified()
