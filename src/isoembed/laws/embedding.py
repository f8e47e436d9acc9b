"""The law of the paper (Ziarko et al. 2024, section 4.3):

    L(S, N, D) = C + (a_d ln D + b_d) / N^alpha + (a_s (1 - S)^b_s + c_s) / D^beta

with S the trainable share of the parameters.  Eight parameters, fitted to one method at a time.  0^b_s is 0, so that
full fine-tuning (S = 1) reads C + (a_d ln D + b_d) / N^alpha + c_s / D^beta.
"""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.points import Floats, Points, Rows

#: exponent of 1 - S: positive, so that 0^b_s = 0
SHARE_EXPONENT = Parameter("b_s", 0.05, 8.0, (0.3, 1.0, 3.0))


def share_power(frozen_share_R: Floats, b_s: Floats) -> tuple[Floats, Floats]:
    """(1 - S)^b_s (B, R) and its derivative by b_s, both 0 at S = 1 (0^b = 0 for b > 0)."""
    log_R = np.log(np.where(frozen_share_R > 0, frozen_share_R, 1.0))
    power = np.where(frozen_share_R > 0, np.exp(b_s * log_R), 0.0)
    return power, power * log_R


def held_share(points: Points) -> dict[str, float]:
    """What the shares at hand cannot identify: with one S the sum a_s (1 - S)^b_s + c_s is one number, with two S it
    is a line."""
    shares = points.distinct("fraction")
    return {"a_s": 0.0, "b_s": 1.0} if shares == 1 else {"b_s": 1.0} if shares == 2 else {}


class Embedding(Law):
    """C + (a_d ln D + b_d) / N^alpha + (a_s (1 - S)^b_s + c_s) / D^beta."""

    name = "embedding"
    about = "C + (a_d ln D + b_d)/N^alpha + (a_s (1-S)^b_s + c_s)/D^beta"
    varies = ("params", "tokens")
    also_reads = ("fraction",)
    parameters = (
        Parameter("C", 0.0),
        Parameter("a_d"),
        Parameter("b_d"),
        Parameter("a_s"),
        Parameter("c_s"),
        exponent("alpha", 0.1, 0.3, 0.6, 1.0),
        exponent("beta", 0.1, 0.3, 0.6, 1.0),
        SHARE_EXPONENT,
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        C, a_d, b_d, a_s, c_s, alpha, beta, b_s = columns(theta_BP)
        size = np.exp(-alpha * rows.log_params_R)
        data = np.exp(-beta * rows.log_tokens_R)
        share, by_share = share_power(rows.frozen_share_R, b_s)
        size_term = (a_d * rows.log_tokens_R + b_d) * size
        data_term = (a_s * share + c_s) * data
        gradient = [
            np.ones_like(size),
            rows.log_tokens_R * size,
            size,
            share * data,
            data,
            -rows.log_params_R * size_term,
            -rows.log_tokens_R * data_term,
            a_s * by_share * data,
        ]
        return C + size_term + data_term, np.stack(gradient, axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        C, a_d, b_d, a_s, c_s, alpha, beta, b_s = theta_BP.T
        scale = np.exp(units.log_loss)
        size, data = scale * np.exp(alpha * units.log_params), scale * np.exp(beta * units.log_tokens)
        b_user = size * (b_d - a_d * units.log_tokens)
        return np.stack([scale * C, size * a_d, b_user, data * a_s, data * c_s, alpha, beta, b_s], axis=1)

    def held(self, points: Points) -> dict[str, float]:
        return held_share(points)


EMBEDDING = Embedding()
