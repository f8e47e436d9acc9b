"""The power line of a method's frontier: ln L = a + b ln C (Ziarko et al. 2024, figure 1)."""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units, columns
from isoembed.laws.points import Floats, Rows


class Power(Law):
    """exp(a) C^b, for the best loss at each budget."""

    name = "power"
    about = "ln L = a + b ln C"
    varies = ("flop",)
    parameters = (
        Parameter("a", grid=(0.0, 0.2)),
        Parameter("b", -2.0, 2.0, grid=(-0.4, -0.1, 0.0)),
    )

    def loss_and_gradient(self, theta_BP: Floats, rows: Rows) -> tuple[Floats, Floats]:
        a, b = columns(theta_BP)
        loss_BR = np.exp(a + b * rows.log_flop_R)
        return loss_BR, np.stack([loss_BR, loss_BR * rows.log_flop_R], axis=1)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        a, b = theta_BP.T
        return np.stack([a - b * units.log_flop + units.log_loss, b], axis=1)


POWER = Power()
