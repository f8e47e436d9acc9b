"""Numbers with prefixes."""

import pytest

from isoembed.report.terminal.layout import si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (999.4, "999"),
        (999.9, "1k"),
        (-999.9, "-1k"),
        (1.594e6, "1.59M"),
        (999.4e6, "999M"),
        (999.9e6, "1G"),
        (999_885_952, "1G"),
        (9.999e12, "10T"),
    ],
)
def test_the_prefix_is_that_of_the_rounded_number(value: float, text: str) -> None:
    assert si(value) == text


def test_a_unit_follows_the_prefix() -> None:
    assert si(999.9e9, "FLOP") == "1 TFLOP"
