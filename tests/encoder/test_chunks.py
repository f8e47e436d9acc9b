"""Length-bucketed chunks: every text once, never more than the token budget."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isoembed.encoder.chunks import chunks_of, split_to


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
