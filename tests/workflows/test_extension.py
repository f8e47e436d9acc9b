"""A finished run that is extended to a larger budget: the very weights of a run that began anew, at the price of the
rest; and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData
from isoembed.encoder.encoder import Encoder
from isoembed.methods import Full, LoRA, Method
from isoembed.options import Options, Teacher
from isoembed.recipe import EarlyStopping, Recipe
from isoembed.records import RECORD, RunRecord
from isoembed.scratch import TRUNK
from isoembed.sweep.folder import SweepFolder
from isoembed.training.checkpoint import LoopState, branch, checkpoints, remove_checkpoints, trainable_of
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.workflows.job import Job, plan_extension, trunk_of
from isoembed.workflows.sweep import extend
from tests.sweep.fake import planned_run, record
from tests.training.small import StopAfter, recipe, small_data

#: a full run, and adapters of which the best average is kept
KINDS: dict[str, tuple[Method, Options, EarlyStopping]] = {
    "full": (Full(), Options(schedule="wsd"), EarlyStopping()),
    "lora": (
        LoRA(rank=4, alpha=8.0),
        Options(schedule="wsd", decay_fraction=0.3, ema_decay=0.4),
        EarlyStopping(keep="best", eval_steps=2),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def data(folder: Path) -> PairData:
    return small_data(folder)


def of_kind(data: PairData, kind: str) -> Recipe:
    method, options, kept = KINDS[kind]
    return recipe(data, method, steps=6).model_copy(update={"options": options, "early_stopping": kept})


def extended(
    short: RunRecord, times: float, data: PairData, folder: Path, *callbacks: StopAfter
) -> tuple[Encoder, RunRecord]:
    """`short`, which was made in the folder beside, with so many times its tokens; gone on with where it was begun."""
    longer = short.recipe.extended(round(times * short.recipe.train_tokens))
    if not checkpoints(folder):
        branch(folder.with_name(f"of-{short.steps}") / TRUNK, folder, longer, short)
    return run(longer, data, folder, execution=Execution(resume=True), callbacks=callbacks)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_run_is_bitwise_one_that_began_anew(kind: str, data: PairData, tmp_path: Path) -> None:
    """Extended twice, stopped in between."""
    planned = of_kind(data, kind)
    _, short = run(planned, data, tmp_path / "of-6")
    _, longer = extended(short, 2, data, tmp_path / "of-12")
    assert (short.steps, longer.steps) == (6, 12)
    with pytest.raises(StoppedError):
        extended(longer, 1.5, data, tmp_path / "of-18", StopAfter(11))
    encoder, longest = extended(longer, 1.5, data, tmp_path / "of-18")

    whole_encoder, whole = run(longest.recipe, data, tmp_path / "whole")
    assert longest.recipe.warmup_tokens == round(0.1 * planned.train_tokens)
    assert (longest.key, whole.inherited) == (whole.key, None)
    for name in ("loss_curve", "heldout", "steps", "tokens", "model_flop", "executed_flop", "kept_step"):
        assert getattr(longest, name) == getattr(whole, name), name
    found = trainable_of(encoder)
    assert all(torch.equal(found[name], value) for name, value in trainable_of(whole_encoder).items())

    taken = longest.inherited
    assert taken is not None
    assert taken.key == longer.key
    falls = next(point.step for point in longer.loss_curve[2:] if point.rate < planned.learning_rate)
    assert short.steps < taken.steps == falls - 1
    assert taken.tokens == longest.loss_curve[taken.steps - 1].tokens
    assert taken.flop == pytest.approx(longest.model_flop * taken.tokens / longest.tokens)


def test_what_the_teacher_read_is_taken_over_too(data: PairData, tmp_path: Path) -> None:
    """And said: `of them` were C alone."""
    planned = of_kind(data, "full")
    _, short = run(planned, data, tmp_path / "of-6")
    teacher = Teacher(source="./t", weights="w", params=1000, width=8, context=64)
    longer = short.recipe.extended(2 * short.recipe.train_tokens)
    taught = longer.model_copy(update={"options": longer.options.model_copy(update={"teacher": teacher})})
    branch(tmp_path / "of-6" / TRUNK, tmp_path / "of-12", taught, short)
    taken = LoopState.model_validate_json((checkpoints(tmp_path / "of-12")[-1] / "state.json").read_text()).inherited
    assert taken is not None
    read = taken.tokens * taught.teacher_flop / taught.train_tokens
    assert taken.teacher_flop == pytest.approx(read) != 0
    assert taken.describe().startswith(f"{taken.flop + read:.3g} FLOP and")


def test_a_key_of_before_stays_and_the_schedule_is_said(data: PairData) -> None:
    plain = recipe(data)
    others = [Options(schedule="wsd"), Options(schedule="wsd", decay_fraction=0.5)]
    assert plain.key == plain.model_copy(update={"options": Options(schedule="cosine")}).key
    assert len({plain.key, *(plain.model_copy(update={"options": each}).key for each in others)}) == 3
    said = plain.model_copy(update={"options": others[1]}).fall_in_words
    assert (plain.fall_in_words, said) == ("cosine to 10%", "decay 50% to 10%")


def test_what_cannot_be_extended_is_refused(
    data: PairData, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, out = of_kind(data, "full"), tmp_path / "a"
    trunk, record = trunk_of(out, folder), out / RECORD

    def plan(budget: float, pairs: str = "pairs.jsonl", model: Path = out) -> Job:
        return plan_extension(model, folder / pairs, budget=budget, cache=folder, trunk=trunk)

    with pytest.raises(InputError, match="A run record must be a file"):
        plan(1e10)
    _, made = run(planned, data, trunk.parent)
    made.save(record)
    assert plan(2 * planned.flop).recipe.train_tokens == pytest.approx(2 * planned.train_tokens, rel=1e-6)
    moved = tmp_path / "elsewhere" / "renamed"  # the cache names a run by its folder
    shutil.copytree(out, moved)
    again = plan_extension(moved, folder / "pairs.jsonl", budget=1e10, cache=folder, trunk=trunk_of(moved, folder))
    assert again.extended is not None
    assert again.extended.trunk == trunk
    with pytest.raises(InputError, match="must have more tokens than the one"):
        plan(planned.flop)
    (folder / "other.jsonl").write_text("".join((folder / "pairs.jsonl").read_text().splitlines(keepends=True)[:200]))
    with pytest.raises(InputError, match=r"are not those that the recipe was made for.* Name those as `data`"):
        plan(1e10, "other.jsonl")
    monkeypatch.setattr("isoembed.workflows.job.computing_hash", lambda _: "another")
    with pytest.raises(InputError, match=r"the configuration of .* has changed\. Put back its config\.json"):
        plan(1e10)
    monkeypatch.undo()
    as_bf16 = planned.extended(2 * planned.train_tokens).model_copy(update={"precision": "bf16"})
    with pytest.raises(InputError, match="begun in, fp32; got bf16"):
        branch(trunk, tmp_path / "b", as_bf16, made)

    remove_checkpoints(trunk.parent)
    assert [each.name for each in trunk.parent.iterdir()] == [trunk.name]
    assert len(checkpoints(trunk)) == 1
    made.model_copy(update={"loss_curve": made.loss_curve[1:]}).save(record)
    with pytest.raises(InputError, match="is not of the run that is recorded"):
        plan(1e10)
    cosine = planned.model_copy(update={"options": Options()})
    made.model_copy(update={"recipe": cosine}).save(record)
    with pytest.raises(InputError, match="this one's is a cosine"):
        plan(1e10)
    made.save(record)
    shutil.rmtree(trunk)
    with pytest.raises(InputError, match="Name that run's `cache`, or train the longer run anew"):
        plan(1e10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"decay_fraction": 0.3}, "give `schedule=wsd` too"),
        ({"schedule": "wsd", "decay_fraction": 0.95}, "at most 0.9"),
        ({"schedule": "linear"}, "cosine"),
    ],
)
def test_schedules_that_are_none_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Options(**given)


def test_a_lost_trunk_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is the same and dearer, and nobody knew why."""
    folder, short = SweepFolder(tmp_path / "ledger"), planned_run("nano-28k", 1e10)
    folder.ledger.add(record(short.recipe))
    longer = planned_run("nano-28k", 2e10).model_copy(update={"extends": short.key})
    extend(folder, longer, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    assert f"The run {longer.key} is made whole, at its full price: " in caplog.text
