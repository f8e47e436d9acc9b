"""A law at other batches and contexts: does it forecast runs there where D counts training steps (paper, appendix G)?

A run of s steps at another setting is forecast as one of s steps at the law's own, D' = s * T with T the law's real
tokens per step.  What that says is judged as a hold-out is (`validate`): the mean of ln(observed / forecast) must lie
where uncertainty about the law and the noise of single runs would put it.  The forecast with D in tokens stands beside
it and decides nothing.

Losses compare on one held-out set alone.  At another context its texts are the same and are cut elsewhere, as a user's
would be.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from isoembed.core import Frozen, InputError
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.notes import FitNote, Judged, remark, shares
from isoembed.fitting.settings import Settings
from isoembed.laws.points import Floats

#: two forecasts are distinguishable where they differ by more than so many standard deviations of two runs' difference
_DISTINGUISHABLE = 2.0


class Forecast(Frozen):
    """How well the law forecasts the runs under one count of D.  Errors are of ln loss: 0.01 is 1 %."""

    bias: Interval = Field(
        description="mean of ln(observed / forecast), and where it would fall if the law were right: its uncertainty, "
        "the runs' noise"
    )
    error: float = Field(description="root mean square of ln(observed / forecast)")
    inside: float = Field(description="share of runs inside their 95 % prediction intervals")
    ordered: float | None = Field(
        None, description="share in the right order of the pairs of runs that the law distinguishes; None without any"
    )

    @property
    def holds(self) -> bool:
        """Whether the bias lies where it would if the law were right."""
        low, high = self.bias.ends
        return self.bias.value is not None and low <= self.bias.value <= high


class TransferCheck(Judged):
    """One law at one other batch and context."""

    settings: Settings = Field(description="of the runs there")
    verdict: Literal["holds", "biased", "too-few-runs"] = Field(description="by the forecast in steps")
    n_runs: int
    steps: Forecast | None = Field(None, description="D' = steps x the law's tokens per step; None with too few runs")
    tokens: Forecast | None = Field(None, description="D in tokens as it stands, for comparison")
    beyond: float | None = Field(None, description="largest converted budget over the largest fitted one")
    source: str

    @property
    def place(self) -> tuple[int | None, int | None]:
        """Batch in pairs and context in tokens."""
        return self.settings.batch_pairs, self.settings.context_tokens

    @property
    def seen(self) -> FitNote:
        """What was seen."""
        known = {"runs": self.n_runs, "source": self.source}
        if self.steps is None or self.steps.bias.value is None:
            return remark("not-forecast-there", why=self.facts, **known)
        off, allowed = self.steps.bias.value, shares(self.steps.bias)
        return remark("forecast-there", off=off, allowed=allowed, error=self.steps.error, **known)


def tokens_to_law_units(law: Settings, step_tokens: float) -> float:
    """D' / D at a setting of `step_tokens` real tokens per step: what a token there is in the law's tokens.

    Raises InputError where the law does not say how many its own steps have.
    """
    if law.step_tokens is None:
        raise InputError(
            "D in steps needs to know the law's tokens per step, and this law was fitted before they were kept (or to "
            "a table); fit it again to its ledger."
        )
    return law.step_tokens / step_tokens


def comparable(law: Settings, there: Settings) -> None:
    """Raise InputError unless runs at `there` differ from the law's in batch and context alone, and steps can be
    counted."""
    if law.target != "heldout" or law.heldout is None:
        raise InputError(
            "A law is checked at another batch or context by held-out losses, which do not depend on either; this one "
            f"was fitted to {law.target or 'a table'}{' losses' if law.target else ''}. Fit it to a ledger's held-out "
            "losses."
        )
    tokens_to_law_units(law, 1.0)
    differs = law.differences(there)
    if "context_tokens" in differs:
        differs.pop("data", None)  # pairs cut elsewhere have another fingerprint
    words = [str(each) for name, each in differs.items() if name not in ("batch_pairs", "context_tokens")]
    if words:
        raise InputError(
            f"Runs that check a law may differ from its own in batch and context alone: {'; '.join(words)}. Run them "
            "on the same pairs with the same held-out set, or fit a law to them."
        )


def forecast(
    log_draw_BR: Floats, log_fit_R: Floats, log_seen_R: Floats, *, noise: float, run_noise_R: Floats, tail: float
) -> Forecast:
    """Judge forecasts of ln loss (of B draws and of the fit) against what was seen in R runs.

    noise: standard deviation of one run around the law, by which the bias is judged.
    run_noise_R: the same with the drift beyond the fitted budgets, which single runs' prediction intervals hold too.
    """
    error_R = log_seen_R - log_fit_R
    chance_BR = np.random.default_rng(0).normal(size=log_draw_BR.shape)
    bias_B = np.mean(noise * chance_BR - (log_draw_BR - log_fit_R), axis=1)
    ends = [percentile(None, run_B, tail).ends for run_B in (log_draw_BR + run_noise_R * chance_BR).T]
    first, second = np.triu_indices(len(error_R), 1)
    gap = log_fit_R[first] - log_fit_R[second]
    distinct = np.abs(gap) > _DISTINGUISHABLE * np.sqrt(2) * noise
    right = np.sign(gap) == np.sign(log_seen_R[first] - log_seen_R[second])
    return Forecast(
        bias=percentile(float(error_R.mean()), bias_B, tail),
        error=float(np.sqrt(np.mean(error_R**2))),
        inside=float(np.mean([low <= seen <= high for (low, high), seen in zip(ends, log_seen_R, strict=True)])),
        ordered=float(right[distinct].mean()) if distinct.any() else None,
    )
