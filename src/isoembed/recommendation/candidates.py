"""The candidates of a recommendation: a law, a hyperparameter setting of which there were runs, a model of the family;
and how far each lies from the runs of its law."""

from __future__ import annotations

from dataclasses import dataclass

from isoembed.core import InputError
from isoembed.families.base import ModelSpec
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.trained_rates import RateFactor, rate_factor
from isoembed.fitting.width import MeasuredWidth
from isoembed.flops import Cost, all_in_flop
from isoembed.laws import law_named
from isoembed.methods import Full, Method
from isoembed.notes import Refusal, refusal
from isoembed.recipe import DataStats, check_width
from isoembed.recommendation.request import CompleteRequest
from isoembed.recommendation.result import Extrapolation

#: fewer bootstrap samples tell no probabilities
LEAST_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Candidate:
    """One method with its hyperparameters on one model, and the law that forecasts it."""

    law: LawFile
    method: Method
    model: ModelSpec
    cost: Cost
    width: MeasuredWidth | None = None
    """what fewer dimensions cost, of a candidate that projects to them"""
    rate_factor: RateFactor | None = None
    """what the law's runs had, times the family's learning rates"""

    @property
    def name(self) -> str:
        projected = "" if self.width is None else f" to {self.width.dimensions} dimensions"
        return f"{self.method.label} on {self.model.name}{projected}"

    def asked(self, request: CompleteRequest) -> CompleteRequest:
        """`request`, of embeddings of its dimensions and at the learning rates of its law's runs."""
        asked = request if self.width is None else request.projected(self.width.dimensions)
        return asked.model_copy(update={"rate_factor": self.rate_factor})

    @property
    def share(self) -> float:
        """S: the trained share of the parameters, as a ledger's runs count it."""
        return self.cost.updated / self.cost.forward

    def trains_as(self, other: Candidate) -> bool:
        """Whether the two are one training: shares of the blocks that are as many blocks of this model."""
        return (
            self.law is other.law
            and self.model is other.model
            and type(self.method) is type(other.method)
            and self.cost == other.cost
            and self.width == other.width
        )

    @property
    def tail(self) -> float:
        """Probability that an interval of its samples leaves out on each side."""
        assert self.law.draws is not None
        return self.law.draws.tail

    def most_epochs(self, request: CompleteRequest) -> float:
        """Epochs of the data at most: one where the law's own runs gained nothing by more and nobody says how
        many."""
        limits, measured = request.constraints, self.law.repetition
        in_vain = limits.epochs is None and limits.repeats == "measured" and measured is not None and measured.worthless
        return 1.0 if in_vain else limits.most_epochs

    def tokens(self, request: CompleteRequest, flop: float) -> float:
        """The tokens that `flop` trains it on; 0 where serving leaves nothing."""
        try:
            return request.tokens(flop, self.model, self.cost, most_epochs=self.most_epochs(request))
        except InputError:
            return 0.0

    def extrapolation(self, tokens: float, data: DataStats, token_worth: float) -> Extrapolation:
        """Where it lies beside the runs of its law, trained on `tokens`, each `token_worth` of the law's."""
        law, flop = self.law, tokens * self.cost.flop_per_token
        if law.settings.flop == "all_in_flop":
            flop = all_in_flop(
                self.cost,
                tokens=tokens,
                squared_lengths=tokens / data.tokens_per_pair * data.squared_tokens,
                hidden=self.model.attention_width,
                blocks=self.model.blocks,
            )
        size = law.settings.size(self.model)
        (least_C, most_C), (least_N, most_N), (least_D, most_D) = (law.range[c] for c in ("flop", "params", "tokens"))
        return Extrapolation(
            flop=token_worth * flop / most_C,
            params=size / most_N,
            tokens=token_worth * tokens / most_D,
            below=token_worth * flop / least_C,
            params_below=size / least_N,
            tokens_below=token_worth * tokens / least_D,
        )


def candidates_of(laws: LawSet, request: CompleteRequest) -> list[Candidate]:
    """Every candidate within the limits of `request`.

    Raises InputError where a law has no size in it or too few samples, or where no candidate is left.
    """
    found: list[Candidate] = []
    errors: list[InputError] = []
    known = any(_measured(request, law) for law in laws.laws)
    for law in laws.laws:
        _check_law(law)
        if request.constraints.repeats == "measured" and law.repetition is None:
            unmeasured = InputError(
                f"`repeats=measured` needs a law whose runs repeated their data: the {law.method or law.law} law has "
                "no R*. Add such runs with `isoembed sweep plan` (`pairs`) and fit again, or say `repeats=muennighoff`."
            )
            errors.append(unmeasured)
            continue
        rates = rate_factor(law.trained_rates, request.family)
        sizes = [*([] if known else _sizes(request, errors)), *_projected(request, law)]
        for model, width in sizes:
            for method in methods_on(law, request, model):
                try:
                    candidate = Candidate(law, method, model, method.cost(model), width, rates)
                    asked = candidate.asked(request)
                    check_width(model, asked.options)
                    asked.check_memory(model, method)
                    if not any(candidate.trains_as(other) for other in found):
                        found.append(candidate)
                except InputError as error:
                    errors.append(error)
    if not found:
        raise errors[0] if errors else InputError(_nothing_allowed(laws, request))
    return found


Size = tuple[ModelSpec, MeasuredWidth | None]


def _sizes(request: CompleteRequest, errors: list[InputError]) -> list[Size]:
    """The sizes as the law's runs had them; none where none is within the limits, which is then one of the `errors`."""
    try:
        return [(model, None) for model in request.models]
    except InputError as error:
        errors.append(error)
        return []


def _projected(request: CompleteRequest, law: LawFile) -> list[Size]:
    """The models with the measured dimensions that are asked for; or, where `max_index_bytes` limits them and nobody
    says how many, with all that are within the limits.  Of several measurements the one at the largest budget."""
    limited = request.constraints.max_index_bytes is not None and request.options.dimensions is None
    found: dict[tuple[str, int], MeasuredWidth] = {}
    for each in _measured(request, law) or (law.widths if limited and not request.options.matryoshka else ()):
        known = found.get((each.model, each.dimensions))
        found[each.model, each.dimensions] = each if known is None or each.flop > known.flop else known
    sizes: list[Size] = []
    for (name, dimensions), width in found.items():
        try:
            sizes += [(model, width) for model in request.projected(dimensions).models if model.name == name]
        except InputError:
            continue  # beyond a limit
    return sizes


def _measured(request: CompleteRequest, law: LawFile) -> list[MeasuredWidth]:
    """Measurements of the dimensions that are asked for."""
    return [each for each in law.widths if each.dimensions == request.options.dimensions]


def has_size(law: LawFile) -> bool:
    """Whether `law` has N in it, without which it chooses no size."""
    return "params" in law_named(law.law).varies


def sized(laws: LawSet) -> tuple[LawSet, tuple[LawFile, ...]]:
    """Those of `laws` that have a size in them, which alone can choose one, or all where none has; and the others."""
    kept = tuple(filter(has_size, laws.laws)) or laws.laws
    return laws.model_copy(update={"laws": kept}), tuple(law for law in laws.laws if law not in kept)


def _check_law(law: LawFile) -> None:
    if not has_size(law):
        raise InputError(
            f"A recommendation needs a law with N in it; {law.law} has none. Fit hoffmann or embedding instead."
        )
    drawn = [len(law.bootstrap().theta_BP), *(len(other.draws.values) for other in law.alternatives)]
    if (fewest := min(drawn)) < LEAST_DRAWS:
        raise InputError(
            f"Probabilities need {LEAST_DRAWS} bootstrap samples; the {law.method or law.law} law has {fewest}. Fit "
            "again by `isoembed fit` with `bootstrap=1000`."
        )


def methods_on(law: LawFile, request: CompleteRequest, model: ModelSpec) -> list[Method]:
    """The methods, hyperparameters included, that `law` holds for on `model` and the request allows."""
    found: list[Method] = [tested.on(model) for tested in law.tested_settings]
    if law.method is None:
        found = [request.method or Full()]
    if (asked := request.method) is not None:
        alike = [method for method in found if method.name == asked.name]
        # a law that reads the trained share forecasts hyperparameters of which there were no runs
        known = asked in alike or (bool(alike) and "fraction" in law_named(law.law).also_reads)
        found = alike if request.any_hyperparameters else [asked] if known else []
    return [method for method in dict.fromkeys(found) if request.constraints.allows(method)]


def _nothing_allowed(laws: LawSet, request: CompleteRequest) -> Refusal:
    asked = (request.method.label,) if request.method else request.constraints.methods or ("any",)
    fitted = tuple(tested.label for law in laws.laws for tested in law.tested_settings)
    return refusal("law-method", fitted=fitted, asked=asked)
