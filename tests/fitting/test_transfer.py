"""A law elsewhere: planted worlds where D counts steps, or tokens, or neither; what is refused, stored and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.settings import Settings
from isoembed.fitting.study import study
from isoembed.fitting.validate import Check, check, check_ledger
from isoembed.laws import law_named
from isoembed.methods import Full
from isoembed.recipe import DataStats, PartialSetup
from isoembed.recommendation.frontier import Frontier
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.result import Recommendation
from isoembed.records import Ledger, RunRecord
from tests.fitting.ledgers import DATA, lora, planned, runs, true_loss
from tests.sweep.fake import record

#: of the law's runs
BATCH, CONTEXT = 64, 75
STEP_TOKENS = BATCH * DATA.tokens_per_pair


def law_set() -> LawSet:
    groups = group_runs(runs(), [law_named("hoffmann")])
    return LawSet(
        laws=tuple(study([law_named("hoffmann")], group, source="planted", draws=200, by=()) for group in groups)
    )


@pytest.fixture(scope="module")
def laws() -> LawSet:
    return law_set()


def in_steps(run: RunRecord) -> float:
    """The law's D of a run in a world where steps count."""
    return run.steps * STEP_TOKENS


def in_tokens(run: RunRecord) -> float:
    return run.tokens


def elsewhere(
    counted: Callable[[RunRecord], float], *, batch: int = 256, context: int = CONTEXT, noise: float = 0.003, n: int = 6
) -> list[RunRecord]:
    """`n` runs of full fine-tuning at another batch or context, whose losses are the planted law's of `counted`."""
    chance = np.random.default_rng(3)
    found = []
    for model, flop in [(model, flop) for model in NANO.models[:3] for flop in (1e11, 4e11)][:n]:
        run = record(planned(flop, model, Full(), batch_pairs=batch, context=context), 1.0)
        loss = true_loss(run.recipe.method, model.params, counted(run)) * float(np.exp(noise * chance.normal()))
        assert run.heldout is not None
        found.append(run.model_copy(update={"heldout": run.heldout.model_copy(update={"loss": loss})}))
    return found


def only(found: Check) -> Any:
    (result,) = found.results
    return result.seen


def test_a_world_of_steps_holds_and_its_tokens_do_not(laws: LawSet) -> None:
    seen = only(check(laws, elsewhere(in_steps)))
    assert (seen.verdict, seen.why, seen.n_runs, seen.place) == ("holds", "", 6, (256, CONTEXT))
    assert abs(seen.steps.bias.value) < 0.01
    assert seen.steps.error < 0.01
    assert seen.steps.inside > 0.8
    assert seen.steps.ordered == 1.0
    assert not seen.tokens.holds
    assert seen.tokens.bias.value > 0.02  # a quarter of the steps: worse than the tokens promise


def test_a_world_of_tokens_is_biased_with_numbers(laws: LawSet) -> None:
    seen = only(check(laws, elsewhere(in_tokens)))
    assert seen.verdict == "biased"
    assert "below the forecast in steps, outside what uncertainty and noise allow" in seen.why
    assert seen.tokens.holds


@pytest.mark.parametrize("batch", [16, 32, 128, 512])
def test_steps_are_told_from_tokens_at_any_batch(laws: LawSet, batch: int) -> None:
    assert only(check(laws, elsewhere(in_steps, batch=batch))).verdict == "holds"
    assert only(check(laws, elsewhere(in_tokens, batch=batch))).verdict == "biased"


def test_the_law_itself_is_mostly_called_holding_over_seeds(laws: LawSet) -> None:
    """At a noise equal to the law's, 95 % of verdicts; a bias of several times the noise is never let through."""
    chance = np.random.default_rng(11)
    exact = elsewhere(in_steps, noise=0.0)

    def verdict(offset: float) -> str:
        noisy = [
            run.model_copy(update={"heldout": run.heldout.model_copy(
                update={"loss": run.heldout.loss * float(np.exp(offset + 0.003 * chance.normal()))}
            )})
            for run in exact if run.heldout
        ]  # fmt: skip
        return str(only(check(laws, noisy)).verdict)

    assert [verdict(0.0) for _ in range(20)].count("holds") >= 17
    assert [verdict(0.05) for _ in range(10)].count("holds") == 0


def test_two_runs_or_repeats_of_two_say_nothing(laws: LawSet) -> None:
    two = elsewhere(in_steps, n=2)
    repeats = [
        record(run.recipe.model_copy(update={"seed": seed}), run.heldout.loss)
        for run in two
        for seed in (1, 2)
        if run.heldout
    ]
    for given in (two, two + repeats):
        seen = only(check(laws, given))
        assert (seen.verdict, seen.steps) == ("too-few-runs", None)
        assert "2 different runs, 3 say something" in seen.why


def test_settings_are_judged_one_by_one_and_methods_too(laws: LawSet) -> None:
    other = record(planned(1e11, NANO.models[1], lora(NANO.models[1]), batch_pairs=256), 5.0)
    found = check(laws, [*elsewhere(in_steps), *elsewhere(in_tokens, batch=16), other, *runs()[:4]])
    verdicts = {(each.method, *each.seen.place): each.seen.verdict for each in found.results}
    assert verdicts == {
        ("full", 16, CONTEXT): "biased",
        ("full", 256, CONTEXT): "holds",
        ("lora r=d/8", 256, CONTEXT): "too-few-runs",
    }
    assert found.notes == ("left out, made at the law's own batch and context: 4",)


def test_runs_of_methods_without_a_law_are_named(laws: LawSet) -> None:
    alone = LawSet(laws=laws.laws[:1])
    other = record(planned(1e11, NANO.models[1], lora(NANO.models[1]), batch_pairs=256), 5.0)
    assert check(alone, [*elsewhere(in_steps), other]).notes == ("left out, of methods that no law applies to: 1",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heldout": "other"}, "held-out set h there, other here"),
        ({"temperature": 0.1}, "temperature 0.025 there, 0.1 here"),
        ({"pooling": "last"}, "pooling mean there, last here"),
        ({"data": DATA.model_copy(update={"fingerprint": "e"})}, "training set d there, e here"),
    ],
)
def test_runs_that_differ_in_more_are_refused(laws: LawSet, changes: dict[str, Any], words: str) -> None:
    fingerprint = changes.pop("heldout", "h")
    changed = []
    for run in elsewhere(in_steps):
        assert run.heldout is not None
        again = record(run.recipe.model_copy(update=changes), run.heldout.loss)
        changed.append(
            again.model_copy(update={"heldout": run.heldout.model_copy(update={"fingerprint": fingerprint})})
        )
    with pytest.raises(InputError, match=words):
        check(laws, changed)


def test_pairs_cut_at_another_context_are_not_other_pairs(laws: LawSet) -> None:
    longer = DATA.model_copy(update={"fingerprint": "e", "query_tokens": 40.0, "positive_tokens": 160.0})
    found = [
        record(run.recipe.model_copy(update={"context_tokens": 512, "data": longer}), run.heldout.loss)
        for run in elsewhere(in_steps, batch=BATCH) if run.heldout
    ]  # fmt: skip
    assert only(check(laws, found)).place == (BATCH, 512)


def test_nothing_elsewhere_and_old_laws_are_refused_with_a_remedy(laws: LawSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs at another batch or context than the law's 64 pairs and 75 tokens"):
        check(laws, runs()[:5])

    def changed(**settings: Any) -> LawSet:
        changed = laws.settings.model_copy(update=settings)
        return LawSet(laws=tuple(law.model_copy(update={"settings": changed}) for law in laws.laws))

    with pytest.raises(InputError, match="fit it again to its ledger"):
        check(changed(step_tokens=None), elsewhere(in_steps))
    with pytest.raises(InputError, match="Fit it to a ledger's held-out losses"):
        check(changed(target="training"), elsewhere(in_steps))
    old = laws.laws[0].model_dump(mode="json", exclude={"elsewhere"})
    del old["settings"]["step_tokens"]
    loaded = type(laws.laws[0]).model_validate(old)
    assert (loaded.transfer_checks, loaded.settings.step_tokens) == ((), None)
    assert Settings.model_validate({}).step_tokens is None


# ---- what a verdict opens ---------------------------------------------------------------------------------------


def asked(laws: LawSet, flop: float = 1e12, **options: Any) -> Recommendation:
    data = DataStats(fingerprint="d", tokenizer="t", pairs=10**12)
    settings = {name: options.pop(name) for name in PartialSetup.model_fields if name in options}
    return recommend(Budget(stated="", flop=flop), NANO, law=laws, data=data, setup=PartialSetup(**settings), **options)


@pytest.fixture(scope="module")
def proven(laws: LawSet, tmp_path_factory: pytest.TempPathFactory) -> LawSet:
    """Full holds at 256 pairs and not at 16; read back from its file."""
    folder = tmp_path_factory.mktemp("elsewhere")
    ledger = Ledger(folder / "ledger")
    for run in (*elsewhere(in_steps), *elsewhere(in_tokens, batch=16)):
        ledger.add(run)
    check_ledger(laws, ledger.path).laws.save(folder / "law.json")
    return LawSet.load(folder / "law.json")


def test_where_it_holds_the_law_is_used_in_steps_and_says_so(proven: LawSet) -> None:
    found = asked(proven, batch_pairs=256)
    assert found.recipe.batch_pairs == 256
    assert found.recipe.method.name == "full"
    assert any("a token at this batch and context is 0.25 of the law's" in known for known in found.known)
    assert any("full holds: 6 runs of ledger lie" in known for known in found.known)
    assert "lora r=d/8 left out: not checked at this batch and context" in found.warnings
    # the planted loss at as many steps of the law's own lies inside what is predicted
    truth = true_loss(Full(), found.recipe.model.params, found.recipe.steps * STEP_TOKENS)
    assert found.loss is not None
    low, high = found.loss.ends
    assert low < truth < high
    assert found.reach is not None
    assert found.reach.tokens == pytest.approx(
        0.25 * found.recipe.train_tokens / proven.laws[0].range["tokens"][1], rel=1e-3
    )


def test_the_chosen_size_is_the_planted_best_in_steps(proven: LawSet) -> None:
    def loss(model: Any) -> float:
        tokens = 1e12 / Full().cost(model).flop_per_token
        return true_loss(Full(), model.params, tokens * STEP_TOKENS / (256 * DATA.tokens_per_pair))

    best = min(NANO.models, key=loss)
    assert loss(asked(proven, batch_pairs=256).recipe.model) / loss(best) < 1.01


def test_elsewhere_stays_refused_where_it_failed_or_was_not_checked(proven: LawSet) -> None:
    with pytest.raises(InputError, match=r"checked there, full: biased, the runs lie.*isoembed validate"):
        asked(proven, batch_pairs=16)
    with pytest.raises(InputError, match=r"batch pairs 64 there, 128 here\. Ask"):
        asked(proven, batch_pairs=128)
    with pytest.raises(InputError, match="pooling mean there, last here"):
        asked(proven, batch_pairs=256, pooling="last")
    anyway = asked(proven, batch_pairs=16, other_settings=True)
    assert any("checked there, full: biased" in warning for warning in anyway.warnings)


def test_at_home_nothing_changes(laws: LawSet, proven: LawSet) -> None:
    assert asked(proven) == asked(laws)


def test_a_later_check_replaces_an_earlier_one(proven: LawSet) -> None:
    again = check(proven, elsewhere(in_tokens)).laws
    seen = again.laws[0].at(256, CONTEXT)
    assert seen is not None
    assert seen.verdict == "biased"
    assert len(again.laws[0].transfer_checks) == 2
    with pytest.raises(InputError, match="full: biased"):
        asked(again, batch_pairs=256)


def test_an_exchange_of_one_is_the_frontier_in_tokens(laws: LawSet) -> None:
    from tests.recommendation.test_by_law import request

    plain, same = (Frontier(laws, request(), *given).at(1e12) for given in ((), (1.0,)))
    np.testing.assert_array_equal(plain.samples.loss_BK, same.samples.loss_BK)
