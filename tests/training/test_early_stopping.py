"""The held-out loss as a run goes: what is kept, what ends a run, and that kills and ranks change none of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData, prepare
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Full, LoRA, Method
from isoembed.recipe import EarlyStopping, Recipe
from isoembed.records import Heldout, RunRecord
from isoembed.training import loop
from isoembed.training.checkpoint import checkpoints, save_checkpoint
from isoembed.training.distributed import rank
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_loss
from isoembed.training.loop import run
from isoembed.training.step import Trainer
from tests.training.small import MODEL, StopAfter, on_two_ranks, recipe, small_data

REAL = loop._heldout
BEST = EarlyStopping(keep="best", eval_steps=2)


def planted_loss(trainer: Trainer, data: PairData) -> Heldout:
    """In place of the loop's held-out loss, least after step 6, and MRR, greatest after step 8."""
    taken = max((int(state["step"]) for state in trainer.optimizer.state.values()), default=0)
    loss, mrr = 1.0 + abs(6 - taken), 0.5 - abs(8 - taken) / 20
    return Heldout(loss=loss, mrr=mrr, pairs=60, candidates=60, fingerprint="planted")


@pytest.fixture(autouse=True)
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real loss that falls first and then rises would be of this machine's rounding."""
    monkeypatch.setattr(loop, "_heldout", planted_loss)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


def ruled(data: PairData, rule: EarlyStopping, method: Method | None = None, steps: int = 10) -> Recipe:
    return recipe(data, method, steps=steps).model_copy(update={"early_stopping": rule})


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in encoder.named_parameters()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def facts(record: RunRecord) -> dict[str, Any]:
    """What does not depend on the machine's speed."""
    shown = record.model_dump(include={"heldout", "heldout_last", "kept_step", "evaluation_flop", "steps", "tokens"})
    return shown | {"evaluations": [(point.step, point.loss) for point in record.evaluations]}


@pytest.mark.parametrize("method", [Full(), LoRA(rank=4, alpha=8.0)], ids=["full", "lora"])
def test_the_best_weights_are_kept_and_both_losses_recorded(method: Method, data: PairData, tmp_path: Path) -> None:
    """And to look changes nothing: the losses of the steps are those of a run that does not."""
    encoder, record = run(ruled(data, BEST, method), data, tmp_path / "best")
    assert [(point.step, point.loss) for point in record.evaluations] == [(2, 5), (4, 3), (6, 1), (8, 3), (10, 5)]
    assert record.heldout is not None
    assert record.heldout_last is not None
    assert (record.kept_step, record.heldout.loss, record.heldout_last.loss) == (6, 1, 5)
    tokens = sum(int(data.store.kept_tokens(side)[data.heldout].sum()) for side in ("query", "positive"))
    assert record.evaluation_flop == 5 * 2 * record.forward_params * tokens
    assert not record.to_the_end
    plain = ruled(data, EarlyStopping(), method)
    with pytest.raises(StoppedError):
        run(plain, data, tmp_path / "last", callbacks=[StopAfter(6)])
    sixth = load_file(checkpoints(tmp_path / "last")[-1] / "model.safetensors")
    assert same({name: value for name, value in weights(encoder).items() if name in sixth}, sixth)
    _, last = run(plain, data, tmp_path / "last", execution=Execution(resume=True))
    assert [point.loss for point in last.loss_curve] == [point.loss for point in record.loss_curve]
    assert (last.evaluations, last.evaluation_flop, last.heldout_last, last.to_the_end) == ((), 0, None, True)
    assert plain.key == recipe(data, method, steps=10).key != record.key


@pytest.mark.parametrize("step", [1, 2, 5, 8, 10])
def test_resumed_is_bitwise_uninterrupted(step: int, data: PairData, tmp_path: Path) -> None:
    """Stopped before the best one, at an evaluation, after it, at the end: of all of it the same is kept."""
    planned = ruled(data, BEST)
    whole_encoder, whole = run(planned, data, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(planned, data, tmp_path / "part", callbacks=[StopAfter(step)])
    encoder, record = run(planned, data, tmp_path / "part", execution=Execution(resume=True))
    assert facts(record) == facts(whole)
    assert same(weights(encoder), weights(whole_encoder))


def test_the_best_by_mrr_may_be_another(data: PairData, tmp_path: Path) -> None:
    """As where the loss turns before the ranking does; patience goes by the same."""
    rule = EarlyStopping(keep="best", eval_steps=2, patience=2, metric_for_best_model="mrr")
    _, record = run(ruled(data, rule, steps=40), data, tmp_path)
    assert record.heldout is not None
    assert (record.kept_step, record.heldout.mrr, record.heldout.loss, record.steps) == (8, 0.5, 3, 12)


def test_a_kill_after_an_evaluation_changes_nothing(
    data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next checkpoint: the best weights are of a step that the run takes once more."""
    planned, every = ruled(data, BEST), Execution(checkpoint_seconds=0)
    whole_encoder, whole = run(planned, data, tmp_path / "whole", execution=every)

    def crash(folder: Path, state: Any, *args: Any, **kwargs: Any) -> Path:
        if state.step == 7:
            raise KeyboardInterrupt
        return save_checkpoint(folder, state, *args, **kwargs)

    monkeypatch.setattr(loop, "save_checkpoint", crash)
    with pytest.raises(KeyboardInterrupt):
        run(planned, data, tmp_path / "part", execution=every)
    monkeypatch.setattr(loop, "save_checkpoint", save_checkpoint)
    encoder, record = run(planned, data, tmp_path / "part", execution=Execution(checkpoint_seconds=0, resume=True))
    assert facts(record) == facts(whole)
    assert same(weights(encoder), weights(whole_encoder))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_patience_ends_a_run_and_it_stays_ended(keep: Any, data: PairData, tmp_path: Path) -> None:
    planned = ruled(data, EarlyStopping(keep=keep, patience=2, eval_steps=1), steps=40)
    encoder, record = run(planned, data, tmp_path)
    losses = [point.loss for point in record.evaluations]
    assert (record.steps, losses) == (8, [6, 5, 4, 3, 2, 1, 2, 3])
    assert not record.to_the_end
    assert record.heldout is not None
    assert record.heldout.loss == (min(losses) if keep == "best" else losses[-1])
    again_encoder, again = run(planned, data, tmp_path, execution=Execution(resume=True))
    assert facts(again) == facts(record)
    assert same(weights(again_encoder), weights(encoder))


def test_by_default_every_epoch_is_evaluated(data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15 batches, for 240 pairs of 16; by the real loss."""
    monkeypatch.setattr(loop, "_heldout", REAL)
    encoder, record = run(ruled(data, EarlyStopping(keep="best"), steps=37), data, tmp_path)
    assert [point.step for point in record.evaluations] == [15, 30, 37]
    found = heldout_loss(encoder, data, temperature=0.025)
    assert record.heldout is not None
    assert found is not None
    assert min(point.loss for point in record.evaluations) == record.heldout.loss == pytest.approx(found.loss, 1e-6)


def test_what_cannot_be_is_refused(data: PairData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`eval_steps` needs something to evaluate for"):
        EarlyStopping(eval_steps=5)
    with pytest.raises(InputError, match="`metric_for_best_model` needs something to evaluate for"):
        EarlyStopping(metric_for_best_model="mrr")
    with pytest.raises(InputError, match="`metric_for_best_model` must be"):
        EarlyStopping(keep="best", metric_for_best_model="ndcg")
    with pytest.raises(InputError, match="patience"):
        EarlyStopping(patience=0)
    rows = "".join(json.dumps({"query": f"what is {n}", "pos": f"it is {n} of all"}) + "\n" for n in range(60))
    (tmp_path / "pairs.jsonl").write_text(rows)
    none = prepare(
        str(tmp_path / "pairs.jsonl"),
        load_tokenizer(MODEL.source),
        context_tokens=32,
        folder=tmp_path / "tokens",
        heldout_pairs=0,
    )
    with pytest.raises(InputError, match="the data leave none; give `heldout`"):
        run(ruled(none, BEST), none, tmp_path / "run")


def test_damaged_best_weights_are_named(data: PairData, tmp_path: Path) -> None:
    planned = ruled(data, BEST)
    with pytest.raises(StoppedError):
        run(planned, data, tmp_path, callbacks=[StopAfter(5)])
    file = checkpoints(tmp_path)[-1] / "best.safetensors"
    for broken in (b"", file.read_bytes()[:50]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match="is damaged"):
            run(planned, data, tmp_path, execution=Execution(resume=True))


def _sharded(number: int, folder: Path) -> None:
    loop._heldout = planted_loss
    data = small_data(folder / f"data{number}")
    planned, shard = ruled(data, BEST), Execution(device="cpu", shard=True, checkpoint_seconds=0)
    encoder, record = run(planned, data, folder / "whole", execution=shard)
    with pytest.raises(StoppedError):
        run(planned, data, folder / "part", execution=shard, callbacks=[StopAfter(8)])
    again, resumed = run(planned, data, folder / "part", execution=replace(shard, resume=True))
    assert facts(resumed) == facts(record)
    assert same(weights(again), weights(encoder))
    if rank() == 0:
        torch.save(weights(encoder), folder / "weights.pt")
        record.save(folder / "record.json")


def test_two_ranks_that_share_the_weights_keep_the_same(data: PairData, tmp_path: Path) -> None:
    """Whole weights are kept of slices, saved, and put back into slices."""
    for number in range(2):
        (tmp_path / f"data{number}").mkdir()
    on_two_ranks(_sharded, tmp_path)
    encoder, record = run(ruled(data, BEST), data, tmp_path / "single")
    assert facts(RunRecord.load(tmp_path / "record.json")) == facts(record)
    for name, value in torch.load(tmp_path / "weights.pt").items():
        torch.testing.assert_close(value, dict(encoder.named_parameters())[name], rtol=1e-3, atol=1e-4)
