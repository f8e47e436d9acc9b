"""Can a law file be what a fit to runs gives?  Asked on reading, because a file may be damaged or made by hand.

What a law forecasts inside its own runs tells: a loss near those that it was fitted to, and draws around it.

Shapes: B bootstrap samples, P parameters, R places inside the fitted range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from isoembed.families import FAMILIES
from isoembed.laws import law_named
from isoembed.laws.points import Floats, Rows
from isoembed.methods import Adapters

if TYPE_CHECKING:
    from isoembed.fitting.io.law_file import LawFile
    from isoembed.fitting.settings import Settings

#: N, D and C of no table of runs span more
_WIDEST = 1e12
#: the loss in the middle of the runs is at most so many times outside the losses that were fitted
_OFF = 2.0
#: fewer draws may by chance lie all on one side of the fit
_FEW = 20
#: share of the draws that may be no loss (zero, negative, infinite) inside the runs
_NO_LOSS = 0.25
#: of ln loss: no law leaves runs a factor of 20 apart
_NOISE = 3.0
#: C over 6 N D at most, or under it, of runs: in a ledger where little trains, with whole steps, with adapters larger
#: than their model; in a table, whose rows `isoembed.fitting.io.units` looked at; and where N or C counts token tables
_FROZEN, _ROUNDED, _ADAPTED, _TABLE_OFF, _COUNTS_OFF = 4.0, 1.5, 10.0, 110.0, 1e5
#: relative: rounding, and draws of runs without noise
_ROUNDING = 0.01


def unsound(law: LawFile) -> str | None:
    """Why `law` cannot be what a fit gives; None where nothing speaks against it."""
    with np.errstate(all="ignore"):
        return next(_complaints(law), None)


def _complaints(law: LawFile) -> Iterator[str]:
    if any(interval.value != law.fit.params[name] for name, interval in law.params.items()):
        yield "its parameters are not those of its fit"
    spans = [law.range[name] for name in ("params", "tokens", "flop")]
    if any(high / low > _WIDEST for low, high in spans):
        yield "its range is wider than runs are"
    if law.run_noise > _NOISE:
        yield f"one run's ln loss would be off by {law.run_noise:.3g}"
    rows = _places(law.range)
    draws = [] if law.draws is None else [(law.fit, law.draws)]
    for fit, drawn in [*draws, *((other.fit, other.draws) for other in law.alternatives)]:
        yield from _out_of_bounds(fit.law, np.array(drawn.values))
        if len(drawn.values) >= _FEW and fit.noise > _ROUNDING and len(set(drawn.values)) == 1:
            yield "its bootstrap samples (`draws`) are all the same, although its runs are noisy"
        loss_R, loss_BR = (
            law_named(fit.law).loss_and_gradient(theta_BP, rows)[0]
            for theta_BP in (law_named(fit.law).vector(fit.params)[None], np.array(drawn.values))
        )
        yield from _off_the_runs(loss_R[0], loss_BR, law.range.get("loss"))
    theta_P = law_named(law.law).vector(law.fit.params)
    yield from _out_of_bounds(law.law, theta_P[None])
    yield from _off_the_runs(
        law_named(law.law).loss_and_gradient(theta_P[None], rows)[0][0], None, law.range.get("loss")
    )
    yield from _contradictions(law)
    yield from _ranges_apart(law)
    yield from _steps_apart(law.settings, law.range["tokens"])


def _contradictions(law: LawFile) -> Iterator[str]:
    """What a law says twice, said in two ways."""
    fits = [law.fit, *(other.fit for other in law.alternatives)]
    if any(fit.range != law.range for fit in fits):
        yield "its range is not that of its fit"
    if any((fit.n_points, law.objective) != (law.n_points, law.fit.objective) for fit in fits):
        yield "its number of runs or its objective is not that of its fit"
    if law.status not in (law.fit.status, "biased"):
        yield f"its status is {law.status}, its fit's {law.fit.status}"
    if any((held.by, held.law, held.n_fitted + held.n_held) != (by, law.law, law.n_points)
           for by, held in law.holdout.items()):  # fmt: skip
        yield "a hold-out is not of its law and its runs"
    if law.draws is not None and law.draws.runs > law.n_points:
        yield f"its {law.draws.runs} runs are more than its {law.n_points} rows"
    if law.draws is not None and law.draws.names == tuple(law.params):
        lows, highs = (np.array(law.draws.values).min(axis=0), np.array(law.draws.values).max(axis=0))
        for low, high, (name, interval) in zip(lows, highs, law.params.items(), strict=True):
            if any(end is not None and not low <= end <= high for end in (interval.low, interval.high)):
                yield f"the interval of {name} is not that of its bootstrap samples"
    settings = law.settings
    if (settings.target == "heldout") != (settings.heldout is not None):
        yield f"its target is {settings.target}, its held-out set {settings.heldout}"
    names = {name for tested in law.tested_settings for name in (tested.method.name, tested.method.label, tested.label)}
    if names and law.method is not None and law.method not in names:
        yield f"its method is {law.method}, and its runs are of {', '.join(sorted(names))}"


def _ranges_apart(law: LawFile) -> Iterator[str]:
    """Sizes that no model of the family has, and ranges of N, D and C between which no runs lie whose C is near 6 N D:
    the runs at each end have an N, a D and a C."""
    if not {"params", "tokens"} <= set(law_named(law.law).varies):
        return  # ones stand in for what the law does not read
    settings = law.settings
    (n, N), (d, D), (c, C) = (law.range[name] for name in ("params", "tokens", "flop"))
    family = next((each for each in FAMILIES if settings.family and each.is_called(settings.family)), None)
    least, most = 1 / _TABLE_OFF, _TABLE_OFF
    if (settings.params, settings.flop) != ("params", "model_flop"):
        least, most = 1 / _COUNTS_OFF, _COUNTS_OFF
    elif family is not None and settings.target is not None:
        smallest = min(model.params / (2 * model.blocks) for model in family.models)  # a block alone
        if n < smallest or max(model.params for model in family.models) < N:
            yield f"its sizes of {n:g} to {N:g} parameters are none of the {family.name} family"
        least, most = 1 / _FROZEN, _ROUNDED
        if any(isinstance(tested.method, Adapters) for tested in law.tested_settings):
            most = _ADAPTED
    if any(flop > 6 * most * size for flop, size in ((C, N * D), (c, N * d), (c, n * D))) or any(
        flop < 6 * least * size for flop, size in ((C, n * D), (C, N * d), (c, n * d))
    ):
        yield "no runs of C = 6 N D lie between its ranges of N, D and C"


def _steps_apart(settings: Settings, tokens: tuple[float, float]) -> Iterator[str]:
    """Tokens of a step that its batch of texts cannot have, or that are more than a run's."""
    step, batch, context = settings.step_tokens, settings.batch_pairs, settings.context_tokens
    if step is None:
        return
    if batch is not None and context is not None:
        texts = batch * (3 + max(settings.negatives, 0))  # negatives are rounded
        if not 2 * batch <= step <= texts * context:
            yield f"a step of {batch} pairs cut to {context} tokens has no {step:g} tokens"
    if tokens[0] < step / _OFF:
        yield f"its shortest run of {tokens[0]:g} tokens has no step of {step:g}"


def _out_of_bounds(law: str, theta_BP: Floats) -> Iterator[str]:
    """A parameter outside the bounds of its law, which hold in working units: units, being positive, leave a sign as it
    is, and exponents, whose least is not zero, have none."""
    for parameter, value_B in zip(law_named(law).parameters, theta_BP.T, strict=True):
        low, high = parameter.low, np.inf if parameter.low == 0 else parameter.high
        slack = 1e-9 * abs(low) if np.isfinite(low) else 0.0
        if not (np.isfinite(value_B) & (value_B >= low - slack) & (value_B <= high * (1 + 1e-9))).all():
            yield f"{parameter.name} lies outside {low:g} to {high:g}, which the {law} law allows"


def _off_the_runs(loss_R: Floats, loss_BR: Floats | None, fitted: tuple[float, float] | None) -> Iterator[str]:
    """What a fit, and its draws, forecast at the places inside the runs; the first is their middle."""
    low, high = fitted or (0.0, np.inf)
    if not (np.isfinite(loss_R) & (loss_R > 0)).all() or not low / _OFF <= loss_R[0] <= _OFF * high:
        yield f"inside its own runs, whose losses are {low:.3g} to {high:.3g}, it forecasts {loss_R[0]:.3g}"
    if loss_BR is None:
        return
    lost_R = (~np.isfinite(loss_BR) | (loss_BR <= 0)).mean(axis=0)
    if (lost_R > _NO_LOSS).any():
        yield f"{lost_R.max():.0%} of its bootstrap samples forecast no loss inside its own runs"
    least_R, most_R = loss_BR.min(axis=0) * (1 - _ROUNDING), loss_BR.max(axis=0) * (1 + _ROUNDING)
    if len(loss_BR) >= _FEW and not ((least_R <= loss_R) & (loss_R <= most_R)).all():
        yield "its bootstrap samples do not lie around its fit"


def _places(spans: Mapping[str, tuple[float, float]]) -> Rows:
    """Places (N, D, C) inside the fitted ranges: the middle first, then those of the lowest, middle and highest budget
    on the smallest, middle and largest model."""
    N, D, C = (_three(*spans[name]) for name in ("params", "tokens", "flop"))
    per_token = C[1] / (N[1] * D[1])
    found = [(N[1], D[1], C[1])]
    for size, flop in product(N, C):
        tokens = flop / (per_token * size)
        if D[0] <= tokens <= D[2]:
            found.append((size, tokens, flop))
    log_N, log_D, log_C = np.log(np.array(found)).T
    share = float(np.mean(spans.get("fraction", (1.0, 1.0))))
    return Rows(log_N, log_D, log_C, np.full(len(found), 1.0 - share))


def _three(low: float, high: float) -> tuple[float, float, float]:
    """Both ends and what is in the middle between them, in logarithms."""
    return low, float(np.exp((np.log(low) + np.log(high)) / 2)), high
