"""Fitted laws, and what they say of a recommendation, as aligned text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.fitting.bootstrap import ComputeOptimum
from isoembed.fitting.holdout import Holdout
from isoembed.fitting.intervals import Interval
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.transfer import Forecast
from isoembed.laws import law_named
from isoembed.recipe import Recipe
from isoembed.recommendation.result import Extrapolation, RankedRecipe, Recommendation
from isoembed.report.terminal.layout import columns_table, pairs_table, si

if TYPE_CHECKING:
    from isoembed.fitting.validate import Check


def laws_text(laws: LawSet) -> RenderableType:
    """Everything `isoembed fit` prints."""
    parts: list[RenderableType] = []
    for law in laws.laws:
        parts += [law_text(law), Text("")]
    return Group(*parts[:-1])


def law_text(law: LawFile) -> RenderableType:
    """One law: parameters with intervals, how the fit went, and what it forecast."""
    fit = law.fit
    delta = "none: squares" if fit.delta is None else f"{fit.delta:.3g}"
    seeds = "" if law.seed_sd is None else f"; {law.seed_sd:.3g} between repeats of one setting"
    along = f", along the depth of one model ({law.settings.family})" if law.settings.along == "depth" else ""
    spans = [
        f"{name} {show(low)} to {show(high)}"
        for name, key, show in (
            ("N", "params", si),
            ("D", "tokens", si),
            ("C", "flop", _digits),
            ("S", "fraction", _digits),
            ("loss", "loss", _digits),
        )
        if (span := law.range.get(key)) and (low := span[0]) != (high := span[1])
    ]
    rows = [
        ("law", f"{law.law}: {law_named(law.law).about}"),
        ("method", law.method or "not named"),
        ("runs", f"{law.n_points} points from {law.source}{along}"),
        ("objective", f"{law.objective:.9g}, sum of Huber of ln residuals, delta {delta}"),
        ("noise", f"{fit.noise:.3g} of ln loss{seeds}"),
        ("starts", f"{law.starts_agreeing:.0%} of {fit.n_starts} reach this optimum"),
        ("condition", "singular" if fit.condition is None else f"{fit.condition:.3g}"),
        ("fitted range", ", ".join(spans)),
        ("in-range error", "-" if fit.error is None else f"{fit.error:.2%} of ln loss, root mean square"),
        *([("held", fit.simplified)] if fit.simplified else []),
        ("status", law.describe()),
        *([("beyond", law.drift.describe())] if law.holdout else []),
    ]
    if law.repetition is not None:
        rows.append(("repetition", law.repetition.describe()))
    if law.outlier_rows:
        shown = ", ".join(map(str, law.outlier_rows[:12])) + (" ..." if len(law.outlier_rows) > 12 else "")
        rows.append(("outliers", f"rows {shown} lie beyond five times the noise; none was dropped"))
    for other in law.alternatives:
        error = f"held-out error {other.held_error:.2%}, {other.fit.status}"
        rows.append(
            ("alternative", f"{other.law} is not distinguishable from it ({error}): recommendations draw from both")
        )
    rows += [("note", note) for note in law.notes]
    parts = [pairs_table(rows), Text(""), _parameters(law)]
    if (optimum := law.compute_optimum()) is not None:
        parts += [Text(""), _optimum(optimum)]
    return Group(*parts, *([Text(""), _holdouts(law)] if law.holdout else []))


def _optimum(optimum: ComputeOptimum) -> RenderableType:
    """Best sizes by budget, or that there are none."""
    a, rest = optimum.params_exponent, optimum.tokens_exponent
    if a.value is None:
        return Text("N*(C): none; along C = 6 N D the loss falls to the end of all sizes")
    table = columns_table(
        ("C = 6 N D", "N*", "95 %", "D*", "95 %", "loss"),
        [
            (
                _digits(best.flop),
                *(
                    text
                    for each in (best.params, best.tokens)
                    for text in (_sized(each.value), f"{_sized(each.low)} to {_sized(each.high)}")
                ),
                best.loss.describe(),
            )
            for best in optimum.sizes
        ],
    )
    return Group(table, Text(f"N* ~ C^a, a = {a.describe()}; D* ~ C^b, b = {rest.describe()}"))


def _sized(value: float | None) -> str:
    return "unbounded" if value is None else si(value)


def _digits(value: float) -> str:
    return f"{value:.3g}"


def _parameters(law: LawFile) -> RenderableType:
    second = law.without_outliers
    header = ["parameter", "value", f"{law.level:.0%} from", "to", *(["without outliers"] if second else [])]
    return columns_table(
        header,
        [
            [
                name,
                f"{interval.value:.6g}",
                *_ends(interval, held=name in law.fit.held, draws=law.draws is not None),
                *([f"{second.params[name]:.6g}"] if second else []),
            ]
            for name, interval in law.params.items()
        ],
    )


def _ends(interval: Interval, *, held: bool, draws: bool) -> tuple[str, str]:
    if held:
        return "held", "held"
    if not draws:
        return "-", "-"
    return tuple("unbounded" if end is None else f"{end:.6g}" for end in (interval.low, interval.high))  # type: ignore[return-value]


def _holdouts(law: LawFile) -> RenderableType:
    def row(result: Holdout) -> list[str]:
        bias = "-"
        if result.bias is not None and result.bias.value is not None:
            low, high = result.bias.ends
            bias = f"{result.bias.value:+.2%} (allowed {low:+.2%} to {high:+.2%})"
        return [
            result.by.replace("-", " "),
            result.law,
            f"{result.n_held} of {result.n_held + result.n_fitted}",
            "-" if result.in_range_error is None else f"{result.in_range_error:.2%}",
            "-" if result.held_error is None else f"{result.held_error:.2%}",
            bias,
            result.verdict,
        ]

    held = [*law.holdout.values(), *law.rivals]
    header = ("held out", "law", "rows", "in-range error", "held-out error", "bias", "verdict")
    words = [Text(f"{result.law}, {result.by}: {result.why}") for result in held if result.verdict == "untested"]
    return Group(columns_table(header, [row(result) for result in held]), *words)


def check_text(found: Check) -> RenderableType:
    """Everything `isoembed validate` prints."""
    own = found.laws.settings
    rows = []
    for result in found.results:
        seen = result.seen
        place = (f"{seen.settings.batch_pairs}", f"{seen.settings.context_tokens}", result.method or result.law)
        ways = (("steps", seen.steps), ("tokens", seen.tokens))
        for way, forecast in ways if seen.steps else ways[:1]:
            decides = way == "steps"
            rows.append((*place, f"{seen.n_runs}", way, *_forecast(forecast), seen.verdict if decides else ""))
            place = ("", "", "")
    heading = (
        f"law of {own.batch_pairs} pairs per batch, context {own.context_tokens}. D in steps: a run is forecast as one "
        f"of as many steps there, {own.step_tokens or 0:,.0f} tokens each"
    )
    header = ("batch", "context", "law", "runs", "D in", "bias", "error", "inside 95 %", "in order", "verdict")
    words = [Text(f"{r.method or r.law}: {r.seen.why}") for r in found.results if r.seen.why]
    words += [Text(note) for note in found.notes]
    return Group(Text(heading), Text(""), columns_table(header, rows), *([Text(""), *words] if words else []))


def _forecast(forecast: Forecast | None) -> tuple[str, str, str, str]:
    if forecast is None or forecast.bias.value is None:
        return "-", "-", "-", "-"
    low, high = forecast.bias.ends
    return (
        f"{forecast.bias.value:+.2%} (allowed {low:+.2%} to {high:+.2%})",
        f"{forecast.error:.2%}",
        f"{forecast.inside:.0%}",
        "-" if forecast.ordered is None else f"{forecast.ordered:.0%}",
    )


#: from so many times beyond its runs on, what a law says of a recipe is little more than a direction
_FAR = 10.0


def beyond_text(reach: Extrapolation) -> str:
    """How far a recipe lies beyond the law's runs, in words."""
    far = ": an extrapolation, of which the interval and the probabilities know only a part"
    return reach.describe() + (far if reach.farthest > _FAR else "")


def law_rows(recommendation: Recommendation) -> list[tuple[str, str]]:
    """What the law says of the recipe chosen; empty where none spoke."""
    sure, reach, following = recommendation.certainty, recommendation.reach, recommendation.next_run
    if reach is None:
        return []
    rows = []
    if recommendation.no_forecast is not None:
        rows.append(("predicted loss", f"none: {recommendation.no_forecast}"))
    elif recommendation.loss is not None:
        own = "" if recommendation.recipe.data.fingerprint else ", on the pairs and held-out set of the law's runs"
        rows.append(("predicted loss", f"{recommendation.loss.describe()} for one run, 95 %{own}"))
    if sure is not None:
        regret = "" if sure.regret is None else f"; expected regret {sure.regret:.2g} nats"
        methods = ", ".join(f"{name} {share:.2f}" for name, share in sure.methods.items())
        rows.append(
            (
                "how sure",
                f"{recommendation.recipe.method.name} is the best method with probability {sure.method:.2f} "
                f"({methods}); this very recipe is the best candidate with {sure.recipe:.2f}{regret}",
            )
        )
    if not reach.outside:
        rows.append(("beyond the data", reach.describe()))
    if recommendation.crossover is not None:
        rows.append(("crossover", recommendation.crossover.describe()))
    if following is not None:
        recipe = following.recipe
        rows.append(
            (
                "next run",
                f"{recipe.method.label} on {recipe.model.name} at {recipe.flop:.2g} FLOP "
                f"({recipe.flop / (recommendation.recipe.flop):.1%} of this one) would tell most: it removes "
                f"{following.removes:.0%} of the variance of the difference to the runner-up",
            )
        )
    return rows


def candidates_table(title: str, candidates: Iterable[RankedRecipe]) -> RenderableType:
    """Candidates with the loss that a law expects of them."""
    return columns_table(
        (title, "method", "tokens", "tokens/parameter", "steps", "loss", "behind by", "95 %", "best with"),
        [
            (
                _named_model(candidate.recipe),
                candidate.recipe.method.label,
                si(candidate.recipe.train_tokens),
                si(candidate.tokens_per_param),
                f"{candidate.recipe.steps:,}",
                "-" if candidate.loss is None or candidate.loss.value is None else f"{candidate.loss.value:.4g}",
                *_gap(candidate.behind),
                "-" if candidate.best is None else f"{candidate.best:.2f}",
            )
            for candidate in candidates
        ],
    )


def _named_model(recipe: Recipe) -> str:
    width = recipe.options.dimensions
    return recipe.model.name if width is None else f"{recipe.model.name} to {width}"


def _gap(behind: Interval | None) -> tuple[str, str]:
    if behind is None or not behind.value:
        return "-", "-"  # the chosen recipe itself, or no forecast
    low, high = behind.ends
    return f"{behind.value:+.3g}", f"{low:+.2g} to {high:+.2g}"
