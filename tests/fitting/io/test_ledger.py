"""A ledger's runs become points of one setting; what would mix settings is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.io.ledger import group_runs, read_ledger
from isoembed.fitting.settings import TestedSetting, method_labelled, settings_tested
from isoembed.laws import law_named
from isoembed.methods import Bias, Freeze, Full, LoRA
from isoembed.methods.retired import DoRA
from isoembed.options import Options
from isoembed.recipe import EarlyStopping
from isoembed.records import Heldout, Ledger, RunRecord
from tests.fitting.ledgers import DATA, lora, planned, runs
from tests.sweep.fake import record

HOFFMANN, EMBEDDING = law_named("hoffmann"), law_named("embedding")


def changed(run: RunRecord, **changes: Any) -> RunRecord:
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changes)})


def test_points_are_the_columns_of_the_records() -> None:
    records = runs()
    full, adapters = group_runs(records, [HOFFMANN])
    mine = [run for run in records if run.recipe.method.name == "full"]
    assert full.method == "full"
    assert full.points.params.tolist() == [run.recipe.model.params for run in mine]
    assert full.points.tokens.tolist() == [run.tokens for run in mine]
    assert full.points.flop.tolist() == [run.model_flop for run in mine]
    assert full.points.loss.tolist() == [run.heldout.loss for run in mine if run.heldout]
    assert set(full.points.fraction.tolist()) == {1.0}
    other = next(run for run in records if run.recipe.method.name == "lora")
    assert adapters.points.fraction[0] == pytest.approx(other.updated_params / other.forward_params)
    assert adapters.points.fraction[0] < 0.2
    assert (full.settings.family, full.settings.batch_pairs, full.settings.heldout) == ("nano", 64, "h")
    assert (full.settings.target, full.settings.tokenizer, full.settings.data) == ("heldout", "t", "d")


def test_columns_and_target_can_be_chosen() -> None:
    records = runs(methods={"full": None})
    group = group_runs(records, [HOFFMANN], {"params": "total_params", "flop": "all_in_flop"}, target="training")[0]
    assert group.points.params[0] == records[0].recipe.model.total_params
    assert group.points.flop[0] == records[0].all_in_flop
    assert set(group.points.loss) == {1.0}
    assert (group.settings.params, group.settings.flop, group.settings.heldout) == ("total_params", "all_in_flop", None)
    assert group.settings.size(NANO.models[0]) == NANO.models[0].total_params
    with pytest.raises(InputError, match="may be params or total_params"):
        group_runs(records, [HOFFMANN], {"loss": "final_loss"})


def test_a_law_that_reads_the_share_takes_all_ranks_and_another_takes_each_alone() -> None:
    records = runs(methods={"lora": None}, shares=(1 / 8, 1 / 2))
    assert [group.method for group in group_runs(records, [HOFFMANN])] == ["lora r=d/2", "lora r=d/8"]
    for laws in ([EMBEDDING], [HOFFMANN, EMBEDDING]):
        together = group_runs(records, laws)
        assert [group.method for group in together] == ["lora"]
        assert [tried.label for tried in together[0].tested_settings] == ["lora r=d/8", "lora r=d/2"]


def test_ranks_carry_over_to_other_sizes_as_they_were_chosen() -> None:
    small, large = NANO.models[0], NANO.models[-1]
    by_width = settings_tested([(lora(model, 1 / 4), model.hidden) for model in NANO.models])
    assert {tried.label for tried in by_width} == {"lora r=d/4"}
    assert by_width[0].on(large) == LoRA(rank=large.hidden // 4, alpha=large.hidden / 2)
    by_rank = settings_tested([(LoRA(rank=8, alpha=16.0), model.hidden) for model in NANO.models])
    assert by_rank[0].on(small) == by_rank[0].on(large) == LoRA(rank=8, alpha=16.0)
    assert TestedSetting(method=Freeze(fraction=0.25)).on(large) == Freeze(fraction=0.25)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("batch pairs 64 there, 32 here", {"batch_pairs": 32}),
        ("context tokens 75 there, 64 here", {"context_tokens": 64}),
        ("temperature 0.025 there, 0.05 here", {"temperature": 0.05}),
        ("pooling mean there, last here", {"pooling": "last"}),
        ("options none there, candidates over 0.1 .* here", {"options": Options(mask_margin=0.1)}),
        ("hard negatives 0 there, 2 here", {"data": DATA.model_copy(update={"negatives": 2.0})}),
        ("family nano there, custom here", {"family": "custom"}),
        ("semantics", {"semantics": 99}),
        ("other weights for nano-", {"base_hash": "random"}),
    ],
)
def test_runs_of_other_settings_are_refused(what: str, changes: dict[str, Any]) -> None:
    records = runs(methods={"full": None})
    records[1] = changed(records[1], **changes)
    with pytest.raises(InputError, match=rf"A law needs runs alike: .* differ .*{what}.*; put the others"):
        group_runs(records, [HOFFMANN])


def test_runs_scored_on_another_held_out_set_are_refused_unless_the_training_loss_is_fitted() -> None:
    records = runs(methods={"full": None})
    other = Heldout(loss=3.0, pairs=4096, candidates=1024, fingerprint="other")
    records[3] = records[3].model_copy(update={"heldout": other})
    with pytest.raises(InputError, match=r"those of the runs differ \(held-out set h there, other here\)"):
        group_runs(records, [HOFFMANN])
    assert group_runs(records, [HOFFMANN], target="training")


def test_seeds_are_repeats_and_of_learning_rates_the_best_stands() -> None:
    records = runs(noise=0.01, methods={"full": None}, seeds=3)
    points = group_runs(records, [HOFFMANN])[0].points
    assert len(points) == len(records)
    assert points.seed_sd() == pytest.approx(0.01, rel=0.4)
    base = planned(1e11, NANO.models[1], Full())
    tuned = [
        record(base.model_copy(update={"learning_rate": rate, "seed": seed}), loss)
        for rate, loss in ((1e-4, 9.0), (1e-3, 5.0), (1e-2, 7.0))
        for seed in (0, 1)
    ]
    group = group_runs([*runs(methods={"full": None}, budgets=(1e12,)), *tuned], [HOFFMANN])[0]
    assert 5.0 in group.points.loss
    assert not {9.0, 7.0} & set(group.points.loss)
    assert group.notes == ("4 runs at worse learning rates of the same recipe left out",)


def test_a_ledger_is_read_from_its_folder_and_damage_is_noted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    records = runs(methods={"full": None})
    for run in records:
        ledger.add(run)
    group = read_ledger(tmp_path / "ledger", [HOFFMANN])[0]
    assert len(group.points) == len(records)
    (tmp_path / "ledger" / "records" / "torn.json").write_text("{")
    assert read_ledger(tmp_path / "ledger", [HOFFMANN])[0].notes == ("1 damaged records left out",)


def test_runs_without_the_loss_asked_for_are_refused() -> None:
    blind = [run.model_copy(update={"heldout": None}) for run in runs(methods={"full": None})]
    with pytest.raises(InputError, match="needs runs with a heldout loss"):
        group_runs(blind, [HOFFMANN])
    with pytest.raises(InputError, match="needs runs with a heldout loss"):
        group_runs([], [HOFFMANN])


def test_labels_of_tables_name_methods() -> None:
    assert method_labelled("lora r=32") == LoRA(rank=32, alpha=64.0)
    assert method_labelled("dora r=16") == DoRA(rank=16, alpha=32.0)
    assert method_labelled("dora r=0") is None
    assert method_labelled("freeze 0.5") == Freeze(fraction=0.5)
    assert (method_labelled("full"), method_labelled("bias")) == (Full(), Bias())
    assert [method_labelled(label) for label in ("lora r=x", "freeze 7", "adapter", "full 3", "")] == [None] * 5


def test_a_ledger_of_damage_alone_says_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\n" * 5000))
    with pytest.raises(InputError, match=r"no record of x\.jsonl\.gz can be read: .*line 1001 .*too few are records"):
        read_ledger(tmp_path / "x.jsonl.gz", [law_named("hoffmann")])


def test_runs_that_ended_early_or_keep_an_earlier_step_are_left_out() -> None:
    """Their loss is not that of their D: a law would take it for a forecast of all tokens."""
    whole = runs()
    patient = whole[0].recipe.model_copy(update={"early_stopping": EarlyStopping(patience=2), "seed": 7})
    early = whole[0].model_copy(update={"recipe": patient, "tokens": whole[0].tokens // 2})
    to_its_end = whole[0].model_copy(update={"recipe": patient})
    best = whole[1].model_copy(update={"kept_step": 3})
    assert [run.to_the_end for run in (whole[0], early, to_its_end, best)] == [True, False, True, False]
    with_them, without = (group_runs(each, [law_named("hoffmann")]) for each in ([*whole, early, best], whole))
    assert [len(group.points) for group in with_them] == [len(group.points) for group in without]
    assert all("2 runs that ended early" in " ".join(group.notes) for group in with_them)
    with pytest.raises(InputError, match="ended early or keep the weights"):
        group_runs([early, best], [law_named("hoffmann")])
