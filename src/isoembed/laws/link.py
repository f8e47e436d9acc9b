"""A law behind a link: the loss as a rising function of what another law gives, with one parameter of its own."""

from __future__ import annotations

import numpy as np

from isoembed.laws.base import Law, Parameter, Units
from isoembed.laws.points import Floats


class Link(Law):
    """`form` behind a link whose parameter comes last.  As the loss rises with the form, optima are the form's own."""

    def __init__(self, form: Law, name: str, about: str, parameter: Parameter) -> None:
        self.form, self.name, self.about = form, name, about
        self.varies, self.also_reads, self.may_lack = form.varies, form.also_reads, form.may_lack
        self.parameters = (*form.parameters, parameter)

    def physical(self, theta_BP: Floats, units: Units) -> Floats:
        return np.concatenate([self.form.physical(theta_BP[:, :-1], units), theta_BP[:, -1:]], axis=1)

    def log_optimal_params(self, theta_BP: Floats, flop_F: Floats, flop_per_param_token: float) -> Floats | None:
        return self.form.log_optimal_params(theta_BP[:, :-1], flop_F, flop_per_param_token)
