from pathlib import Path

import numpy as np
import pytest
import torch

from isoembed.encoder.embed import embed_ids, tokenize
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.recipe import PoolingName
from tests.evaluation.tiny import TEXTS, load, write_model


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 16384])
def test_each_row_is_its_own_text_alone_whatever_the_batches(
    tmp_path: Path, pooling: PoolingName, batch_tokens: int
) -> None:
    encoder, tokenizer = load(write_model(tmp_path), pooling)
    alone = [Embedder(encoder, tokenizer, 32).embed([text])[0] for text in TEXTS]
    together = Embedder(encoder, tokenizer, 32).embed(TEXTS, batch_tokens=batch_tokens)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2  # rows do differ: swapped rows would be seen


@pytest.mark.parametrize("threads", [2, 3])
def test_a_mini_batch_a_thread_gives_the_same(tmp_path: Path, threads: int) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    texts, told = [f"{text} {number}" for number in range(20) for text in TEXTS], []
    before = torch.get_num_threads()
    found = []
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            found.append(
                Embedder(encoder, tokenizer, 32).embed(
                    texts, batch_tokens=100, progress=lambda done, _: told.append(done)
                )
            )
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    alone, shared = (told[: told.index(len(texts)) + 1], told[told.index(len(texts)) + 1 :])
    assert shared == sorted(shared)
    assert shared[-1] == len(texts)
    assert len(shared) >= len(alone) > 4


def test_what_a_thread_raises_is_raised_after_all_have_ended(tmp_path: Path) -> None:
    pool = WorkerPool(load(write_model(tmp_path))[0], 2)
    done: list[int] = []

    def task(encoder: Encoder, number: int) -> None:
        if number == 1:
            raise RuntimeError("out of memory")
        done.append(number)

    with pytest.raises(RuntimeError, match="out of memory"):
        pool.map(task, range(5))
    assert done == [0, 2, 4]


def test_the_context_cuts_and_only_beyond_it(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    head = "word " * 20
    short = tokenize(tokenizer, [head], context_tokens=None)[0]
    context = len(short) - 2
    long, cut = Embedder(encoder, tokenizer, context).embed([head + "and a tail", head])
    np.testing.assert_allclose(long, cut, atol=1e-6)
    longer, uncut = Embedder(encoder, tokenizer, 64).embed([head + "and a tail", head])
    assert np.abs(longer - uncut).max() > 1e-3


def test_dropout_is_off_and_the_mode_comes_back(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path, dropout=0.5))
    encoder.train()
    first, second = (Embedder(encoder, tokenizer, 32).embed(TEXTS) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert encoder.training
    assert not any(parameter.grad is not None for parameter in encoder.parameters())


def test_a_text_without_tokens_is_the_zero_vector_and_disturbs_no_other(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    with_empty = Embedder(encoder, tokenizer, 32).embed(["", TEXTS[0], ""])
    assert not with_empty[[0, 2]].any()
    np.testing.assert_allclose(with_empty[1], Embedder(encoder, tokenizer, 32).embed([TEXTS[0]])[0], atol=1e-6)


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    assert len(Embedder(encoder, tokenizer, 32).embed([])) == 0


def test_progress_counts_every_text_once(tmp_path: Path) -> None:
    encoder, _ = load(write_model(tmp_path))
    told: list[tuple[int, int]] = []
    ids = [np.arange(2, 3 + length) for length in (3, 1, 9, 4)]
    embed_ids(encoder, ids, batch_tokens=10, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) > 1


def test_nothing_is_kept_for_a_backward_pass(tmp_path: Path) -> None:
    encoder, _ = load(write_model(tmp_path))
    assert not embed_ids(encoder, [np.array([3, 4])]).requires_grad
    assert torch.is_grad_enabled()
