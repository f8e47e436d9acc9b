"""Length-bucketed mini-batches: every text once, never more than the token budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoembed.encoder.mini_batches import PADDED, even_tokens, mini_batches_of, split_to


@given(st.lists(st.integers(1, 75), min_size=1, max_size=200), st.integers(75, 1000))
def test_partition_within_budget(lengths: list[int], budget: int) -> None:
    mini_batches = mini_batches_of(lengths, budget)
    assert sorted(np.concatenate(mini_batches).tolist()) == list(range(len(lengths)))
    for mini_batch in mini_batches:
        assert len(mini_batch) * max(lengths[index] for index in mini_batch) <= budget


@given(st.lists(st.integers(1, 75), min_size=1, max_size=200), st.integers(75, 1000), st.integers(1, 4))
def test_packed_mini_batches_hold_real_tokens_alone(lengths: list[int], budget: int, workers: int) -> None:
    even = even_tokens(lengths, budget, workers, packed=True)
    mini_batches = mini_batches_of(lengths, even, packed=True)
    assert sorted(np.concatenate(mini_batches).tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in mini_batch) <= even <= budget for mini_batch in mini_batches)
    # no two neighbours would fit into one
    sizes = [sum(lengths[index] for index in mini_batch) for mini_batch in mini_batches]
    padded = [len(mini_batch) * lengths[mini_batch[0]] for mini_batch in mini_batches]
    firsts = [lengths[mini_batch[0]] for mini_batch in mini_batches]
    assert all(
        size + following > even or filled + first > PADDED * even
        for size, filled, first, following in zip(sizes, padded, firsts, firsts[1:], strict=False)
    )


def test_a_long_text_among_many_short_ones_is_not_padded_for_all_of_them() -> None:
    """The last hidden states are padded: 1,000 texts of 4 beside one of 4,000 are four million rows, not 8,000."""
    for mini_batch in mini_batches_of(lengths := [4000] + [4] * 1000, 8000, packed=True):
        assert len(mini_batch) * max(lengths[index] for index in mini_batch) <= 2 * 8000


def test_longest_first_and_little_padding() -> None:
    lengths = [75] * 10 + [14] * 50
    mini_batches = mini_batches_of(lengths, 750)
    assert lengths[mini_batches[0][0]] == 75
    padded = sum(len(mini_batch) * max(lengths[index] for index in mini_batch) for mini_batch in mini_batches)
    assert padded == sum(lengths)


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    assert [mini_batch.tolist() for mini_batch in mini_batches_of([3, 100, 4], 10)] == [[1], [2, 0]]


@given(st.lists(st.integers(1, 75), min_size=1, max_size=60), st.integers(75, 1000), st.integers(1, 60))
def test_split_keeps_texts_and_order(lengths: list[int], budget: int, count: int) -> None:
    """As many mini-batches as another process has, however the texts fell: none empty, none lost, longest still
    first."""
    count, mini_batches = min(count, len(lengths)), mini_batches_of(lengths, budget)
    split = split_to(mini_batches, count)
    assert len(split) == max(count, len(mini_batches))
    assert all(len(mini_batch) for mini_batch in split)
    assert np.concatenate(split).tolist() == np.concatenate(mini_batches).tolist()


@given(st.lists(st.integers(1, 75), min_size=1, max_size=400), st.integers(75, 1000), st.integers(1, 4))
def test_an_even_budget_is_no_larger(lengths: list[int], budget: int, workers: int) -> None:
    assert 0 < even_tokens(lengths, budget, workers) <= budget
    assert even_tokens(lengths, budget, 1) == budget


def test_members_have_equally_much_to_do() -> None:
    """5,000 tokens at 1,024 a mini-batch: not three mini-batches for one and two for the other."""
    lengths = [14, 64] * 64
    assert len(mini_batches_of(lengths, 1024)) == 5
    even = mini_batches_of(lengths, even_tokens(lengths, 1024, 2))
    padded = [len(mini_batch) * max(lengths[index] for index in mini_batch) for mini_batch in even]
    assert len(even) == 6
    assert sum(padded[::2]) / sum(padded) == pytest.approx(0.5, abs=0.05)
