"""Length-bucketed chunks: every text once, never more than the token budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoembed.encoder.chunks import chunks_of, even_tokens, split_to


@given(st.lists(st.integers(1, 75), min_size=1, max_size=200), st.integers(75, 1000))
def test_partition_within_budget(lengths: list[int], budget: int) -> None:
    chunks = chunks_of(lengths, budget)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) * max(lengths[index] for index in chunk) <= budget


def test_longest_first_and_little_padding() -> None:
    lengths = [75] * 10 + [14] * 50
    chunks = chunks_of(lengths, 750)
    assert lengths[chunks[0][0]] == 75
    padded = sum(len(chunk) * max(lengths[index] for index in chunk) for chunk in chunks)
    assert padded == sum(lengths)


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    assert [chunk.tolist() for chunk in chunks_of([3, 100, 4], 10)] == [[1], [2, 0]]


@given(st.lists(st.integers(1, 75), min_size=1, max_size=60), st.integers(75, 1000), st.integers(1, 60))
def test_split_keeps_texts_and_order(lengths: list[int], budget: int, count: int) -> None:
    """As many chunks as another process has, however the texts fell: none empty, none lost, longest still first."""
    count, chunks = min(count, len(lengths)), chunks_of(lengths, budget)
    split = split_to(chunks, count)
    assert len(split) == max(count, len(chunks))
    assert all(len(chunk) for chunk in split)
    assert np.concatenate(split).tolist() == np.concatenate(chunks).tolist()


@given(st.lists(st.integers(1, 75), min_size=1, max_size=400), st.integers(75, 1000), st.integers(1, 4))
def test_an_even_budget_is_no_larger(lengths: list[int], budget: int, members: int) -> None:
    assert 0 < even_tokens(lengths, budget, members) <= budget
    assert even_tokens(lengths, budget, 1) == budget


def test_members_have_equally_much_to_do() -> None:
    """5,000 tokens at 1,024 a chunk: not three chunks for one and two for the other."""
    lengths = [14, 64] * 64
    assert len(chunks_of(lengths, 1024)) == 5
    even = chunks_of(lengths, even_tokens(lengths, 1024, 2))
    padded = [len(chunk) * max(lengths[index] for index in chunk) for chunk in even]
    assert len(even) == 6
    assert sum(padded[::2]) / sum(padded) == pytest.approx(0.5, abs=0.05)
