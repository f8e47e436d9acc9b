"""Trap 18: no first step of rate zero, no division by zero in short runs, no rise past the end."""

import pytest

from isoembed.training.schedule import cosine, wsd

#: tokens before the rate falls, and all, of two runs
LENGTHS = (8000, 10_000), (24_001, 30_001)


def sequence(steps: int, end_fraction: float = 0.1) -> list[float]:
    return [cosine((step + 0.5) / steps, peak=1.0, warmup=0.1, end_fraction=end_fraction) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 1000])
def test_rates_are_positive_and_within_the_peak(steps: int) -> None:
    rates = sequence(steps)
    assert all(0 < rate <= 1 for rate in rates)


def test_ten_steps() -> None:
    assert sequence(10) == pytest.approx(
        [0.5, 0.99317, 0.93971, 0.83926, 0.70391, 0.55, 0.39609, 0.26074, 0.16029, 0.10683], abs=1e-5
    )


def test_one_step() -> None:
    # half of the tokens spent: 4/9 of the way down the cosine
    assert sequence(1) == pytest.approx([0.1 + 0.9 * 0.5 * (1 + 0.17364818)])


@pytest.mark.parametrize("end_fraction", [0.0, 0.1])
def test_end_is_held(end_fraction: float) -> None:
    for progress in (1.0, 1.0001, 1.5):
        assert cosine(progress, peak=2.0, warmup=0.1, end_fraction=end_fraction) == pytest.approx(2 * end_fraction)


def test_rises_then_falls() -> None:
    rates = sequence(100)
    top = rates.index(max(rates))
    assert top in (9, 10)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_no_warmup() -> None:
    assert cosine(0.0, peak=1.0, warmup=0.0, end_fraction=0.1) == 1.0


def test_the_rate_is_constant_and_then_falls_as_one_minus_sqrt() -> None:
    rates = [wsd(step + 0.5, 2, 8, 10, peak=1.0, end_fraction=0.1) for step in range(10)]
    falling = [1 - 0.9 * 0.25**0.5, 1 - 0.9 * 0.75**0.5]
    assert rates == pytest.approx([0.25, 0.75, *[1.0] * 6, *falling])
    assert wsd(12.0, 2, 8, 10, peak=2.0, end_fraction=0.1) == pytest.approx(0.2)
    assert wsd(0.0, 0, 8, 10, peak=2.0, end_fraction=0.1) == 2.0


def test_a_longer_run_has_the_same_rates_before_the_fall_to_the_last_bit() -> None:
    for tokens in range(1, 8000, 7):
        short, long = (wsd(tokens, 999, trunk, whole, peak=0.0123, end_fraction=0.3) for trunk, whole in LENGTHS)
        assert short == long
