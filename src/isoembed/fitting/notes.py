"""What a fit, the runs behind it and its checks gave to notice, as facts; their sentences stand here alone."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field

from isoembed.fitting.intervals import Interval
from isoembed.notes import Note, Noted

#: why a status or verdict is not good; what was held; what was seen of the runs and of the law's file
FitNoteKind = Literal["reason", "held", "remark"]

_OUTSIDE = "outside what uncertainty and noise allow ({allowed})"
_NO_SIZE = "its law has no N"

_SENTENCES: dict[str, tuple[str, ...]] = {
    # why a fit is not good
    "stuck": ("the solver stopped before a minimum", "no parameter value here is an answer"),
    "few-starts": ("only {share:.0%} of {starts} starts reach the lowest objective",),
    "far-off": ("the runs lie {error:.1%} around the law, root mean square; {most:.0%} is the most",),
    "far-off-for-seeds": ("the runs lie {error:.1%} around the law, {times:.0f} times what seeds lie apart",),
    "few-settings": (
        "{settings} different settings for {parameters} parameters",
        "{least} are the least to show a misfit",
    ),
    "at-bound": ("{parameter} stands at the {edge} value allowed",),
    "few-values": ("{values} values of {column} cannot tell a power from its constant",),
    "flat": ("some combination of parameters does not change the predictions at all",),
    "exponent-near-zero": ("{parameter} = {value:.3g} is not distinguishable from zero",),
    "loose": ("{parameter} = {interval} is known no better than to its own size",),
    "other-shape": ("these runs lie {misfit:.1f} times their noise around one level", "the shape is another there"),
    # what was held
    "zero": (
        "{zeros:and} held at 0",
        "not distinguishable from zero (AICc {change:+.1f|-inf} without, by {runs} runs)",
    ),
    "zero-with": (
        "{zeros:and} held at 0, and with it {others:and}",
        "not distinguishable from zero (AICc {change:+.1f|-inf} without, by {runs} runs)",
    ),
    # why a forecast of held-out runs, or of runs elsewhere, is not good
    "nothing-left": ("nothing is left to fit",),
    "not-fitted": ("{error}",),
    "biased": ("the {largest} lies {off:.1%} {side} the forecast, " + _OUTSIDE,),
    "biased-there": ("the runs lie {off:.1%} {side} the forecast in steps, " + _OUTSIDE,),
    "too-few-there": ("{runs:@different run}, {least} say something",),
    # why a curve of one budget has no lowest point
    "few-sizes": ("{sizes} sizes; {how} needs {least}",),
    "bends-down": ("the curve bends down", "more sizes or more seeds are needed"),
    "edge": ("the lowest loss stands at the edge of the sizes tested", "add {side} models at this budget"),
    # runs left out or set aside
    "damaged": ("{records} damaged records left out",),
    "early": ("{runs:@run} that ended early, or keep the weights of an earlier step, left out",),
    "variations": ("{runs:@run} of another pooling or other options left out",),
    "width": ("{dimensions} dimensions by a learned projection", "{cost}, on {model} at {flop:.3g} FLOP, {runs:@run}"),
    "worse-rates": ("{runs:@run} at worse learning rates of the same recipe left out",),
    "failed": ("{rows:@row} of failed runs or without a loss set aside",),
    "no-method": ("{runs:@run} without a {column} left out",),
    "repeated": ("{runs:@run} with repeated data kept apart",),
    "repeated-alone": (
        "{runs:@run} with repeated data kept apart, {alone} of them without a single-epoch run of the same recipe",
    ),
    "above-chance": ("{runs:@run} at or above chance, ln {candidates}, set aside",),
    "above-chance-kept": (
        "{runs:@run} at or above chance, ln {candidates}, kept",
        "the law does not know chance, one of the odds does",
    ),
    "subsample": ("fitted to {kept:,} of {rows:,} rows, spread evenly over N and C; intervals are of these",),
    "subsample-repeated": ("R* from {kept:,} of {rows:,} rows that repeat, spread evenly over epochs",),
    "far-above": ("{runs} pilot runs far above the envelope left out",),
    "left-out": ("{method} left out", "{error}"),
    "no-size": ("{law} left out of forecasts", _NO_SIZE),
    "sizeless": (_NO_SIZE,),
    "reads-no-tokens": ("the {law} law reads no D", "what repeated data are worth is not measured"),
    # columns of a table
    "flop-broken": ("{column} is no positive number in {rows:,} rows, as row {row}", "not compared with 6 N D"),
    "flop-odd": ("{column} is {ratio:.2g} times 6 N D (the rows' median)", "are all of the same units?"),
    "small": (
        "{letter} of {low:g} to {high:g} is few {unit}",
        "the law is in the table's own unit, recipes count {unit}",
    ),
    "perplexity": ("a loss of {low:g} to {high:g} looks like a perplexity", "its logarithm is in nats"),
    "score": ("the loss rises with N D", "is the column a score?"),
    "unread": ("columns not read", "{columns}"),
    "unread-more": ("columns not read", "{columns} and {more} more"),
    "checkpoints": (
        "rows of one `{column}` are taken for checkpoints of one run and resampled together",
        "{rows:,} rows of {runs:,} runs (`run_col` names another column)",
    ),
    "no-checkpoints": (
        "`{column}` is the same for rows of several N",
        "each row is taken for a run of its own",
    ),
    "even-steps": (
        "{even:,} of {rows:,} rows lie at even steps of D, as checkpoints of one run of each N do",
        "each row is taken for a run of its own, which makes intervals too narrow if they are checkpoints (name their "
        "run with `run_col`)",
    ),
    "copies": (
        "{rows:@row} with the N, D, C and loss of another to the last digit",
        "counted as runs of their own, which makes intervals too narrow if they are copies",
    ),
    # a law at other pairs, batches and contexts
    "level": ("c, at the level of {runs:@run} of {source}; its shape is from {law_source}",),
    "level-drift": (
        "away from these runs' {low:.3g} to {high:.3g} FLOP forecasts are widened by {drift:.1%} of ln loss for each "
        "factor e",
        "runs made to test a level came out 1 to 34 % lower at 4 to 16 times its runs",
    ),
    "at-home": ("left out, made at the law's own batch and context", "{runs}"),
    "no-law": ("left out, of methods that no law applies to", "{runs}"),
    "no-law-fitted": ("No law could be fitted", "{error}"),
    "other-runs": ("The {law} law was fitted to other runs than this ledger's.",),
    # what notes tell of
    "standing": ("{status}{why:?: {why:;}}",),
    "interval": ("{value:.4g|none} [{low:.4g|unbounded below}, {high:.4g|unbounded above}]",),
    "shares": ("{low:+.1%|-inf%} to {high:+.1%|+inf%}",),
    "nats": ("{nats:+.3f} nats (standard error {error:.3f})",),
    "among": ("{runs:@run} of {recipes:@recipe}, {low:.1f} to {high:.1f} epochs",),
    "r-star": ("R* = {interval}, from {among}",),
    "r-star-least": (
        "R* = {interval}, from {among}; the least there is",
        "repeats are worth nothing, or do harm, which no R* can say",
    ),
    "r-star-alone": ("R* = {value:.3g|no bound}, without an interval (no bootstrap), from {among}",),
    "r-star-open": (
        "R* is not identified{least:?, {least:.3g} or more}",
        "what {among}, cost is within a noise of {noise:.2g} in ln loss",
    ),
    "not-forecast-there": ("{why:;} ({runs:@run} of {source})",),
    "forecast-there": (
        "{runs:@run} of {source} lie {off:+.1%} from the forecast in steps on average (allowed {allowed}), root mean "
        "square {error:.1%}",
    ),
    "unchecked-there": ("not checked at this batch and context",),
    "failed-biased": ("checked there, {law}", "biased, {why:;}"),
    "failed-too-few-runs": ("checked there, {law}", "too few runs, {why:;}"),
    # a law's file
    "unsealed": ("the law's file is of before files had digests", "that it was changed by hand would not be noticed"),
    # read from JSON of before there were notes
    "text": ("{text}",),
}


class FitNote(Note):
    """One fact that speaks against a fit or a forecast, or that its reader should know."""

    kind: FitNoteKind

    sentences: ClassVar = _SENTENCES


class Judged(Noted):
    """A verdict, or a status, with the facts behind one that is not good."""

    noted: ClassVar = "facts"
    described: ClassVar = {"why": "reason"}

    facts: tuple[FitNote, ...] = Field((), description="why it is not good")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def why(self) -> str:
        """The same in words; empty where good."""
        return "; ".join(self._sentences("reason"))


def reason(code: str, **fields: Any) -> FitNote:
    """Why a status or a verdict is not good."""
    return FitNote(kind="reason", code=code, fields=fields)


def remark(code: str, **fields: Any) -> FitNote:
    """What was seen of the runs behind a law, or of its file."""
    return FitNote(kind="remark", code=code, fields=fields)


def off(code: str, bias: float, allowed: Interval, **fields: Any) -> FitNote:
    """Why a forecast is biased: ln(observed / forecast) lies at `bias`, outside the interval `allowed`."""
    side = "above" if bias > 0 else "below"
    return reason(code, off=abs(math.expm1(bias)), side=side, allowed=shares(allowed), **fields)


def interval_note(interval: Interval) -> FitNote:
    """An interval and the value in it."""
    return remark("interval", value=known(interval.value), low=known(interval.low), high=known(interval.high))


def shares(interval: Interval) -> FitNote:
    """The ends of an interval of relative differences."""
    return remark("shares", low=known(interval.low), high=known(interval.high))


def known(value: float | None) -> float | tuple[()]:
    """A number as a note has it, nothing where there is none."""
    return () if value is None else value


#: what a law gets whose file has no digest
UNSEALED = remark("unsealed")
