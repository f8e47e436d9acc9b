"""Hoffmann et al. 2022 (arXiv 2203.15556, eq. 2): L(N, D) = E + A / N^alpha + B / D^beta; with alpha = beta tied too
(Muennighoff et al. 2023, arXiv 2305.16264, appendix A)."""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns, exponent
from isoembed.laws.points import Floats, Rows


class Hoffmann(Law):
    """E + A / N^alpha + B / D^beta."""

    name = "hoffmann"
    about = "E + A/N^alpha + B/D^beta"
    varies = ("params", "tokens")
    parameters = (
        Parameter("E", 0.0),
        Parameter("A", 0.0),
        Parameter("B", 0.0),
        exponent("alpha", 0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
        exponent("beta", 0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        E, A, B, alpha, beta = columns(theta_BP)
        size = np.exp(-alpha * rows.log_params_R)
        data = np.exp(-beta * rows.log_tokens_R)
        by_alpha, by_beta = -A * rows.log_params_R * size, -B * rows.log_tokens_R * data
        return E + A * size + B * data, np.stack([np.ones_like(size), size, data, by_alpha, by_beta], axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        E, A, B, alpha, beta = theta_BP.T
        scale = np.exp(units.log_loss)
        A_user, B_user = A * np.exp(alpha * units.log_params), B * np.exp(beta * units.log_tokens)
        return np.stack([scale * E, scale * A_user, scale * B_user, alpha, beta], axis=1)

    def log_optimal_params(self, theta_BP: Floats, flop_F: Floats, flop_per_param_token: float) -> Floats:
        """N = G (C / k)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann eq. 4).

        A term that is zero drives N to 0 or to infinity: far beyond any bracket.
        """
        _, A, B, alpha, beta = columns(theta_BP)
        log_ratio = np.log(np.maximum(alpha * A, 1e-300)) - np.log(np.maximum(beta * B, 1e-300))
        return np.asarray((log_ratio + beta * np.log(flop_F / flop_per_param_token)) / (alpha + beta))


class Tied(Law):
    """E + A / N^alpha + B / D^alpha: four parameters, for tables too small to tell the exponents apart."""

    name = "tied"
    about = "E + A/N^alpha + B/D^alpha"
    varies = ("params", "tokens")
    parameters = (
        *Hoffmann.parameters[:3],
        exponent("alpha", 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        loss_BR, gradient_BPR = HOFFMANN.loss_and_gradient(_untied(theta_BP), rows)
        both = gradient_BPR[:, 3:4] + gradient_BPR[:, 4:5]
        return loss_BR, np.concatenate([gradient_BPR[:, :3], both], axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        return HOFFMANN.physical(_untied(theta_BP), units)[:, :4]

    def log_optimal_params(self, theta_BP: Floats, flop_F: Floats, flop_per_param_token: float) -> Floats:
        return HOFFMANN.log_optimal_params(_untied(theta_BP), flop_F, flop_per_param_token)


def _untied(theta_BP: Floats) -> Floats:
    return theta_BP[:, [0, 1, 2, 3, 3]]


HOFFMANN = Hoffmann()
TIED = Tied()
