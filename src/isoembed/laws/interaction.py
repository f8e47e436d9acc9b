"""A law in which size changes what a token is worth: L = E + A / (N^a S^s) + B / (N^g S^t D^b).

Hoffmann's law with the data term divided by N^g S^t, S the trained share: a larger model, or more of it trained, learns
more from the same tokens where g and t are positive.  Measured on the nano study (`benchmarks/law_backtest.py`), where
b is near .55 and g near .2 for three of four methods once the loss is linked to chance (`isoembed.laws.odds`).
"""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.points import Floats, Points, Rows

#: how much of ln S a line in ln N may explain before S says nothing of its own
_SAME_AS_SIZE = 0.98
#: without A its exponents mean nothing
_NO_SIZE_TERM = {"A": 0.0, "a": 0.3, "s": 0.0}


class Interaction(Law):
    """E + A / (N^a S^s) + B / (N^g S^t D^b)."""

    name = "interaction"
    about = "E + A/(N^a S^s) + B/(N^g S^t D^b)"
    varies = ("params", "tokens")
    also_reads = ("fraction",)
    may_lack = ({"E": 0.0}, _NO_SIZE_TERM, {"E": 0.0, **_NO_SIZE_TERM})
    parameters = (
        Parameter("E", 0.0),
        Parameter("A", 0.0),
        Parameter("B", 0.0),
        exponent("a", 0.1, 0.3, 0.6, 1.0),
        exponent("b", 0.2, 0.4, 0.6, 1.0),
        Parameter("g", -1.0, 2.0, (0.0, 0.2, 0.5)),
        Parameter("s", -1.0, 2.0, (0.0,)),
        Parameter("t", -1.0, 2.0, (0.0,)),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        E, A, B, a, b, g, s, t = columns(theta_BP)
        log_share_R = np.log(np.maximum(1.0 - rows.frozen_share_R, 1e-12))
        size = A * np.exp(-a * rows.log_params_R - s * log_share_R)
        data = B * np.exp(-b * rows.log_tokens_R - g * rows.log_params_R - t * log_share_R)
        one = np.ones_like(data)
        gradient = [
            one,
            one * np.exp(-a * rows.log_params_R - s * log_share_R),
            np.exp(-b * rows.log_tokens_R - g * rows.log_params_R - t * log_share_R),
            -rows.log_params_R * size * one,
            -rows.log_tokens_R * data,
            -rows.log_params_R * data,
            -log_share_R * size * one,
            -log_share_R * data,
        ]
        return E + size + data, np.stack(gradient, axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        E, A, B, a, b, g, s, t = theta_BP.T
        scale = np.exp(units.log_loss)
        A_user = scale * A * np.exp(a * units.log_params)
        B_user = scale * B * np.exp(b * units.log_tokens + g * units.log_params)
        return np.stack([scale * E, A_user, B_user, a, b, g, s, t], axis=1)

    def held(self, points: Points) -> dict[str, float]:
        """s and t at 0 where the share is one number, or follows from the size (bias vectors are a share of N that N
        gives)."""
        log_share_R, log_params_R = np.log(np.maximum(points.fraction, 1e-12)), np.log(points.params)
        if points.distinct("fraction") == 1:
            return {"s": 0.0, "t": 0.0}
        explained = np.corrcoef(log_share_R, log_params_R)[0, 1] ** 2 if points.distinct("params") > 1 else 0.0
        return {"s": 0.0, "t": 0.0} if explained > _SAME_AS_SIZE else {}


INTERACTION = Interaction()
