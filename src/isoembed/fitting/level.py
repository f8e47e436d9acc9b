"""The level of a law on other pairs: many runs elsewhere give its shape, two or three on these pairs its height.

From one data set to another e^L - 1 changes by about one factor c, the same for every size, budget and method: between
the nano study's mixture and docstrings ln c is 1.51, 1.55 and 1.53 for three methods, which leaves .7 to 1.6 % of the
loss (docs/lab-notes/laws.md, 2026-11-28).

1. For each run r on the new pairs, and each draw b of its method's law: ln(e^L_r - 1) - ln(e^M_br - 1).
2. ln c_b is their mean over all runs and methods, weighted by what a run's noise in ln L is there, and off by a normal
   draw of its own standard error.
   Losses taken among fewer candidates than the law's are converted first (`isoembed.laws.candidates`).
3. The factor is not the same far from the budgets of these runs: on templated pairs it fell by 1 to 34 % at 4 to 16
   times them (docs/lab-notes/laws.md, 2026-11-28).  So runs of two budgets or more are asked for, and forecasts away
   from them are widened (`LEVEL_DRIFT` of `isoembed.fitting.drift`).
4. Runs that lie further around one level than their noise allows make the laws `biased`.

Shapes: B bootstrap samples, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isoembed.core import InputError, fingerprint
from isoembed.fitting.drift import LEVEL_DRIFT
from isoembed.fitting.fit import Fit
from isoembed.fitting.io.law_file import Draws, LawFile, LawSet
from isoembed.fitting.notes import FitNote, reason, remark
from isoembed.fitting.settings import Group, Settings
from isoembed.laws import law_named
from isoembed.laws.candidates import among
from isoembed.laws.levelled import Levelled
from isoembed.laws.odds import CANDIDATES
from isoembed.laws.points import Floats

#: fewer runs would not show whether they lie on one level
LEAST_RUNS = 2
#: the highest budget of the runs over the lowest, at least: one budget shows no change of shape
LEAST_RATIO = 2.0
#: root mean square around the level, in units of the noise, beyond which the laws are biased on these pairs
MISFIT = 3.0
#: in what alone runs on other pairs may differ from the law's own
_OF_DATA = ("heldout", "data")


def levelled(laws: LawSet, groups: Sequence[Group], source: str, *, least_ratio: float = LEAST_RATIO) -> LawSet:
    """`laws` at the level of the runs of `groups`, which some of their methods made on other pairs.

    Raises InputError where a law has no draws, or the runs differ from its own in more than their data.
    """
    pairs = [(_checked(laws, group), group) for group in groups]
    runs = sum(len(group.points) for _, group in pairs)
    if runs < LEAST_RUNS:
        raise InputError(f"The level on other pairs takes {LEAST_RUNS} runs or more; {source} has {runs}. Add runs.")
    flop_R = np.concatenate([group.points.flop for _, group in pairs])
    budgets = (float(flop_R.min()), float(flop_R.max()))
    if budgets[1] < least_ratio * budgets[0]:
        raise InputError(
            f"The level on other pairs takes runs at two budgets or more, {least_ratio:g} times apart, for it changes "
            f"with the budget; {source} has {budgets[0]:.3g} to {budgets[1]:.3g} FLOP. Add runs at another."
        )
    above = [_above(law, group) for law, group in pairs]
    above_BR = np.concatenate([above_BR for above_BR, _ in above], axis=1)
    weight_R = np.concatenate([noise_R for _, noise_R in above]) ** -2
    log_c_B = above_BR @ weight_R / weight_R.sum()
    misfit = math.sqrt((above_BR[0] - log_c_B[0]) ** 2 @ weight_R / (runs - 1))
    error = max(1.0, misfit) / math.sqrt(weight_R.sum())
    log_c_B[1:] += np.random.default_rng(0).normal(0.0, error, len(log_c_B) - 1)
    facts = (
        remark("level", runs=runs, source=source, law_source=pairs[0][0].source),
        remark("level-drift", low=budgets[0], high=budgets[1], drift=LEVEL_DRIFT),
    )
    update: dict[str, Any] = {"settings": _settings(laws.settings, groups[0].settings), "level_flop": budgets}
    reasons: tuple[FitNote, ...] = ()
    if misfit > MISFIT:
        update["status"] = "biased"
        reasons = (reason("other-shape", misfit=misfit),)
    seen = fingerprint([group.points.fingerprint for group in groups])
    return LawSet(
        laws=tuple(
            _at_level(law, log_c_B, seen, reasons).model_copy(
                update={**update, "source": f"{law.source} at the level of {source}", "facts": (*law.facts, *facts)}
            )
            for law in laws.laws
        )
    )


def _settings(law: Settings, there: Settings) -> Settings:
    """The law's own, with what is known of the new runs in place of it; the data are theirs in any case."""
    plain = Settings()
    known = {name: value for name, value in dict(there).items() if value != getattr(plain, name)}
    return law.model_copy(update={"target": None, "heldout": None, "data": None, "step_tokens": None, **known})


def _checked(laws: LawSet, group: Group) -> LawFile:
    """The law of the group's method; raises InputError where the two do not go together."""
    law = next((law for law in laws.laws if law.method == group.method), None)
    if law is None:
        known = ", ".join(str(law.method) for law in laws.laws)
        raise InputError(f"A level is that of laws' own methods, here {known}; got runs of {group.method}. Drop them.")
    differ = [str(each) for name, each in law.settings.differences(group.settings).items() if name not in _OF_DATA]
    if differ:
        raise InputError(f"Runs that set a law's level may differ from its own in data alone: {'; '.join(differ)}.")
    return law


def _above(law: LawFile, group: Group) -> tuple[Floats, Floats]:
    """(1 + B, R) how far runs lie above the fit and its draws in ln(e^L - 1), and (R,) the noise of one run there."""
    boot, points = law.bootstrap(), group.points
    expected_BR = np.concatenate([boot.law.predict(law.fit.params, points)[None], boot.loss(points)])
    loss_R, error = points.loss, 0.0
    most = law.fit.params.get(CANDIDATES)
    if points.candidates is not None and most is not None:
        loss_R, error = among(loss_R, points.candidates, round(most))
    slope_R = loss_R * np.exp(loss_R) / np.expm1(loss_R)
    return np.log(np.expm1(loss_R)) - np.log(np.expm1(expected_BR)), np.hypot(law.run_noise * slope_R, error)


def _at_level(law: LawFile, log_c_B: Floats, seen: str, reasons: tuple[FitNote, ...]) -> LawFile:
    """`law` with its curves moved; what its own runs alone told (alternatives, R*, outliers, checks) is left out."""
    assert law.draws is not None
    fit, draws = _moved(law.fit, law.draws, np.exp(log_c_B))
    fit = fit.model_copy(update={"facts": (*reasons, *fit.facts)})
    moved = law.model_copy(update={"law": fit.law, "fit": fit, "draws": draws, "range": fit.range, "alternatives": ()})
    # what was held out on the law's own pairs goes on telling of its shape
    holdout = {by: held.model_copy(update={"law": fit.law}) for by, held in law.holdout.items()}
    backtests = tuple(held.model_copy(update={"law": fit.law}) for held in law.backtests)
    return moved.model_copy(
        update={
            "params": moved.bootstrap().intervals(),
            "holdout": holdout,
            "backtests": backtests,
            "without_outliers": None,
            "outlier_rows": (),
            "repetition": None,
            "widths": (),
            "transfer_checks": (),
            "data_fingerprint": fingerprint([law.data_fingerprint, seen]),
        }
    )


def _moved(fit: Fit, draws: Draws, c_B: Floats) -> tuple[Fit, Draws]:
    """A fit and its draws with the factors c, the fit's own first; of one that has a level already the product."""
    form = law_named(fit.law)
    if not isinstance(form, Levelled):
        moved = Levelled(form)
        fit = fit.model_copy(update={"law": moved.name, "params": {**fit.params, "c": 1.0}})
        draws = draws.model_copy(update={"names": moved.names, "values": tuple((*row, 1.0) for row in draws.values)})
    low, high = np.log1p(c_B[0] * np.expm1(fit.range["loss"])).tolist()
    params = {**fit.params, "c": fit.params["c"] * float(c_B[0])}
    values = tuple((*row[:-1], row[-1] * c) for row, c in zip(draws.values, c_B[1:].tolist(), strict=True))
    fit = fit.model_copy(update={"params": params, "range": {**fit.range, "loss": (low, high)}})
    return fit, draws.model_copy(update={"values": values})
