"""From runs to a law with its uncertainty: fit, bootstrap, hold-outs, the second fit without outliers, rivals compared.

One law per method (corrections to the paper's set-up: what full fine-tuning teaches says nothing of LoRA).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoembed.core import InputError, number_of
from isoembed.fitting.bootstrap import Bootstrap, bootstrap
from isoembed.fitting.fit import Fit, Status, fit, outliers
from isoembed.fitting.holdout import By, Holdout, backtests, holdout
from isoembed.fitting.io.law_file import AlternativeLaw, LawFile, LawSet
from isoembed.fitting.io.runs import RunsSchema, read_runs
from isoembed.fitting.notes import FitNote, remark
from isoembed.fitting.repetition import RepeatedRuns, Repetition, measure
from isoembed.fitting.settings import Group
from isoembed.laws import COMPARED, law_named
from isoembed.laws.base import Law
from isoembed.laws.points import Points
from isoembed.notes import refusal_of
from isoembed.records import RunRecord

#: what `holdout` may say, and the hold-outs that it means
HOLDOUTS: dict[str, tuple[By, ...]] = {
    "largest": ("largest-size", "largest-budget"),
    "largest-size": ("largest-size",),
    "largest-budget": ("largest-budget",),
    "none": (),
}
#: a table whose columns have known names, of one method
PLAIN_SCHEMA = RunsSchema()

#: a held-out error up to so many times the least one (or the runs' noise) is not distinguishable from it: few runs are
#: held out
SAME_ERROR = 1.5
#: of a fit whose parameters the runs leave open
LOOSE: tuple[Status, ...] = ("weakly-identified", "too-few-points", "stuck")
#: rows that a law is fitted to at most, and rows that R* is measured on
MOST_ROWS, MOST_REPEATED = 10_000, 256
#: laws kept beside the best one
MOST_ALTERNATIVES = 2


def study_source(
    source: Path | Sequence[RunRecord],
    laws: Sequence[Law],
    schema: RunsSchema = PLAIN_SCHEMA,
    *,
    draws: int = 1000,
    delta: float | None = None,
    by: Sequence[By] = HOLDOUTS["largest"],
) -> LawSet:
    """A law for every method in `source`, read as `read_runs` does.

    A method whose runs allow no fit is left out and named in the notes; raises InputError where that leaves none.
    """
    groups = read_runs(source, laws, schema)
    name = source.name if isinstance(source, Path) else number_of(len(source), "record")
    found: list[LawFile] = []
    left_out: list[FitNote] = []
    for group in groups:
        try:
            found.append(study(laws, group, source=name, draws=draws, delta=delta, by=by))
        except InputError as error:
            if len(groups) == 1:
                raise
            left_out.append(remark("left-out", method=str(group.method), error=refusal_of(error)))
    if not found:
        raise InputError(left_out[0].describe())
    return LawSet(laws=tuple(law.with_facts(*left_out) for law in found))


def study(
    laws: Sequence[Law],
    group: Group,
    *,
    source: str,
    draws: int = 1000,
    delta: float | None = None,
    by: Sequence[By] = HOLDOUTS["largest"],
) -> LawFile:
    """The law of `laws` that forecasts the held-out runs of `group` best, fitted to all of them, with its rivals.

    Laws are ranked by the root mean square of their held-out errors, never by the objective.  The best is that of the
    least error, of those within `SAME_ERROR` of it: first come those whose parameters the fit to all runs identifies,
    among these those whose forecast is not biased.  The others are kept as alternatives with bootstrap samples of their
    own, `MOST_ALTERNATIVES` at most.  A single law is taken as it is.
    draws: number of bootstrap samples; 0 for none.
    Raises InputError where no law can be fitted.
    """
    if len(laws) > 1 and not by:
        raise InputError("Laws are compared on what is held out; give a `holdout` other than none, or one law.")
    group = _subsampled(_below_chance(laws, group))
    alike, others = _ranked(_tested(laws, group.points, by, delta))
    best, held, rivals = alike[0].law, alike[0].held, [*alike[1:], *others]
    points = group.points
    found = bootstrap(best, points, draws=draws, delta=delta) if draws else fit(best, points, delta=delta)
    fitted = found if not draws else found.fit  # type: ignore[union-attr] # `draws` says which
    out_R = outliers(best, points, fitted)  # type: ignore[arg-type]
    second = None
    if out_R.any() and not out_R.all():  # all, where so few runs are met exactly that there is no noise
        try:
            second = fit(best, points[~out_R], delta=delta)
        except InputError:
            second = None  # nothing is left that the law can be fitted to
    alternatives = _alternatives(best, alike[1:], points, found, delta) if isinstance(found, Bootstrap) else ()
    law_file = LawFile.of(
        found,
        group,
        source=source,
        holdouts=tuple(held),
        backtests=tuple(
            result
            for each in held
            if each.by == "largest-budget"
            for result in backtests(best, points, each, delta=delta)
        ),
        rivals=tuple(result for rival in rivals for result in rival.held),
        alternatives=alternatives,
        outlier_rows=tuple(np.array(group.rows)[out_R].tolist()),
        without_outliers=second,
    )
    law_file = _with_widths(law_file, group)
    if group.repeats is None:
        return law_file
    if "tokens" not in best.varies:
        return law_file.with_facts(remark("reads-no-tokens", law=best.name))
    return law_file.model_copy(update={"repetition": _repetition(law_file, best, found, group.repeats)})


def as_fitted(law_file: LawFile, group: Group) -> Group | None:
    """`group` as it was when `law_file` was fitted to it, some of its runs set aside perhaps; None where that was to
    others."""
    group = replace(group, facts=())
    for laws in ((), (law_named(law_file.law),), COMPARED):
        with suppress(InputError):
            fitted = _subsampled(_below_chance(laws, group) if laws else group)
            if fitted.points.fingerprint == law_file.data_fingerprint:
                return fitted
    return None


def _with_widths(law_file: LawFile, group: Group) -> LawFile:
    """The law with what other dimensions cost, where there were runs of them."""
    widths = tuple(each.measured(law_file.run_noise) for each in group.widths)
    facts = [
        remark("width", dimensions=each.dimensions, cost=each.cost, model=each.model, flop=each.flop, runs=each.runs)
        for each in widths
    ]
    return law_file.model_copy(update={"widths": widths}).with_facts(*facts) if widths else law_file


def _below_chance(laws: Sequence[Law], group: Group) -> Group:
    """`group` without the runs that one of `laws` cannot speak of, and how many these are: all laws see the same.
    Raises InputError where none is left."""
    keep_R = np.logical_and.reduce([law.applies(group.points) for law in laws])
    above = int(np.sum(group.points.loss >= np.log(group.points.candidates or np.inf)))
    if not above:
        return group
    known = {"runs": above, "candidates": group.points.candidates}
    if keep_R.all():
        return replace(group, facts=(*group.facts, remark("above-chance-kept", **known)))
    if not keep_R.any():
        law = next(each for each in laws if not each.applies(group.points).all())
        law.check(group.points)  # says what all runs have against them
    return replace(group.only(keep_R), facts=(*group.facts, remark("above-chance", **known)))


def _subsampled(group: Group) -> Group:
    """`group` with `MOST_ROWS` of its rows, and `MOST_REPEATED` of those that repeat, spread evenly over sizes, budgets
    and epochs, both ends of each kept: a law of a few parameters learns next to nothing from more."""
    points, repeats, facts = group.points, group.repeats, list(group.facts)
    if len(points) > MOST_ROWS:
        ends = [
            at(column)
            for column in (points.params, points.tokens, points.flop, points.loss)
            for at in (np.argmin, np.argmax)
        ]
        keep = np.unique(
            [*ends, *np.lexsort((points.flop, points.params))[_spread(len(points), MOST_ROWS - len(ends))]]
        )
        facts.append(remark("subsample", kept=len(keep), rows=len(points)))
        group = group.only(keep)
    if repeats is not None and len(repeats.points) > MOST_REPEATED:
        keep = np.argsort(repeats.epochs_R)[_spread(len(repeats.points), MOST_REPEATED)]
        facts.append(remark("subsample-repeated", kept=MOST_REPEATED, rows=len(repeats.points)))
        group = replace(group, repeats=repeats[keep])
    return replace(group, facts=tuple(facts))


def _spread(rows: int, most: int) -> NDArray[np.int64]:
    """`most` of `rows` indices at equal distances, the first and the last among them."""
    return np.linspace(0, rows - 1, most).round().astype(np.int64)


@dataclass(frozen=True)
class _HeldOutLaw:
    """A law and how it forecast what was held out."""

    law: Law
    held: list[Holdout]
    loose: bool = field(default=False, kw_only=True)  # by the fit; the bootstrap judges after

    @property
    def errors(self) -> list[float]:
        return [result.held_error for result in self.held if result.held_error is not None]

    @property
    def error(self) -> float:
        """Root mean square over the hold-outs; 0 where none was tested."""
        return float(np.sqrt(np.mean(np.square(self.errors)))) if self.errors else 0.0

    @property
    def biased(self) -> bool:
        return any(result.verdict == "biased" for result in self.held)


def _tested(laws: Sequence[Law], points: Points, by: Sequence[By], delta: float | None) -> list[_HeldOutLaw]:
    """Those of `laws` that can be fitted to `points`, with their hold-outs.  Raises the first law's reason where none
    can."""
    tested: list[_HeldOutLaw] = []
    reasons: list[InputError] = []
    for law in laws:
        try:
            law.check(points)
        except InputError as error:
            reasons.append(error)
            continue
        loose = len(laws) > 1 and fit(law, points, delta=delta).status in LOOSE
        tested.append(_HeldOutLaw(law, [holdout(law, points, each, delta=delta) for each in by], loose=loose))
    if not tested:
        raise reasons[0]
    return tested


def _ranked(tested: Sequence[_HeldOutLaw]) -> tuple[list[_HeldOutLaw], list[_HeldOutLaw]]:
    """The best law with those that are not distinguishable from it, and the others; most hold-outs tested first, then
    the least error.  Among the alike come first those whose parameters the fit identifies, then unbiased forecasts;
    beyond them bias would prefer laws that know nothing."""
    order = sorted(tested, key=lambda each: (-len(each.errors), each.error))
    best = order[0]
    noise = max((result.in_range_error or 0.0 for result in best.held), default=0.0)
    allowed = SAME_ERROR * max(best.error, noise)
    alike = [each for each in order if len(each.errors) == len(best.errors) and each.error <= allowed]
    others = [each for each in order if each not in alike]
    first = min(alike, key=lambda each: (each.loose, each.biased))  # of equals the first: the least error
    return [first, *(each for each in alike if each is not first)], others


def _alternatives(
    best: Law, alike: Sequence[_HeldOutLaw], points: Points, boot: Bootstrap, delta: float | None
) -> tuple[AlternativeLaw, ...]:
    """The laws that are not distinguishable from the best one, bootstrapped as it was; not those of other columns, nor
    those that are blind to shares that it distinguishes."""
    found: list[AlternativeLaw] = []
    shares = points.distinct("fraction") > 1
    for each in alike:
        blind = each.law.varies != best.varies or (shares and each.law.also_reads != best.also_reads)
        if blind or not each.errors or len(found) == MOST_ALTERNATIVES:
            continue
        try:
            drawn = bootstrap(each.law, points, draws=len(boot.theta_BP), delta=delta)
        except InputError:
            continue  # some resamples allow no fit of so many parameters
        if drawn.fit.status not in ("stuck", "too-few-points"):
            found.append(AlternativeLaw.of(drawn, each.error))
    return tuple(found)


def _repetition(law_file: LawFile, law: Law, found: Fit | Bootstrap, repeats: RepeatedRuns) -> Repetition:
    """R* over the draws that there are."""
    theta_BP, tail = law.vector(law_file.fit.params)[None], None
    if isinstance(found, Bootstrap):
        theta_BP, tail = np.concatenate([theta_BP, found.theta_BP]), found.tail
    return measure(law, theta_BP, repeats, noise=law_file.fit.noise, seed_sd=law_file.seed_sd, tail=tail)
