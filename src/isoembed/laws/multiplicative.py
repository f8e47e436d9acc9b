"""The multiplicative law of fine-tuning, Zhang et al. 2024 (arXiv 2402.17193, eq. 1):

    L(N, D) = E + A / (N^alpha D^beta)

It has no compute optimum: along C = k N D the loss falls to one edge or the other.
"""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.points import Floats, Rows


class Multiplicative(Law):
    """E + A / (N^alpha D^beta)."""

    name = "multiplicative"
    about = "E + A/(N^alpha * D^beta)"
    varies = ("params", "tokens")
    parameters = (
        Parameter("E", 0.0),
        Parameter("A", 0.0),
        exponent("alpha", 0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
        exponent("beta", 0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        E, A, alpha, beta = columns(theta_BP)
        both = np.exp(-alpha * rows.log_params_R - beta * rows.log_tokens_R)
        by_alpha, by_beta = -A * rows.log_params_R * both, -A * rows.log_tokens_R * both
        return E + A * both, np.stack([np.ones_like(both), both, by_alpha, by_beta], axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        E, A, alpha, beta = theta_BP.T
        scale = np.exp(units.log_loss)
        A_user = A * np.exp(alpha * units.log_params + beta * units.log_tokens)
        return np.stack([scale * E, scale * A_user, alpha, beta], axis=1)


MULTIPLICATIVE = Multiplicative()
