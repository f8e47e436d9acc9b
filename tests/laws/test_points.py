"""What is not a table of positive finite numbers is refused, with the row named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoembed.core import InputError
from isoembed.laws import Points

BAD = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(column=st.sampled_from(["params", "tokens", "loss", "flop"]), row=st.integers(0, 4), bad=BAD)
def test_nan_infinite_zero_and_negative_are_refused_by_row(column: str, row: int, bad: float) -> None:
    columns: dict[str, Any] = {name: np.arange(1.0, 6.0) for name in ("params", "tokens", "loss", "flop")}
    columns[column][row] = bad
    with pytest.raises(InputError, match=rf"`{column}` must be .*row {row + 1} is"):
        Points.of(**columns)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="`fraction`"):
        Points.of([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], fraction=[0.5, share])


def test_unequal_columns_empty_tables_and_weights_without_any_are_refused() -> None:
    with pytest.raises(InputError, match="`tokens` has 1 rows, `loss` 2"):
        Points.of([1.0, 2.0], [1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="none"):
        Points.of([], [], [])
    with pytest.raises(InputError, match="`weight`"):
        Points.of([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], weight=[0.0, 0.0])


def test_seed_noise_is_the_pooled_deviation_between_repeats() -> None:
    loss = np.exp([0.0, 0.02, 1.0, 1.0, 5.0])
    points = Points.of([1.0, 1.0, 2.0, 2.0, 3.0], [1.0] * 5, loss)
    assert points.seed_sd() == pytest.approx(math.sqrt(2 * 0.01**2 / 2))
    assert points[np.array([0, 2, 4])].seed_sd() is None


def test_seeds_draw_pairs_of_other_lengths() -> None:
    """Three seeds of a ledger's recipe end within a batch of each other; 1 % more tokens are another recipe."""
    tokens = np.array([1e6, 1.0001e6, 0.9999e6, 1.01e6])
    points = Points.of([1e5] * 4, tokens, np.exp([1.0, 1.02, 0.98, 3.0]), flop=6e5 * tokens)
    assert points.seed_sd() == pytest.approx(0.02)
    assert Points.of([1e5, 2e5, 1e5, 2e5], tokens, [1.0, 2.0, 3.0, 4.0]).seed_sd() is not None
    assert Points.of([1e5, 2e5, 3e5, 4e5], tokens, [1.0, 2.0, 3.0, 4.0]).seed_sd() is None
    assert points[np.array([0])].seed_sd() is None


def test_checkpoints_of_one_run_are_no_seeds() -> None:
    steps = np.arange(1000.0, 4000.0, 2.0)
    loss = 3 - steps / 4000
    runs = Points.of(np.full(len(steps), 1e5), steps, loss, run=["a"] * len(steps))
    assert runs.seed_sd() is None


def test_fingerprint_changes_with_any_value() -> None:
    one = Points.of([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    same = Points.of([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != Points.of([1.0, 2.0], [3.0, 4.0], [5.0, 6.0 + 1e-12]).fingerprint
