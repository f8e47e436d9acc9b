"""What fewer dimensions cost: read off a ledger's runs, kept in the law, used where an index may take few bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.level import levelled
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.options import Options
from isoembed.recipe import DataStats, PartialSetup, Recipe
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.frontier import Frontier
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation
from isoembed.records import RunRecord
from isoembed.report.terminal.recommendation import recommendation_text
from tests.fitting.ledgers import BUDGETS, runs
from tests.recommendation.test_advice import shown
from tests.sweep.fake import record

HOFFMANN = law_named("hoffmann")
UNLIMITED = DataStats(fingerprint="d", tokenizer="t", pairs=10**12)
WIDE = "nano-113k"  #: 48 dimensions; the best at `FLOP`
FLOP = 20 * BUDGETS[-1]
#: planted: of ln loss, by dimensions
COST = {24: 0.01, 12: 0.05, 6: 0.4}


def to(recipe: Recipe, dimensions: int) -> Recipe:
    return recipe.model_copy(update={"options": Options(dimensions=dimensions)})


def narrow(plain: RunRecord, dimensions: int, cost: float, seed: int = 0) -> RunRecord:
    """The same run with a projection."""
    assert plain.heldout is not None
    recipe = to(plain.recipe, dimensions).model_copy(update={"seed": seed})
    return record(recipe, plain.heldout.loss * math.exp(cost))


def best(found: list[RunRecord], model: str, method: str = "full") -> list[RunRecord]:
    """That model's runs at the highest budget."""
    mine = [run for run in found if (run.recipe.model.name, run.recipe.method.name) == (model, method)]
    top = max(run.recipe.flop for run in mine)
    return [run for run in mine if run.recipe.flop > 0.99 * top]


def ledger(costs: Mapping[int, float] = COST, methods: Sequence[str] = ("full", "lora")) -> list[RunRecord]:
    plain = runs(seeds=2)
    varied = [run for method in methods for run in best(plain, WIDE, method)]
    return [*plain, *(narrow(run, dims, cost, run.recipe.seed) for dims, cost in costs.items() for run in varied)]


def fitted(found: list[RunRecord]) -> LawSet:
    return LawSet(
        laws=tuple(
            study([HOFFMANN], group, source="planted", draws=200, by=()) for group in group_runs(found, [HOFFMANN])
        )
    )


@pytest.fixture(scope="module")
def laws() -> LawSet:
    return fitted(ledger())


def asked(
    laws: LawSet, *, flop: float = FLOP, options: Options | None = None, other: bool = False, **limits: float
) -> Recommendation:
    budget, setup = Budget(stated="", flop=flop), PartialSetup(options=options)
    constraints = Constraints.model_validate(limits)
    return recommend(budget, NANO, law=laws, setup=setup, data=UNLIMITED, constraints=constraints, other_settings=other)


def test_offsets_are_those_planted_and_the_law_is_fitted_without_them(laws: LawSet) -> None:
    """A mean over other seeds, or of losses in place of their logarithms, would lie off."""
    plain = fitted(runs(seeds=2))
    (full, lora), other = laws.laws, plain.laws[0]
    assert full.params == other.params
    assert {each.dimensions: each.offset for each in full.widths} == pytest.approx(COST)
    for each in full.widths:
        assert (each.model, each.runs) == (WIDE, 2)
        assert each.flop == pytest.approx(BUDGETS[-1], rel=1e-3)
        assert each.error == pytest.approx(full.run_noise)  # of two means of two runs each
    assert {each.dimensions: each.offset for each in lora.widths} == pytest.approx(COST)
    assert other.widths == ()
    assert any("24 dimensions by a learned projection" in line and WIDE in line for line in full.notes)


def test_only_seeds_that_both_have_are_compared() -> None:
    plain = runs(seeds=2)
    odd = next(run for run in best(plain, WIDE) if run.recipe.seed == 1)
    (group, _) = group_runs([*plain, narrow(odd, 12, 0.05, seed=1)], [HOFFMANN])
    (found,) = group.widths
    assert found.measured(0.01).offset == pytest.approx(0.05)
    assert found.measured(0.01).error == pytest.approx(0.01 * math.sqrt(2))
    (group, _) = group_runs([*plain, narrow(odd, 12, 0.05, seed=7)], [HOFFMANN])
    (found,) = group.widths
    assert len(found.plain_losses) == 2


def test_it_is_kept_in_the_law_file_and_old_ones_have_none(laws: LawSet, tmp_path: Path) -> None:
    laws.save(tmp_path / "laws.json")
    assert LawSet.load(tmp_path / "laws.json") == laws
    plain = fitted(runs())
    assert "widths" not in plain.laws[0].model_dump(mode="json", exclude_defaults=True)  # nor in its digest
    changed = (tmp_path / "laws.json").read_text().replace('"dimensions": 12', '"dimensions": 16')
    (tmp_path / "laws.json").write_text(changed)
    with pytest.raises(InputError, match="changed after it was written"):
        LawSet.load(tmp_path / "laws.json")


def test_few_bytes_choose_a_projection_that_was_measured(laws: LawSet) -> None:
    """Else the limit leaves narrow models alone, which are small, and worse here."""
    free = asked(laws, max_index_bytes=10_000)
    assert free.recipe.options.dimensions is None
    assert free.recipe.model.name == WIDE
    without = asked(fitted(runs(seeds=2)), max_index_bytes=96)
    assert without.recipe.model.hidden <= 24
    limited = asked(laws, max_index_bytes=96)
    assert limited.recipe.model.name == WIDE
    assert limited.recipe.options == Options(dimensions=24)
    assert limited.loss is not None
    assert without.loss is not None
    assert (limited.loss.value or 9) < (without.loss.value or 0)
    (line,) = (each for each in limited.known if "learned projection" in each)
    assert "measured: +0.0" in line
    assert f"on {WIDE} at" in line
    assert not any("sizes are left" in each for each in limited.known)
    text = shown(recommendation_text(limited))
    assert f"{WIDE} to 24" in text  # among the methods' best
    assert "48 to 24 dimensions, 1,152 weights trained beside the method's" in text
    tighter = asked(laws, max_index_bytes=48)  # 12 dimensions: below all models
    assert tighter.recipe.options == Options(dimensions=12)
    with pytest.raises(InputError, match="max_index_bytes"):
        asked(laws, max_index_bytes=20)


def test_a_projection_that_costs_more_than_a_narrow_model_is_not_chosen() -> None:
    found = asked(fitted(ledger({24: 0.5})), max_index_bytes=96)
    assert found.recipe.options.dimensions is None
    assert found.recipe.model.hidden <= 24


def test_its_cost_and_its_uncertainty_are_in_the_forecast(laws: LawSet) -> None:
    """Draw by draw: one draw of the offset for all candidates that rest on one measurement."""
    spend = Budget(stated="", flop=FLOP)
    request = Request(budget=spend, family=NANO, data=UNLIMITED, batch_pairs=64, context_tokens=75).complete()
    plain, projected = (Frontier(laws, each).at(FLOP) for each in (request, request.projected(12)))
    assert [each.model.name for each in projected.candidates] == [WIDE, WIDE]
    for k, candidate in enumerate(projected.candidates):
        same = [each.name for each in plain.candidates].index(candidate.name.removesuffix(" to 12 dimensions"))
        log_B = np.log(projected.samples.loss_BK[:, k] / plain.samples.loss_BK[:, same])
        assert candidate.width is not None
        assert log_B.mean() == pytest.approx(COST[12], abs=1e-6)
        assert log_B.std() == pytest.approx(candidate.width.error, rel=0.15)
    only: dict[str, Any] = {"max_params": float(NANO.model(WIDE).params)}
    found = asked(laws, options=Options(dimensions=12), **only)
    near = asked(laws, flop=BUDGETS[-1], options=Options(dimensions=12))
    assert any("cost the same share of the loss here" in line for line in found.assumed)
    assert not any("cost the same share of the loss here" in line for line in near.assumed)


def test_dimensions_that_were_not_measured_are_refused() -> None:
    """A law is of one width; of another it says something only where there were runs, of that method."""
    laws = fitted(ledger(methods=("full",)))
    found = asked(laws, options=Options(dimensions=12))
    assert found.recipe.model.name == WIDE
    assert found.recipe.method.name == "full"
    assert any(f"only {WIDE} considered" in line for line in found.warnings)
    with pytest.raises(InputError, match="projected to 21 dimensions"):
        asked(laws, options=Options(dimensions=21))
    forced = asked(laws, options=Options(dimensions=21), other=True)
    assert forced.recipe.options.dimensions == 21
    with pytest.raises(InputError, match="options"):
        asked(laws, options=Options(dimensions=12, ema_decay=0.9))
    advised = asked(laws, options=Options(dimensions=12, bidirectional=True))  # each was taken, and both refused
    assert (advised.recipe.options.dimensions, advised.loss) == (12, None)


def test_models_narrower_than_what_is_asked_for_are_no_candidates() -> None:
    """The best of all would be refused only when its recipe is made."""
    found = [
        record(to(run.recipe, 32), run.heldout.loss) for run in runs() if run.heldout and run.recipe.model.hidden >= 32
    ]
    of_one_width = fitted(found)
    chosen = asked(of_one_width, flop=BUDGETS[-1], options=Options(dimensions=32))
    assert chosen.recipe.model.hidden >= 32
    free = asked(fitted(runs()), flop=BUDGETS[-1])
    assert free.recipe.model.hidden < 32


def test_at_another_level_it_is_not_known(laws: LawSet) -> None:
    """Runs on other pairs show a level, not what a width costs there."""
    elsewhere = runs(budgets=BUDGETS[-3:], methods={"full": 0})
    groups = group_runs(elsewhere, [HOFFMANN])
    assert all(law.widths == () for law in levelled(laws, groups, "elsewhere").laws)
