"""Frantar et al. 2023 (arXiv 2309.08520, eq. 1): L(S, N, D) = E + (a_s (1 - S)^b_s + c_s) / N^alpha + B / D^beta.

With S the sparsity and N the non-zero parameters: the form that the paper's own law comes from, here as its rival.
"""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.embedding import SHARE_EXPONENT, held_share, share_power
from isoembed.laws.points import Floats, Points, Rows


class Frantar(Law):
    """E + (a_s (1 - S)^b_s + c_s) / N^alpha + B / D^beta."""

    name = "frantar"
    about = "E + (a_s (1-S)^b_s + c_s)/N^alpha + B/D^beta"
    varies = ("params", "tokens")
    also_reads = ("fraction",)
    parameters = (
        Parameter("E", 0.0),
        Parameter("a_s"),
        Parameter("c_s"),
        Parameter("B", 0.0),
        exponent("alpha", 0.1, 0.3, 0.6, 1.0),
        exponent("beta", 0.1, 0.3, 0.6, 1.0),
        SHARE_EXPONENT,
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        E, a_s, c_s, B, alpha, beta, b_s = columns(theta_BP)
        size = np.exp(-alpha * rows.log_params_R)
        data = np.exp(-beta * rows.log_tokens_R)
        share, by_share = share_power(rows.frozen_share_R, b_s)
        size_term = (a_s * share + c_s) * size
        gradient = [
            np.ones_like(size),
            share * size,
            size,
            data,
            -rows.log_params_R * size_term,
            -rows.log_tokens_R * B * data,
            a_s * by_share * size,
        ]
        return E + size_term + B * data, np.stack(gradient, axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        E, a_s, c_s, B, alpha, beta, b_s = theta_BP.T
        scale = np.exp(units.log_loss)
        size, data = scale * np.exp(alpha * units.log_params), scale * np.exp(beta * units.log_tokens)
        return np.stack([scale * E, size * a_s, size * c_s, data * B, alpha, beta, b_s], axis=1)

    def held(self, points: Points) -> dict[str, float]:
        return held_share(points)


FRANTAR = Frantar()
