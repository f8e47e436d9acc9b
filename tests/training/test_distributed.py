"""Two gloo ranks are one process: same gradient, same parameters, one all-reduce a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from isoembed.data.batches import Batch
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.records import RunRecord
from isoembed.training.distributed import own_share, share_parameters, sum_gradients
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.objective import Objective
from tests.training.small import (
    assert_same_gradients,
    batch_ids,
    gradients,
    negative_ids,
    on_two_ranks,
    recipe,
    small_data,
    small_encoder,
)

PAIRS = 8
#: hard negatives of the whole batch: an odd number, so that one rank has less to do
NEGATIVES = negative_ids(5)
#: pairs 1 and 6 share a positive and sit on different ranks; hard negative 4 is that text too
QUERIES, POSITIVES = np.arange(PAIRS).astype(np.uint64), np.array([10, 19, 12, 13, 14, 15, 19, 17], np.uint64)
NEGATIVE_TEXTS = np.array([20, 21, 22, 23, 19], np.uint64)
WHOLE = Batch(*batch_ids(PAIRS), QUERIES, POSITIVES, NEGATIVES, NEGATIVE_TEXTS)


def step(own: slice, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
    """One SGD step on this rank's share: gradients, parameters after it, and how many all-reduces it took."""
    encoder = small_encoder(seed=seed)
    share_parameters(encoder, torch.device("cpu"))
    queries, positives = batch_ids(PAIRS)
    calls, original = [], distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        calls.append(1)
        original(tensor)

    distributed.all_reduce = counted  # type: ignore[assignment]
    try:
        accumulate_gradients(
            WorkerPool(encoder),
            queries[own],
            positives[own],
            Objective(0.05).of(WHOLE, torch.device("cpu")),
            Memory(24, 30),
            negative_ids=[NEGATIVES[index] for index in own_share(len(NEGATIVES))],
        )
        sum_gradients([value for value in encoder.parameters() if value.requires_grad])
    finally:
        distributed.all_reduce = original
    found = gradients(encoder)
    torch.optim.SGD(encoder.parameters(), lr=0.1).step()
    return found, {name: value.detach().clone() for name, value in encoder.named_parameters()}, len(calls)


def worker(rank: int, folder: Path) -> None:
    share = PAIRS // 2
    # another seed on each rank: the parameters are shared before the step or the test fails
    found, after, reduces = step(slice(rank * share, (rank + 1) * share), seed=rank)
    save_file(found, folder / f"gradients{rank}.safetensors")
    save_file(after, folder / f"parameters{rank}.safetensors")
    (folder / f"reduces{rank}").write_text(str(reduces))
    own = folder / f"data{rank}"
    own.mkdir()
    few_pairs(own).save(folder / f"record{rank}.json")


def few_pairs(folder: Path) -> RunRecord:
    """A run of six steps on 40 of the pairs."""
    data = small_data(folder)
    planned = recipe(data).model_copy(update={"unique_pairs": 40})
    return run(planned, data, folder / "checkpoints", execution=Execution(device="cpu"))[1]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(worker, folder)
    return folder


def test_gradient_is_that_of_one_process(two_ranks: Path) -> None:
    """Traps 5 and 20: the gradient itself, not Adam's step, which would hide a factor; duplicates across ranks;
    hard negatives of one rank's pairs on the other."""
    expected, _, _ = step(slice(None), seed=0)
    for rank in range(2):
        assert_same_gradients(expected, load_file(two_ranks / f"gradients{rank}.safetensors"))


def test_parameters_are_identical_after_a_step(two_ranks: Path) -> None:
    """Trap 10: ranks that drift apart were never synchronised."""
    first, second = (load_file(two_ranks / f"parameters{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cap_on_the_pairs_holds_on_every_rank(two_ranks: Path, tmp_path: Path) -> None:
    alone = few_pairs(tmp_path)
    for rank in range(2):
        record = RunRecord.load(two_ranks / f"record{rank}.json")
        assert (record.unique_pairs, record.epochs) == (40, alone.epochs)
        assert [point.tokens for point in record.loss_curve] == [point.tokens for point in alone.loss_curve]
        assert [p.loss for p in record.loss_curve] == pytest.approx([p.loss for p in alone.loss_curve], rel=1e-3)


def test_one_all_reduce_a_step(two_ranks: Path) -> None:
    """Trap 9: however many mini-batches the batch was cut into."""
    assert [(two_ranks / f"reduces{rank}").read_text() for rank in range(2)] == ["1", "1"]
