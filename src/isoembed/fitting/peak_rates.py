"""The peak learning rates of a law's runs, as a rule for the recipes that it names: its forecasts are of runs that are
trained as those were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from isoembed.core import Frozen
from isoembed.families import FAMILIES
from isoembed.families.base import BORROWED_RATES, Family, RateLaw, RateRule
from isoembed.methods import Adapters
from isoembed.recipe import Recipe

#: root mean square of ln(rate / rule) up to which rates are a rule's: the last digits
_EXACT = 0.02
#: a family's own rules are kept where they are not so many times as far off as those through the runs
_AS_GOOD = 1.25


class PeakRate(Frozen):
    """The rule of the peak rates at which the runs of one method were trained."""

    method: str
    law: RateLaw
    noise: float = Field(ge=0, description="root mean square of ln(rate / rule)")
    runs: int
    alpha: float | None = Field(None, description="that adapters of all runs had")
    scale: float | None = Field(None, description="alpha / rank, where all adapters had one scale and not one alpha")

    @property
    def rule(self) -> RateRule:
        """For a family."""
        off = "" if self.noise < _EXACT else f", within {self.noise:.0%} of them in the mean"
        source = f"rule in N, steps and trained share through the rates of the law's own {self.runs} runs{off}"
        return RateRule(method=self.method, law=self.law, alpha=self.alpha, scale=self.scale, source=source)


def rate_law(
    params: Sequence[int], steps: Sequence[int], share: Sequence[float], rate: Sequence[float]
) -> tuple[RateLaw, float]:
    """The rule through rates, by least squares of their logarithms, and the root mean square of what it leaves.  The
    power of a feature that does not vary is zero."""
    feature = np.log(np.column_stack([params, steps, share]).astype(float))
    target = np.log(np.asarray(rate, float))
    varies = np.ptp(feature, axis=0) > 1e-9
    design = np.column_stack([np.ones(len(target)), feature[:, varies]])
    solved = np.linalg.lstsq(design, target, rcond=None)[0]
    powers = np.zeros(3)
    powers[varies] = solved[1:]
    law = RateLaw(constant=solved[0], params=powers[0], steps=powers[1], share=powers[2])
    return law, float(np.sqrt(np.mean((design @ solved - target) ** 2)))


def peak_rates(recipes: Sequence[Recipe]) -> dict[str, PeakRate]:
    """By method, the rule through the rates of these runs; none of a method whose family's own rule is as near."""
    by_method: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_method.setdefault(recipe.method.name, []).append(recipe)
    found = {}
    for method, runs in by_method.items():
        law, noise = rate_law(
            [run.model.params for run in runs],
            [run.steps for run in runs],
            [run.method.share(run.model) for run in runs],
            [run.learning_rate for run in runs],
        )
        if _off(_family(runs[0]), runs) <= max(_EXACT, _AS_GOOD * noise):
            continue
        adapters = [run.method for run in runs if isinstance(run.method, Adapters)]
        alphas, scales = {each.alpha for each in adapters}, {each.scale for each in adapters}
        alpha = alphas.pop() if len(alphas) == 1 else None
        scale = scales.pop() if len(scales) == 1 and alpha is None else None
        found[method] = PeakRate(method=method, law=law, noise=noise, runs=len(runs), alpha=alpha, scale=scale)
    return found


def _off(family: Family, runs: Sequence[Recipe]) -> float:
    """Root mean square of ln(rate / what the family's own rule says)."""
    own = [family.peak_rate(run.model, run.method, steps=run.steps)[0] for run in runs]
    return math.sqrt(
        sum(math.log(run.learning_rate / rate) ** 2 for run, rate in zip(runs, own, strict=True)) / len(runs)
    )


def _family(recipe: Recipe) -> Family:
    """The built-in family of the recipe's model, of cuts too; else one with borrowed rates, as `family_of` gives."""
    name = (recipe.family or "").removesuffix("@")
    built_in = (family for family in FAMILIES if family.is_called(name) or any(m.name == name for m in family.models))
    other = Family(name="custom", models=(recipe.model,), rates=BORROWED_RATES, about="")
    return next(built_in, other)
