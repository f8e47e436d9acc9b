"""Recommendations from measured laws: the planted best is found, uncertainty is stated, limits bite as they must."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.estimates import recipe_memory
from isoembed.families import NANO, PYTHIA
from isoembed.fitting.holdout import Holdout
from isoembed.fitting.intervals import Interval
from isoembed.fitting.io.law_file import AlternativeLaw, LawFile, LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.repetition import LEAST, PRETRAINING_R_STAR, effective_tokens
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.methods import Bias, Full, LoRA
from isoembed.methods.retired import DoRA
from isoembed.options import Options
from isoembed.recipe import DataStats, PartialSetup
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.frontier import Frontier
from isoembed.recommendation.law_samples import below_chance
from isoembed.recommendation.recommend import recommend, shipped_law
from isoembed.recommendation.request import CompleteRequest, Request
from isoembed.recommendation.result import Recommendation
from isoembed.records import RunRecord
from tests.fitting.ledgers import BUDGETS, DATA, lora, runs, scarce, true_loss
from tests.sweep.fake import record

T = TypeVar("T")
HOFFMANN = law_named("hoffmann")
#: the module, which the function of the same name hides in the package
MODULE = importlib.import_module("isoembed.recommendation.recommend")
TARGET = 10 * BUDGETS[-1]
UNLIMITED = DataStats(fingerprint="d", tokenizer="t", pairs=10**12)


def there(value: T | None) -> T:
    assert value is not None
    return value


def law_set(law: str = "hoffmann", draws: int = 200, **planted: Any) -> LawSet:
    groups = group_runs(runs(**planted), [law_named(law)])
    return LawSet(laws=tuple(study([law_named(law)], group, source="planted", draws=draws, by=()) for group in groups))


@pytest.fixture(scope="module")
def laws() -> LawSet:
    return law_set()


def asked(laws: LawSet, flop: float = TARGET, /, **options: Any) -> Recommendation:
    options = {"data": UNLIMITED} | options
    settings = {name: options.pop(name) for name in PartialSetup.model_fields if name in options}
    return recommend(Budget(stated="", flop=flop), NANO, law=laws, setup=PartialSetup(**settings), **options)


def limited(laws: LawSet, flop: float = TARGET, /, **limits: Any) -> Recommendation:
    return asked(laws, flop, constraints=Constraints(**limits))


def request(flop: float = TARGET) -> CompleteRequest:
    return Request(
        budget=Budget(stated="", flop=flop), family=NANO, data=UNLIMITED, batch_pairs=64, context_tokens=75
    ).complete()


def with_form(laws: LawSet, other: LawSet) -> LawSet:
    """Each law with `other`'s of the same method as a form beside it."""
    forms = {law.method: AlternativeLaw.of(law.bootstrap(), 0.01) for law in other.laws}
    return LawSet(laws=tuple(law.model_copy(update={"alternatives": (forms[law.method],)}) for law in laws.laws))


def test_forms_share_the_draws_equally(laws: LawSet) -> None:
    """Arms of one law are of one form in each draw; methods draw theirs apart; what is expected is the mean of all."""
    other = law_set("tied", draws=220)
    plain, tied, mixed = (Frontier(each, request()).at(2e12) for each in (laws, other, with_form(laws, other)))
    assert mixed.samples.loss_BK.shape == plain.samples.loss_BK.shape
    chosen = {}
    for method in ("full", "lora"):
        of_method = np.array([each.method.name == method for each in mixed.candidates])
        first_B, second_B = (
            np.array([np.isclose(draw, known.samples.loss_BK[:, of_method], rtol=1e-12).all(1).any() for draw in mine])
            for mine in (mixed.samples.loss_BK[:, of_method],)
            for known in (plain, tied)
        )
        # draws that are outliers of their own form alone, or of both together, are moved
        assert (first_B ^ second_B).mean() > 0.8
        assert first_B.sum() == pytest.approx(len(mixed.samples.loss_BK) / 2, rel=0.2)
        chosen[method] = first_B
    assert 0.3 < (chosen["full"] == chosen["lora"]).mean() < 0.7
    assert mixed.samples.probabilities.sum() == pytest.approx(1)


def test_an_alternative_that_says_otherwise_is_uncertainty(laws: LawSet) -> None:
    """Where another form would choose another size, the recommendation is about half as sure, and says of which forms
    its uncertainty is."""

    def turned(law: LawFile) -> LawFile:
        """The same law with more weight on size: a larger model is better."""
        draws = there(law.draws)
        rows = tuple((E, 1.8 * A, B, alpha, beta) for E, A, B, alpha, beta in draws.values)
        return law.model_copy(update={"draws": draws.model_copy(update={"values": rows})})

    full = LawSet(laws=tuple(law for law in laws.laws if law.method == "full"))
    other = LawSet(laws=tuple(map(turned, full.laws)))
    sure, uncertain, opposite = (asked(each) for each in (full, with_form(full, other), other))
    assert opposite.recipe.model.params > sure.recipe.model.params
    assert there(sure.certainty).recipe > 0.9

    assert there(uncertain.certainty).recipe == pytest.approx(0.5, abs=0.1)
    assert there(there(uncertain.certainty).regret) > there(there(sure.certainty).regret)
    assert there(uncertain.next_run).removes > 0.3
    assert any("form too: hoffmann forecasts what was held out about as well" in line for line in uncertain.known)
    assert not any("form too" in line for line in sure.known)


@pytest.mark.parametrize("flop", [1e10, 1e11, 1e12, 1e13, 2.5e13])
def test_the_recipe_is_the_planted_best_or_as_good(laws: LawSet, flop: float) -> None:
    def loss(method: Any, model: Any) -> float:
        return true_loss(method, model.params, flop / method.cost(model).flop_per_token)

    chosen = asked(laws, flop).recipe
    best = min(loss(method, model) for model in NANO.models for method in (Full(), lora(model)))
    assert loss(chosen.method, chosen.model) / best < 1.01
    assert abs(chosen.flop - flop) <= chosen.cost.flop_per_token


def test_the_method_follows_the_planted_crossover(laws: LawSet) -> None:
    low, high = asked(laws, 1e10), asked(laws, 2.5e13)
    assert (low.recipe.method.name, high.recipe.method.name) == ("full", "lora")
    assert low.certainty is not None
    assert low.certainty.method > 0.9
    flop = np.geomspace(1e9, 1e16, 60)
    best = [
        [
            min(true_loss(way(m), m.params, c / way(m).cost(m).flop_per_token) for m in NANO.models)
            for way in (lambda m: Full(), lora)
        ]
        for c in flop
    ]
    true = flop[np.flatnonzero([full < adapters for full, adapters in best])[-1]]
    lead = high.crossover
    assert lead is not None
    assert (lead.first, lead.second) == ("full", "lora")
    start, end = lead.flop.ends
    assert start / 1.3 < true < end * 1.3


def test_probabilities_add_up_and_the_chosen_one_has_the_least_regret(laws: LawSet) -> None:
    found = asked(laws, 2e12)
    sure = found.certainty
    assert sure is not None
    assert sum(sure.methods.values()) == pytest.approx(1.0)
    assert 0 < sure.recipe <= sure.method == sure.methods[found.recipe.method.name]
    forecasts = Frontier(laws, request()).at(2e12)
    regret = [forecasts.samples.regret(k) for k in range(len(forecasts.candidates))]
    assert sure.regret == pytest.approx(min(regret))
    assert all(candidate.behind and (candidate.behind.value or 0) >= 0 for candidate in found.runners_up)
    assert found.methods[0].recipe.method.name == found.recipe.method.name


def test_a_runs_interval_is_wider_than_the_laws_and_holds_the_planted_loss(laws: LawSet) -> None:
    found = asked(laws, 5e11)
    assert found.loss is not None
    low, high = found.loss.ends
    assert low < true_loss(found.recipe.method, found.recipe.model.params, found.recipe.train_tokens) < high
    forecasts = Frontier(laws, request()).at(5e11)
    spread = np.quantile(forecasts.samples.loss_BK[:, 0], [0.025, 0.975])
    wide = forecasts.loss(0)
    assert wide.ends[0] < spread[0]
    assert wide.ends[1] > spread[1]


def test_more_noise_is_less_sure_of_the_method(laws: LawSet) -> None:
    noisy = law_set(noise=0.03)
    unsure, sure = asked(noisy, 5e12).certainty, asked(laws, 5e12).certainty
    assert unsure is not None
    assert sure is not None
    assert unsure.method < sure.method
    assert there(unsure.regret) > there(sure.regret)


def test_limits_bite_in_the_right_direction(laws: LawSet) -> None:
    free = asked(laws)
    size = free.recipe.model.params
    assert limited(laws, max_params=size - 1).recipe.model.params < size
    assert limited(laws, methods=("full",)).recipe.method == Full()
    assert list(there(limited(laws, methods=("full",)).certainty).methods) == ["full"]
    tight = recipe_memory(free.recipe).least - 1
    fits = limited(laws, device_memory=tight).recipe
    assert recipe_memory(fits).least <= tight
    assert limited(laws, device_memory="t4").recipe == free.recipe


def test_serving_makes_models_smaller_and_is_paid_from_the_budget(laws: LawSet) -> None:
    tokens = [0.0, 1e6, 1e7, 3e7]
    found = [limited(laws, serving_tokens=each).recipe for each in tokens]
    sizes = [recipe.model.params for recipe in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    for recipe, served in zip(found, tokens, strict=True):
        spent = recipe.flop + 2.0 * recipe.model.params * served
        assert abs(spent - TARGET) <= recipe.cost.flop_per_token
    with pytest.raises(InputError, match="must pay for serving too"):
        limited(laws, serving_tokens=1e12)


def test_scarce_data_cap_the_tokens_and_ask_for_larger_models(laws: LawSet) -> None:
    free = asked(laws)
    scarce = asked(laws, data=UNLIMITED.model_copy(update={"pairs": 5_000}))
    assert scarce.recipe.epochs is not None
    assert scarce.recipe.epochs <= 1
    assert scarce.recipe.model.params > free.recipe.model.params
    assert scarce.recipe.flop < TARGET
    assert any("stays unspent" in line for line in scarce.warnings)
    assert limited(laws, pairs=5_000).recipe.train_tokens == scarce.recipe.train_tokens
    again = limited(laws, pairs=5_000, repeats="muennighoff")
    assert again.recipe.epochs is not None
    assert again.recipe.epochs > 1
    assert abs(again.recipe.flop - TARGET) <= again.recipe.cost.flop_per_token
    assert any("Muennighoff" in line for line in again.assumed)
    assert scarce.loss is not None
    assert again.loss is None, "an R* of pretraining gives an order, and no loss"
    assert "borrowed from pretraining" in there(again.no_forecast)


@pytest.fixture(scope="module")
def repeating() -> LawSet:
    """Laws with R* = 3 for full fine-tuning and LoRA alike."""
    fresh = runs()
    groups = group_runs([*fresh, *scarce(fresh, 3.0)], [HOFFMANN])
    return LawSet(laws=tuple(study([HOFFMANN], group, source="planted", draws=200, by=()) for group in groups))


def test_the_laws_own_worth_of_repeats_decides_and_its_uncertainty_enters(repeating: LawSet) -> None:
    """At R* = 3 repeats are worth less than at pretraining's 15.39: the loss expected is near the truth."""
    own = limited(repeating, pairs=5_000, repeats="measured")
    assert any("R* = " in line for line in own.known)
    assert not any("Muennighoff" in line for line in own.assumed)
    recipe = own.recipe
    assert recipe.epochs is not None
    assert recipe.epochs > 1
    few = limited(repeating, pairs=300, repeats="measured", max_params=30_000)
    assert any("24.0 are the most that were measured" in line for line in few.warnings)
    worth = effective_tokens(recipe.train_tokens, recipe.train_tokens / recipe.epochs, 3.0)
    low, high = there(own.loss).ends
    assert low < true_loss(recipe.method, recipe.model.params, float(worth)) < high
    uncertain = LawSet(laws=tuple(_uncertain(law) for law in repeating.laws))
    wide = there(limited(uncertain, pairs=5_000, repeats="measured", methods=("full",)).loss)
    narrow = there(limited(repeating, pairs=5_000, repeats="measured", methods=("full",)).loss)
    assert wide.ends[1] - wide.ends[0] > 1.5 * (narrow.ends[1] - narrow.ends[0])


def _uncertain(law: LawFile) -> LawFile:
    """`law` with an R* known to a factor of ten alone."""
    chance = np.random.default_rng(0)
    found = there(law.repetition)
    draws = tuple((3.0 * 10 ** chance.uniform(-1, 1, len(found.draws))).tolist())
    return law.model_copy(update={"repetition": found.model_copy(update={"draws": draws})})


def test_a_law_without_a_measured_worth_is_refused_or_not_considered(laws: LawSet, repeating: LawSet) -> None:
    with pytest.raises(InputError, match="`repeats=measured` needs a law whose runs repeated their data"):
        limited(laws, pairs=5_000, repeats="measured")
    half = LawSet(laws=(repeating.laws[0], repeating.laws[1].model_copy(update={"repetition": None})))
    found = limited(half, pairs=5_000, repeats="measured")
    assert found.recipe.method.name == "full"
    assert any("for want of a measured R*: lora" in line for line in found.warnings)


def test_an_unidentified_worth_is_warned_of(repeating: LawSet) -> None:
    unknown = there(repeating.laws[0].repetition).model_copy(
        update={"r_star": Interval(value=None, low=2.0, high=None)}
    )
    vague = LawSet(laws=(repeating.laws[0].model_copy(update={"repetition": unknown}),))
    found = limited(vague, pairs=5_000, repeats="measured")
    assert any("R* is not identified, 2 or more" in line for line in found.warnings)


def test_where_repeats_did_harm_the_data_are_gone_through_once(repeating: LawSet) -> None:
    """No R* describes harm: the recipe then leaves budget unspent instead of repeating, and does not ask to repeat."""
    least = Interval(value=LEAST, low=LEAST, high=2.0)
    harmed = [there(law.repetition).model_copy(update={"r_star": least}) for law in repeating.laws]
    sets = [law.model_copy(update={"repetition": each}) for law, each in zip(repeating.laws, harmed, strict=True)]
    found = limited(LawSet(laws=tuple(sets)), pairs=5_000, repeats="measured")
    assert there(found.recipe.epochs) == pytest.approx(1.0, abs=0.01)
    assert any("one epoch at most: repeats were worth nothing, or did harm" in line for line in found.warnings)
    assert any(line.endswith("stays unspent") for line in found.warnings)


def test_repeated_tokens_are_worth_less_each_pass() -> None:
    worth = [effective_tokens(passes * 100.0, 100.0) for passes in (0.5, 1, 2, 4, 1e6)]
    assert worth[:2] == [50.0, 100.0]
    assert 190 < worth[2] < 200
    assert worth[3] == pytest.approx(100 * (1 + PRETRAINING_R_STAR * (1 - np.exp(-3 / PRETRAINING_R_STAR))))
    assert worth[4] == pytest.approx(100 * (1 + PRETRAINING_R_STAR))


def test_how_far_beyond_the_data_is_said(laws: LawSet) -> None:
    highest = max(law.range["flop"][1] for law in laws.laws)
    reach = asked(laws, 8 * highest).reach
    assert reach is not None
    assert reach.flop == pytest.approx(8, rel=0.01)
    assert "8x beyond the largest fitted budget" in reach.describe()
    assert there(asked(laws, 1e11).reach).describe() == "within the fitted budgets, sizes and tokens"
    assert "below the smallest fitted budget" in there(asked(laws, 1e10).reach).describe()


def drifting(laws: LawSet, *biases: float, held: float = 0.0) -> LawSet:
    """The laws with back-tests of these biases, each a factor 4 beyond its fit, in place of their own."""
    moved = []
    for law in laws.laws:
        tests = [
            Holdout(
                by="largest-budget", law=law.law, verdict="good", n_fitted=9, n_held=law.n_points - 9,
                bias=Interval(value=bias, low=-0.01, high=0.01), held_error=math.hypot(bias, held), beyond=4.0,
            )
            for bias in biases
        ]  # fmt: skip
        moved.append(law.model_copy(update={"holdout": {"largest-budget": tests[0]}, "backtests": tuple(tests[1:])}))
    return LawSet(laws=tuple(moved))


def test_beyond_the_fitted_budgets_interval_probability_and_regret_know_the_drift(laws: LawSet) -> None:
    """The interval alone would widen where the drift is added to it and not to the samples."""
    top = max(law.range["flop"][1] for law in laws.laws)
    still, moved = drifting(laws, 0.0), drifting(laws, 0.1, -0.1, held=0.1)
    assert asked(moved, 0.5 * top).certainty == asked(still, 0.5 * top).certainty
    before, after = asked(still, 8 * top), asked(moved, 8 * top)
    assert width(after) > 2 * width(before)
    assert there(after.certainty).recipe < there(before.certainty).recipe
    assert there(there(after.certainty).regret) > there(there(before.certainty).regret)


def test_a_bias_of_one_sign_shifts_the_forecast_beyond_the_fitted_budgets(laws: LawSet) -> None:
    top = max(law.range["flop"][1] for law in laws.laws)
    still, moved = drifting(laws, 0.0), drifting(laws, -0.05, -0.05)
    ends = [there(there(asked(each, 4 * top).loss).value) for each in (still, moved)]
    assert ends[1] / ends[0] == pytest.approx(np.exp(-0.05), abs=0.005)
    assert there(asked(moved, top / 2).loss).value == there(asked(still, top / 2).loss).value


def test_below_the_fitted_budgets_a_forecast_is_wider_and_not_shifted(laws: LawSet) -> None:
    """Back-tests look upwards: of what is below they say how far the law may be off, and not to which side."""
    low = min(law.range["flop"][0] for law in laws.laws)
    drifted = [drifting(laws, bias, bias) for bias in (0.0, -0.05)]
    still, moved = (asked(each, low / 8) for each in drifted)
    assert width(moved) > 2 * width(still)
    assert there(there(moved.loss).value) == pytest.approx(there(there(still.loss).value), rel=0.01)
    noises = [each.laws[0].run_noise_at(low / 8) for each in drifted]
    assert noises[1] > 2 * noises[0]


def test_a_forecast_below_chance_keeps_its_mean() -> None:
    """Cut off above chance alone, the wider of two forecasts of one mean would be the lower."""
    wide_BK = np.array([[6.0, 6.5], [7.0, 6.5], [7.4, 6.5], [5.6, 6.5]])
    kept_BK = below_chance(wide_BK, 6.9)
    assert kept_BK.max() <= 6.9
    assert kept_BK.mean(axis=0) == pytest.approx(wide_BK.mean(axis=0))
    assert below_chance(wide_BK + 2.0, 6.9).tolist() == [[6.9] * 2] * 4
    assert below_chance(wide_BK, math.inf) is wide_BK


def width(found: Recommendation) -> float:
    """Of the forecast's interval."""
    low, high = there(found.loss).ends
    return high - low


def test_the_next_run_is_affordable_and_tells_something(laws: LawSet) -> None:
    following = asked(laws, 2e12).next_run
    assert following is not None
    assert following.recipe.flop <= 0.1 * 2e12 * 1.01
    assert following.recipe.steps >= 30
    assert 0 < following.removes < 1
    quiet = law_set(noise=0.0003)
    assert quiet.laws[0].run_noise < laws.laws[0].run_noise


def test_a_law_of_a_method_of_earlier_versions_is_read_and_not_recommended(tmp_path: Path) -> None:
    """DoRA is ahead at large budgets here, as LoRA is in the planted truth."""
    found = [
        run
        if run.recipe.method == Full()
        else record(run.recipe.model_copy(update={"method": dora(run)}), loss_of(run))
        for run in runs()
    ]
    groups = group_runs(found, [HOFFMANN])
    made = LawSet(laws=tuple(study([HOFFMANN], group, source="planted", draws=200, by=()) for group in groups))
    made.save(tmp_path / "law.json")
    laws = LawSet.load(tmp_path / "law.json")
    assert [law.method for law in laws.laws] == ["dora r=d/8", "full"]
    assert asked(laws).recipe.method == Full()
    with pytest.raises(InputError, match=r"methods of its runs: dora r=d/8; got any"):
        asked(LawSet(laws=laws.laws[:1]))


def dora(run: RunRecord) -> DoRA:
    method = run.recipe.method
    assert isinstance(method, LoRA)
    return DoRA(rank=method.rank, alpha=method.alpha)


def loss_of(run: RunRecord) -> float:
    return there(run.heldout).loss


def test_settings_default_to_the_laws_and_other_ones_are_refused_unless_asked_for(laws: LawSet) -> None:
    narrow = LawSet(
        laws=tuple(
            law.model_copy(update={"settings": law.settings.model_copy(update={"batch_pairs": 32})})
            for law in laws.laws
        )
    )
    assert asked(narrow).recipe.batch_pairs == 32
    with pytest.raises(InputError, match=r"batch pairs 64 there, 128 here.*`other_settings`"):
        asked(laws, batch_pairs=128)
    with pytest.raises(InputError, match="context tokens 75 there, 64 here"):
        asked(laws, context_tokens=64)
    with pytest.raises(InputError, match=r"pooling mean there, last here.*`other_settings`"):
        asked(laws, pooling="last")
    with pytest.raises(InputError, match=r"options none there, weights averaged, EMA of decay 0\.9 here"):
        asked(laws, options=Options(ema_decay=0.9))
    with pytest.raises(InputError, match="hard negatives 0 there, 3 here"):
        asked(laws, data=UNLIMITED.model_copy(update={"negatives": 3.2}))
    anyway = asked(laws, batch_pairs=128, other_settings=True)
    assert anyway.recipe.batch_pairs == 128
    assert any("settings of no run" in line for line in anyway.warnings)


@pytest.mark.parametrize(
    ("field", "value", "own"),
    [("temperature", 0.05, 0.025), ("pooling", "last", "mean"), ("options", Options(bidirectional=True), Options())],
)
def test_a_setup_that_nobody_names_is_the_laws_and_another_is_refused(
    laws: LawSet, field: str, value: Any, own: Any
) -> None:
    """A law of another temperature could not be asked at all: its runs' temperature reached no recipe."""
    other = LawSet(
        laws=tuple(
            law.model_copy(update={"settings": law.settings.model_copy(update={field: value})}) for law in laws.laws
        )
    )
    assert getattr(asked(other).recipe, field) == value
    with pytest.raises(InputError, match=f"{field} {value} there, {own} here"):
        asked(other, **{field: own})


def test_no_familys_law_speaks_of_another_whatever_is_said(laws: LawSet) -> None:
    with pytest.raises(InputError, match="measured on nano; got pythia"):
        recommend(Budget.parse("1e17"), PYTHIA, law=laws, other_settings=True)


def test_other_data_or_tokenizers_are_warned_of(laws: LawSet) -> None:
    found = asked(laws, data=UNLIMITED.model_copy(update={"fingerprint": "x", "tokenizer": "y"}))
    assert sum("other training data" in line or "another tokenizer" in line for line in found.warnings) == 2
    assert not asked(laws).warnings


def test_laws_that_cannot_choose_a_size_are_refused(laws: LawSet) -> None:
    with pytest.raises(InputError, match="needs a law with N in it; power has none"):
        asked(law_set("power"))
    power = law_set("power").laws[0].model_copy(update={"method": "norms"})
    beside = asked(LawSet(laws=(*laws.laws, power)))  # one method of few runs refused the decision between the others
    assert beside.recipe == asked(laws).recipe
    assert "norms left out: its law has no N" in beside.warnings
    blind = LawSet(laws=(laws.laws[0].model_copy(update={"draws": None}),))
    with pytest.raises(InputError, match="`bootstrap=1000`"):
        asked(blind)


def test_a_method_of_no_run_is_refused_and_a_rank_of_no_run_only_by_a_law_without_the_share(laws: LawSet) -> None:
    with pytest.raises(InputError, match=r"full, lora r=d/8; got bias"):
        asked(laws, method=Bias())
    with pytest.raises(InputError, match=r"got lora r=7"):
        asked(laws, method=LoRA(rank=7, alpha=14.0))
    shares = law_set("embedding", draws=200, methods={"lora": None}, shares=(1 / 16, 1 / 8, 1 / 2))
    assert asked(shares, 1e12, method=LoRA(rank=3, alpha=6.0)).recipe.method == LoRA(rank=3, alpha=6.0)


def test_a_law_that_is_not_good_is_warned_of(laws: LawSet) -> None:
    uncertain = LawSet(laws=tuple(law.model_copy(update={"status": "biased"}) for law in laws.laws))
    assert any("is not good" in line for line in asked(uncertain).warnings)


def test_a_law_of_a_method_far_behind_is_not_warned_of(laws: LawSet) -> None:
    """At 1e10 FLOP full fine-tuning is out of contention: what its law lacks changes no decision."""
    uncertain = LawSet(laws=tuple(law.model_copy(update={"status": "biased"}) for law in laws.laws))
    found = asked(uncertain, 1e10)
    assert found.certainty is not None
    behind = {name for name, share in found.certainty.methods.items() if share < 0.01}
    assert behind, found.certainty.methods
    warned = [line for line in found.warnings if "is not good" in line]
    assert len(warned) == len(uncertain.laws) - len(behind)
    assert not any(f"the {name}" in line for name in behind for line in warned)


def test_a_set_survives_its_file_and_recommends_the_same(laws: LawSet, tmp_path: Path) -> None:
    laws.save(tmp_path / "law.json")
    again = LawSet.load(tmp_path / "law.json")
    assert again == laws
    assert asked(again) == asked(laws)
    one = LawSet(laws=laws.laws[:1])
    one.save(tmp_path / "one.json")
    assert LawSet.load(tmp_path / "one.json") == one
    (tmp_path / "torn.json").write_text((tmp_path / "law.json").read_text()[:-90])
    with pytest.raises(InputError, match="is not a law"):
        LawSet.load(tmp_path / "torn.json")


def test_the_law_that_ships_speaks_where_it_holds_and_the_rule_elsewhere(
    laws: LawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "LAWS_FOLDER", tmp_path)
    assert shipped_law("nano") is None
    laws.save(tmp_path / "nano.json")
    budget = Budget(stated="", flop=TARGET)
    assert recommend(budget, NANO).certainty is not None
    assert recommend(budget, NANO, setup=PartialSetup(batch_pairs=128)).certainty is None
    assert recommend(budget, NANO, method=Bias()).certainty is None
    assert recommend(Budget.parse("1e17"), PYTHIA).certainty is None


def test_loss_gap_order_and_crossover_never_contradict(laws: LawSet) -> None:
    """All of a recommendation is one estimator: what is behind lies behind by what the losses say, in their order."""
    for flop in (1e10, 1e11, 1e12, 2.5e13):
        found = asked(laws, flop)
        best = there(there(found.loss).value)
        for ranked in (found.runners_up, found.methods):
            gaps = [there(there(each.behind).value) for each in ranked]
            assert gaps == sorted(gaps)
            for each, gap in zip(ranked, gaps, strict=True):
                assert gap == pytest.approx(there(there(each.loss).value) - best, abs=1e-12)
        ahead = there(found.crossover)
        if flop in (ahead.looked_at[0], ahead.looked_at[1]):
            assert found.methods[0].recipe.method.name == (ahead.second if flop == ahead.looked_at[1] else ahead.first)


def test_near_a_crossover_it_agrees_with_the_choice(laws: LawSet) -> None:
    """Between two budgets of its grid it named a method ahead which the recommendation had behind."""
    near = there(there(asked(laws, 1e12).crossover).flop.value)
    for flop in near * np.linspace(0.9, 1.1, 11):
        found = asked(laws, float(flop))
        crossing = there(found.crossover)
        ahead = crossing.second if flop >= there(crossing.flop.value) else crossing.first
        assert found.recipe.method.name == ahead


def test_no_crossover_in_sight_is_said_to_be_unbounded(laws: LawSet) -> None:
    """In the lowest budgets full is ahead throughout; asked either way round, that is what is said."""
    frontier = Frontier(laws, request())
    found = [frontier.crossover(*pair, [3e9, 6e9, 1e10]) for pair in (("full", "lora"), ("lora", "full"))]
    assert found[0] == found[1]
    assert there(found[0]).describe() == "full is ahead of lora at every budget from 3e+09 to 1e+10 FLOP"
    close = frontier.crossover("full", "lora", np.geomspace(1e11, 1e13, 9).tolist())
    noisy = Frontier(law_set(noise=0.03), request()).crossover("full", "lora", np.geomspace(1e11, 1e13, 9).tolist())
    assert there(close).never < 0.1
    assert there(noisy).never > 0.02
    assert there(noisy).flop.high is None
    assert "unbounded above" in there(noisy).describe()


def test_rules_obey_limits_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(MODULE, "LAWS_FOLDER", tmp_path)
    budget = Budget.parse("1e13")
    free = recommend(budget, NANO).recipe
    assert recommend(budget, NANO, constraints=Constraints(max_params=200_000)).recipe.model.params <= 200_000
    assert recommend(budget, NANO, constraints=Constraints(methods=("lora",))).recipe.method.name == "lora"
    with pytest.raises(InputError, match="only choice of the rule"):
        recommend(budget, NANO, constraints=Constraints(methods=("lora", "bias")))
    with pytest.raises(InputError, match="needs a law"):
        recommend(budget, NANO, constraints=Constraints(repeats="measured"))
    for limit, value in (("max_params", 10), ("max_index_bytes", 95), ("max_query_flop", 1e3)):
        with pytest.raises(InputError, match=f"`{limit}` must leave a model"):
            recommend(budget, NANO, constraints=Constraints(**{limit: value}))
    narrow = Constraints(max_index_bytes=4 * 48)
    limited = recommend(budget, NANO, constraints=narrow)
    assert limited.recipe.model.hidden <= 48 < free.model.hidden
    left = [model.name for model in NANO.models if model.hidden <= 48]
    assert f"`max_index_bytes`: {len(left)} of {len(NANO.models)} sizes are left, up to {left[-1]}" in str(
        limited.known
    )
    cheap = Constraints(max_query_flop=2 * 14 * 51_000)  # the assumed queries have 14 tokens
    assert recommend(budget, NANO, constraints=cheap).recipe.model.params <= 51_000
    wide = Request.of(budget, NANO, options=Options(matryoshka=(64, 24)), constraints=narrow)
    assert recommend(wide).recipe.model == free.model
    served = recommend(budget, NANO, constraints=Constraints(serving_tokens=1e7)).recipe
    assert served.model.params <= free.model.params
    assert served.flop < free.flop
    capped = recommend(budget, NANO, constraints=Constraints(pairs=30_000)).recipe
    assert (capped.epochs or 0) <= 1


def test_data_of_the_law_are_those_of_its_runs(laws: LawSet) -> None:
    assert laws.settings.data == DATA.fingerprint
