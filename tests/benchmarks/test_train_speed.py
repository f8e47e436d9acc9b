"""The speed comparison at its smallest: every side runs, agrees in its losses, and the result has its shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_speed.py"
SIDES = ["isoembed", "st-plain", "st-cached:16", "gradcache-checkpointed:16"]


def compared(out: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The JSON and the table of one comparison: three steps of 16 pairs."""
    command = [sys.executable, str(SCRIPT), "--batch", "16", "--steps", "3", "--threads", "1", "--out", str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=900)
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    out = tmp_path_factory.mktemp("speed") / "result.json"
    return compared(out, "--model", "nano-28k", "--memory-gib", "2", "--sides", *SIDES)


@pytest.mark.parametrize("name", SIDES)
def test_every_side_trains_the_same(name: str, full: tuple[dict[str, Any], str]) -> None:
    """Loss by loss: another order, learning rate, padding or pooling would show after the first step."""
    side = next(side for side in full[0]["sides"] if side["side"] == name)
    assert side.get("failed") is None
    assert side["valid"]
    assert side["loss_difference"] < 1e-4
    assert len(side["losses"]) == 3
    assert side["losses"][2] < side["losses"][0]
    assert side["tokens_per_second"] > 0
    assert 1e8 < side["peak_bytes"] < 4e9
    assert side["resident_bytes"] <= side["peak_bytes"]


def test_ratios_are_those_of_the_sides(full: tuple[dict[str, Any], str]) -> None:
    result, table = full
    sides = {side["side"]: side for side in result["sides"]}
    ours, ratios = sides["isoembed"], result["ratios"]
    fastest = max((side for name, side in sides.items() if "st-" in name), key=lambda side: side["tokens_per_second"])
    assert ratios["peer"] == fastest["side"]
    assert ratios["speed_over_peer"] == pytest.approx(ours["tokens_per_second"] / fastest["tokens_per_second"])
    assert ratios["memory_over_peer"] == pytest.approx(ours["peak_bytes"] / fastest["peak_bytes"])
    assert ratios["peak_over_stated"] == pytest.approx(ours["peak_bytes"] / 2**31)
    assert ratios["recomputation"] == 1.0
    assert ratios["padding"] > 1.0
    assert 0 < ours["useful_flop_per_second"] < result["gemm_flop_per_second"]
    assert all(name in table for name in (*SIDES, "speed_over_peer"))


def test_a_side_that_trains_something_else_is_invalid(tmp_path: Path) -> None:
    """And so is one that fails: neither is a ratio."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from speed_case import Case
        from train_speed import compare
    finally:
        sys.path.pop(0)
    case = Case.model_validate(
        {"model": "m", "method": {"name": "full"}, "pairs": "p", "batch_pairs": 2, "steps": 2, "warm_steps": 1}
    )
    ours = {"side": "isoembed", "losses": [2.0, 1.0], "tokens_per_second": 10.0, "peak_bytes": 5, "padding": 1.0}
    ours |= {"recomputation": 1.0}
    other = {**ours, "side": "st-plain", "losses": [2.0, 1.002], "tokens_per_second": 5.0}
    killed = {"side": "st-cached:8", "failed": "killed"}
    assert "peer" not in compare(case, [ours, other, killed])
    assert not other["valid"]
    agreeing = {**other, "losses": [2.0, 1.0005]}
    assert compare(case, [ours, agreeing, killed])["speed_over_peer"] == 2.0


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "nano-28k", "--method", "lora", "--rank", "4"),
        ("--model", "pythia-14m", "--method", "freeze", "--fraction", "0.5"),
    ],
    ids=["lora", "freeze"],
)
def test_other_methods_agree_with_the_peer(options: tuple[str, ...], tmp_path: Path) -> None:
    result, _ = compared(tmp_path / "result.json", *options, "--sides", "isoembed", "st-cached:16")
    assert [side["valid"] for side in result["sides"]] == [True, True]
    assert result["sides"][0]["losses"] != [result["sides"][0]["losses"][0]] * 3
