import pytest

from isoembed.budget import Budget
from isoembed.core import InputError


def test_flop() -> None:
    assert Budget.parse("1.5e18").flop_at() == (1.5e18, None)


@pytest.mark.parametrize("text", ["", "0", "-1e12", "nan", "inf", "1e12 FLOP"])
def test_bad_flop(text: str) -> None:
    with pytest.raises(InputError, match="positive number of FLOP"):
        Budget.parse(text)


def test_devices_and_hours() -> None:
    budget = Budget.from_devices("h100", count=8, hours=3, utilisation=0.4)
    flop, assumption = budget.flop_at()
    assert flop == pytest.approx(8 * 3 * 3600 * 0.4 * 989e12)
    assert assumption is not None
    assert "as given" in assumption


def test_unknown_utilisation_is_a_labelled_fallback() -> None:
    assert "assumed, not measured" in str(Budget.from_devices("a100", hours=1).flop_at()[1])


def test_measured_speed_replaces_the_assumption() -> None:
    assert Budget.from_devices("a100", count=2, hours=0.5).flop_at(1e14) == (2 * 1800 * 1e14, None)


def test_dollars() -> None:
    """$20 at $2.50 an hour for each of 4 devices is 2 hours of 4 devices."""
    flop, _ = Budget.from_dollars(20, 2.5, device="a100", count=4, utilisation=0.5).flop_at()
    assert flop == pytest.approx(2 * 3600 * 4 * 0.5 * 312e12)


@pytest.mark.parametrize(
    ("device", "hours", "utilisation"), [("abacus", 1, 0.4), ("h100", 0, 0.4), ("h100", 1, 1.2), ("h100", 1, 0.0)]
)
def test_bad_devices(device: str, hours: float, utilisation: float) -> None:
    with pytest.raises(InputError):
        Budget.from_devices(device, hours=hours, utilisation=utilisation)
