"""Two gloo ranks that share one model's parameters are one process: gradients, losses, weights, checkpoints, export."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData
from isoembed.encoder.embed import embed_ids
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder, is_sharded
from isoembed.encoder.exported import load_exported
from isoembed.encoder.mini_batches import mini_batches_of
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.methods import Freeze, Full, LoRA, Method
from isoembed.recipe import Recipe
from isoembed.records import RunRecord
from isoembed.training import setup
from isoembed.training.callbacks import StepFacts
from isoembed.training.distributed import own_share
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.loss import contrastive_loss
from isoembed.training.memory import measure_footprint
from isoembed.training.sharding import held_elements, shard, whole
from tests.models import configs, tiny
from tests.training.small import (
    METHODS,
    MODEL,
    StopAfter,
    batch_ids,
    negative_ids,
    on_two_ranks,
    recipe,
    scarce,
    small_data,
    small_encoder,
)

SHARDED = Execution(shard=True)
#: some graphs are kept, others run twice
CUT = scarce(kept_tokens=200)
RANKS = (0, 1)
RESUMED: list[Method] = [Full(), LoRA(rank=4, alpha=8.0)]
PAIRS, MEMORY = 8, Memory(24, 60)


def encoder_named(name: str) -> Encoder:
    """The small encoder under the method called `name`, or a tiny half-frozen model of the architecture `name`."""
    for method in METHODS:
        if method.name == name:
            return small_encoder(method)
    return Encoder(Freeze(fraction=0.67).apply(tiny(name)), "mean")


CASES = [*(method.name for method in METHODS), *configs()]


def sorted_batch() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Longest first, so that the first rank has more tokens, and by itself would run more mini-batches, than the
    second."""
    queries, positives = (sorted(side, key=len, reverse=True) for side in batch_ids(PAIRS))
    return queries, positives


def gradient(encoder: Encoder, own: slice) -> tuple[dict[str, torch.Tensor], float]:
    """The whole gradient, from this rank's share of the batch, and its norm."""
    queries, positives = sorted_batch()
    encoder.zero_grad()
    hard = negative_ids(3)  # an odd number: one rank embeds one twice, so that both call the model equally often
    accumulate_gradients(
        WorkerPool(encoder),
        queries[own],
        positives[own],
        lambda q, p, n: contrastive_loss(q, p, 0.05, negative_MD=n[:3]),
        MEMORY,
        negative_ids=[hard[index] for index in own_share(3)],
    )
    trainable = [value for value in encoder.parameters() if value.requires_grad]
    norm = whole(nn.utils.clip_grad_norm_(trainable, 1e9)).item()
    found = {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}
    return {name: whole(value).clone() for name, value in found.items()}, norm


class Norms:
    """Every step's gradient norm before clipping: it shows a factor that AdamW hides."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def start(self, recipe: Recipe, step: int, tokens: int) -> None: ...

    def step(self, facts: StepFacts) -> None:
        self.seen.append(facts.grad_norm)

    def end(self) -> None: ...


def sgd(trainable: list[nn.Parameter], recipe: Recipe) -> torch.optim.SGD:
    """In place of AdamW, which turns the rounding error of a gradient of zero into a step of full size."""
    return torch.optim.SGD(trainable, lr=0.1)


def train(
    planned: Recipe, data: PairData, folder: Path, execution: Execution, *, optimizer: str = "adamw"
) -> tuple[dict[str, torch.Tensor], RunRecord, list[float]]:
    """Weights, record and gradient norms of a run."""
    norms = Norms()
    with pytest.MonkeyPatch.context() as patch:
        if optimizer == "sgd":
            patch.setattr(setup, "adamw", sgd)
        if execution.shard:
            patch.setattr(setup, "plan_memory", CUT)
        encoder, record = run(planned, data, folder, execution=execution, callbacks=[norms])
    assert not is_sharded(encoder)
    return {name: value.detach().clone() for name, value in encoder.named_parameters()}, record, norms.seen


def worker(rank: int, folder: Path) -> None:
    """Everything that needs two ranks, written down for the tests."""
    own = slice(rank * PAIRS // 2, (rank + 1) * PAIRS // 2)
    facts: dict[str, object] = {}

    # 1. one gradient of every method and architecture
    for name in CASES:
        encoder = encoder_named(name)
        shard(encoder, torch.device("cpu"))
        embed_ids(encoder, sorted_batch()[0])  # an evaluation before training must not spoil it
        found, norm = gradient(encoder, own)
        parameters = list(encoder.parameters())
        gradients = [value.grad for value in parameters if value.grad is not None]
        facts[name] = {
            "norm": norm,
            "share": sum(map(held_elements, parameters)) / sum(value.numel() for value in parameters),
            "gradient_share": sum(map(held_elements, gradients)) / sum(value.numel() for value in gradients),
            "footprint": asdict(measure_footprint(encoder, 16)),
        }
        save_file(found, folder / f"{name}{rank}.safetensors")

    # 2. whole runs
    data = small_data(make(folder / f"data{rank}"))
    for method in METHODS:
        for optimizer in ("adamw", "sgd"):
            name = f"{method.name}-{optimizer}"
            weights, record, norms = train(recipe(data, method), data, folder / name, SHARDED, optimizer=optimizer)
            save_file(weights, folder / f"{name}{rank}.safetensors")
            record.save(folder / f"{name}{rank}.json")
            facts[name] = norms
    less = replace(SHARDED, checkpointing=True)
    facts["checkpointing"] = losses(train(recipe(data, RESUMED[1]), data, folder / "checkpointing", less)[1])
    facts["bf16"] = losses(train(recipe(data), data, folder / "bf16", replace(SHARDED, precision="bf16"))[1])

    # 3. stopped, by a signal to one rank only, and resumed here and elsewhere
    for method in RESUMED:
        planned, stopped = recipe(data, method), folder / f"stopped-{method.name}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(setup, "plan_memory", CUT)
            try:
                run(planned, data, stopped, execution=SHARDED, callbacks=[StopAfter(3)] if rank == 1 else [])
            except StoppedError:
                facts[f"stopped-{method.name}"] = True
        torch.distributed.barrier()
        if rank == 0:
            shutil.copytree(stopped, folder / f"again-{method.name}")
        torch.distributed.barrier()
        for source in ("again", "plain"):
            name = f"{source}-{method.name}"
            _, record, _ = train(planned, data, folder / name, replace(SHARDED, resume=True))
            record.save(folder / f"{name}{rank}.json")

    # 4. export by the first rank
    encoder, _ = run(recipe(data, RESUMED[1]), data, folder / "exported", execution=SHARDED)
    if rank == 0:
        Embedder(encoder, load_tokenizer(MODEL.source), 32).save(folder / "model", card="a card")
    (folder / f"facts{rank}.json").write_text(json.dumps(facts))


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def losses(record: RunRecord) -> list[float]:
    return [point.loss for point in record.loss_curve]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, data: PairData) -> Path:
    """What the two ranks wrote; before them, one process was stopped in `plain-*` for them to go on from."""
    folder = tmp_path_factory.mktemp("ranks")
    for method in RESUMED:
        with pytest.raises(StoppedError):
            run(recipe(data, method), data, folder / f"plain-{method.name}", callbacks=[StopAfter(3)])
    on_two_ranks(worker, folder)
    return folder


def facts_of(ranks: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ranks / f"facts{rank}.json").read_text())
    return found


def test_the_ranks_would_run_unequal_mini_batches() -> None:
    """What the tests below rest on: left alone, the ranks would call the model a different number of times and hang."""
    queries, positives = sorted_batch()
    counts = [
        len(mini_batches_of([len(text) for text in (*queries[own], *positives[own])], MEMORY.mini_batch_tokens))
        for own in (slice(0, PAIRS // 2), slice(PAIRS // 2, PAIRS))
    ]
    assert counts[0] > counts[1]


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_one_process(name: str, ranks: Path) -> None:
    """Trap 5: summed, not averaged, and each mini-batch once."""
    expected, norm = gradient(encoder_named(name), slice(None))
    for rank in RANKS:
        found = load_file(ranks / f"{name}{rank}.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():  # some are zero but for rounding (a key's bias): by the whole gradient
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6 * norm, msg=f"{key} of rank {rank}")
        assert facts_of(ranks, rank)[name]["norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_half(name: str, ranks: Path) -> None:
    for rank in RANKS:
        found = facts_of(ranks, rank)[name]
        assert found["share"] == pytest.approx(0.5, abs=0.02)
        assert found["gradient_share"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", CASES)
def test_gathered_parameters_are_no_activations(name: str, ranks: Path) -> None:
    """A batch is cut by what a token keeps for the backward pass; the weights it meets are not part of that."""
    expected = asdict(measure_footprint(encoder_named(name), 16))
    assert [facts_of(ranks, rank)[name]["footprint"] for rank in RANKS] == [expected, expected]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("optimizer", "atol"), [("sgd", 1e-5), ("adamw", 1e-4)])
def test_run_is_that_of_one_process(
    method: Method, optimizer: str, atol: float, ranks: Path, data: PairData, tmp_path: Path
) -> None:
    weights, record, norms = train(recipe(data, method), data, tmp_path, Execution(), optimizer=optimizer)
    name = f"{method.name}-{optimizer}"
    for rank in RANKS:
        found = RunRecord.load(ranks / f"{name}{rank}.json")
        assert losses(found) == pytest.approx(losses(record), abs=1e-5)
        assert facts_of(ranks, rank)[name] == pytest.approx(norms, rel=1e-5)
        assert found.heldout is not None
        assert record.heldout is not None
        assert found.heldout.loss == pytest.approx(record.heldout.loss, abs=1e-5)
        assert found.heldout.fingerprint == record.heldout.fingerprint
        assert (found.trainable_params, found.tokens) == (record.trainable_params, record.tokens)
        found_weights = load_file(ranks / f"{name}{rank}.safetensors")
        assert found_weights.keys() == weights.keys()
        for key, value in weights.items():
            torch.testing.assert_close(found_weights[key], value, rtol=0, atol=atol, msg=key)


def test_block_recomputation_and_bf16_work_with_it(ranks: Path, data: PairData, tmp_path: Path) -> None:
    found = facts_of(ranks, 0)
    _, less, _ = train(recipe(data, RESUMED[1]), data, tmp_path / "less", Execution(checkpointing=True))
    assert found["checkpointing"] == pytest.approx(losses(less), abs=1e-5)
    _, half, _ = train(recipe(data), data, tmp_path / "half", Execution(precision="bf16"))
    assert found["bf16"] == pytest.approx(losses(half), abs=2e-2)


@pytest.mark.parametrize("method", RESUMED, ids=lambda method: method.name)
def test_checkpoints_pass_between_sharded_and_not(method: Method, ranks: Path, data: PairData, tmp_path: Path) -> None:
    """Stopped sharded and resumed so: bitwise the uninterrupted run.  In one process, or the other way round: the same
    within rounding."""
    name = method.name
    for rank in RANKS:
        whole_run = RunRecord.load(ranks / f"{name}-adamw{rank}.json")
        assert facts_of(ranks, rank)[f"stopped-{name}"]
        assert RunRecord.load(ranks / f"again-{name}{rank}.json").loss_curve == whole_run.loss_curve
        assert losses(RunRecord.load(ranks / f"plain-{name}{rank}.json")) == pytest.approx(losses(whole_run), abs=1e-5)
    shutil.copytree(ranks / f"stopped-{name}", tmp_path / "stopped")
    _, record, _ = train(recipe(data, method), data, tmp_path / "stopped", Execution(resume=True))
    assert losses(record) == pytest.approx(losses(whole_run), abs=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_checkpoint_is_that_of_one_process(method: Method, ranks: Path, data: PairData, tmp_path: Path) -> None:
    """Whole tensors under the same names: nothing in it says how many ranks wrote it."""
    run(recipe(data, method), data, tmp_path / "one")
    (one,), (two,) = (
        sorted(folder.glob("step-*"))[-1:] for folder in (tmp_path / "one", ranks / f"{method.name}-adamw")
    )
    assert one.name == two.name
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = load_file(one / file), load_file(two / file)
        assert {name: value.shape for name, value in found.items()} == {
            name: value.shape for name, value in expected.items()
        }


def test_export_holds_the_whole_model(ranks: Path, data: PairData, tmp_path: Path) -> None:
    """With LoRA merged, which copies the model: sharded modules cannot be copied."""
    trained, _ = run(recipe(data, RESUMED[1]), data, tmp_path)
    exported, _, _ = load_exported(ranks / "model", device="cpu")
    texts = sorted_batch()[1]
    torch.testing.assert_close(embed_ids(exported, texts), embed_ids(trained, texts), rtol=0, atol=1e-4)


def test_one_process_has_nothing_to_shard_over(data: PairData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs at least two processes.*got 1.*torchrun"):
        run(recipe(data), data, tmp_path, execution=Execution(shard=True))
