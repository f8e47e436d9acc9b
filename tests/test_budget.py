import pytest

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.recommendation.recommend import recommend


def test_flop() -> None:
    assert Budget.parse("1.5e18").paid_flop == 1.5e18


@pytest.mark.parametrize("text", ["", "0", "-1e12", "nan", "inf", "1e12 FLOP"])
def test_bad_flop(text: str) -> None:
    with pytest.raises(InputError, match="positive number of FLOP"):
        Budget.parse(text)


def test_devices_and_hours() -> None:
    budget = Budget.from_devices("h100", count=8, hours=3, utilisation=0.4)
    assert budget.paid_flop == pytest.approx(8 * 3 * 3600 * 0.4 * 989e12)


def test_an_unknown_share_of_the_peak_is_a_labelled_fallback() -> None:
    """Fails where the assumption passes for what the user vouched for."""
    assumed, given = (
        recommend(Budget.from_devices("h100", hours=1, utilisation=share), "pythia") for share in (None, 0.4)
    )
    assert assumed.recipe.key == given.recipe.key
    assert "speed: 40% of the h100's peak (assumed, not measured)" in assumed.assumed
    assert "speed: 40% of the h100's peak (as given)" in given.assumed


def test_dollars() -> None:
    """$20 at $2.50 an hour for each of 4 devices is 2 hours of 4 devices."""
    budget = Budget.from_dollars(20, 2.5, device="a100", count=4, utilisation=0.5)
    assert budget.paid_flop == pytest.approx(2 * 3600 * 4 * 0.5 * 312e12)


@pytest.mark.parametrize(
    ("device", "hours", "utilisation"), [("abacus", 1, 0.4), ("h100", 0, 0.4), ("h100", 1, 1.2), ("h100", 1, 0.0)]
)
def test_bad_devices(device: str, hours: float, utilisation: float) -> None:
    with pytest.raises(InputError):
        Budget.from_devices(device, hours=hours, utilisation=utilisation)
