import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoembed.data.batches import Batch
from isoembed.data.dataset import prepare
from isoembed.encoder.encoder import Encoder, pad
from isoembed.training import heldout
from isoembed.training.heldout import heldout_loss, rank_of_positive
from tests.evaluation.tiny import load, write_model

TEMPERATURE = 0.1


class Pairs(SimpleNamespace):
    """Held-out pairs in memory; a text's hash is that of its tokens."""

    def __init__(self, query_ids: list[np.ndarray], positive_ids: list[np.ndarray]) -> None:
        super().__init__(heldout=np.arange(len(query_ids)), query_ids=query_ids, positive_ids=positive_ids)

    def batch(self, first: int, last: int) -> Batch:
        sides = (self.query_ids[first:last], self.positive_ids[first:last])
        query_hash_B, positive_hash_B = (
            np.array([hash(row.tobytes()) for row in side]).astype(np.uint64) for side in sides
        )
        return Batch(*sides, query_hash_B, positive_hash_B)


def pairs(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    sides = [[rng.integers(2, 200, rng.integers(1, 20)) for _ in range(count)] for _ in range(2)]
    return Pairs(*sides)


@pytest.fixture(autouse=True)
def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real" not in request.node.name:
        monkeypatch.setattr(heldout, "heldout_batch", lambda data, first, last: data.batch(first, last))


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return load(write_model(tmp_path))[0]


def by_hand(encoder: Encoder, data: Any, first: int, last: int) -> float:
    """The block's loss, one logarithm at a time, with equal texts left out of both sums."""
    with torch.no_grad():
        query, positive = (encoder(*pad(side[first:last], 0)).double() for side in (data.query_ids, data.positive_ids))
    cosine = query @ positive.T
    batch, size = data.batch(first, last), last - first
    total = 0.0
    for i in range(size):
        others = [
            j
            for j in range(size)
            if j != i
            and batch.query_hash_B[i] != batch.query_hash_B[j]
            and batch.positive_hash_B[i] != batch.positive_hash_B[j]
        ]
        own = math.exp(cosine[i, i] / TEMPERATURE)
        total -= math.log(own / (own + sum(math.exp(cosine[i, j] / TEMPERATURE) for j in others)))
        total -= math.log(own / (own + sum(math.exp(cosine[j, i] / TEMPERATURE) for j in others)))
    return total / (2 * size)


def test_mean_over_whole_blocks_by_hand(encoder: Encoder) -> None:
    data = pairs(20)
    result = heldout_loss(encoder, data, temperature=TEMPERATURE, candidates=8)
    assert result is not None
    assert (result.pairs, result.candidates) == (16, 8)  # the last four fill no block
    expected = (by_hand(encoder, data, 0, 8) + by_hand(encoder, data, 8, 16)) / 2
    assert result.loss == pytest.approx(expected, abs=1e-5)


def test_fewer_than_a_block_are_one_block_and_fewer_than_two_are_no_loss(encoder: Encoder) -> None:
    data = pairs(5)
    result = heldout_loss(encoder, data, temperature=TEMPERATURE)
    assert result is not None
    assert (result.pairs, result.candidates) == (5, 5)
    assert result.loss == pytest.approx(by_hand(encoder, data, 0, 5), abs=1e-5)
    for few in (0, 1):
        assert heldout_loss(encoder, pairs(few), temperature=TEMPERATURE) is None


def test_mrr_by_hand_and_equal_texts_do_not_compete() -> None:
    """Of a collapsed model, whose vectors are all equal, every positive is the last; of no numbers too."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.1]])
    positive = torch.tensor([[1.0, 0.9], [0.1, 1.0], [1.0, 0.8], [2.0, 0.0]])
    apart = torch.arange(4)
    assert rank_of_positive(query, positive, [apart]).tolist() == [3, 1, 2, 4]
    assert rank_of_positive(query, positive, [apart, torch.tensor([0, 1, 2, 0])]).tolist() == [2, 1, 2, 3]
    for collapsed in (torch.ones(4, 2), torch.full((4, 2), torch.nan)):
        assert rank_of_positive(collapsed, collapsed, [apart]).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("side", ["query_ids", "positive_ids"])
def test_equal_texts_are_no_negatives_of_each_other(encoder: Encoder, side: str) -> None:
    data = pairs(6)
    getattr(data, side)[4] = getattr(data, side)[1]
    result = heldout_loss(encoder, data, temperature=TEMPERATURE)
    assert result is not None
    assert result.loss == pytest.approx(by_hand(encoder, data, 0, 6), abs=1e-5)


def test_independent_of_memory_mode_and_random_state(tmp_path: Path) -> None:
    encoder = load(write_model(tmp_path, dropout=0.5))[0].train()
    data = pairs(24)
    losses = []
    for batch_tokens in (1, 50, 16384):
        torch.manual_seed(batch_tokens)
        result = heldout_loss(encoder, data, temperature=TEMPERATURE, candidates=12, batch_tokens=batch_tokens)
        assert result is not None
        losses.append(result.loss)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    assert encoder.training


def test_the_random_state_of_training_is_untouched(tmp_path: Path) -> None:
    encoder = load(write_model(tmp_path, dropout=0.5))[0].train()
    before = torch.get_rng_state()
    heldout_loss(encoder, pairs(8), temperature=TEMPERATURE)
    assert torch.equal(before, torch.get_rng_state())


def test_fingerprint_changes_with_whatever_makes_losses_incomparable(encoder: Encoder) -> None:
    def fingerprint(data: Any, temperature: float = TEMPERATURE, candidates: int = 8) -> str:
        result = heldout_loss(encoder, data, temperature=temperature, candidates=candidates)
        assert result is not None
        return result.fingerprint

    base = fingerprint(pairs(20))
    assert fingerprint(pairs(20)) == base
    changed = pairs(20)
    changed.positive_ids[3] = np.array([5, 6, 7])
    swapped = pairs(20)
    swapped.query_ids, swapped.positive_ids = swapped.positive_ids, swapped.query_ids
    unused = pairs(20)
    unused.query_ids[19] = np.array([5])
    others = [
        fingerprint(changed),
        fingerprint(swapped),
        fingerprint(pairs(20), temperature=0.2),
        fingerprint(pairs(20), candidates=10),
        fingerprint(pairs(24)),
    ]
    assert len({base, *others}) == 6
    assert fingerprint(unused) == base  # a pair that fills no block plays no part


def test_real_pair_data(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "model"))
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"query": f"q{i}", "pos": f"answer {i} " * (1 + i % 5)}) + "\n" for i in range(200))
    )
    data = prepare(str(file), tokenizer, context_tokens=24, folder=tmp_path / "store")
    result = heldout_loss(encoder, data, temperature=TEMPERATURE, candidates=16)
    assert result is not None
    assert result.pairs == len(data.heldout) // 16 * 16 > 0
    assert 1 / 16 <= (result.mrr or 0) <= 1
    assert 0 < result.loss < 50
