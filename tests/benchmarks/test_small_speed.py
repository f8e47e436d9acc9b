"""The benchmarks of encoding, data and start-up at their smallest: they run, and their results have their shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def result_of(script: str, out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / script), *options, "--out", str(out)]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    found: dict[str, Any] = json.loads(out.read_text())
    assert {"machine", "versions", "date"} <= found.keys()
    return found


def test_encoding(tmp_path: Path) -> None:
    """Both sides give the same vectors; the ratio is that of each side's fastest setting."""
    options = ("--model", "nano-28k", "--texts", "60", "--repeats", "1", "--threads", "1", "--precisions", "fp32,bf16")
    found = result_of("encode_speed.py", tmp_path / "out.json", *options)
    assert found["valid"]
    for precision, most in (("fp32", 1e-5), ("bf16", 0.02)):
        sides = [f"{side} {precision}" for side in ("isoembed", "st")]
        ours, theirs = (min(found["seconds"][name][0] for name in found["seconds"] if side in name) for side in sides)
        assert found["ratio"][precision] == pytest.approx(theirs / ours)
        assert all(0 <= found["largest_difference"][side] <= most for side in sides)
    assert found["largest_difference"]["isoembed bf16"] > 1e-5  # it is another arithmetic


def test_data(tmp_path: Path) -> None:
    """A second start reads the same tokens; the larger file has as many times more as asked for."""
    found = result_of("data_speed.py", tmp_path / "out.json", "--pairs", "200", "--times", "3")
    assert found["tokenise_small"]["pairs"] == 200
    assert found["start_small"]["tokens"] == found["tokenise_small"]["tokens"]
    assert found["tokenise_large"]["pairs"] == 600
    assert 10 * 200 < found["tokenise_small"]["tokens"] < 150 * 200
    assert found["tokenise_large"]["peak_bytes"] > found["tokenise_large"]["resident_before"]


def test_start_up(tmp_path: Path) -> None:
    found = result_of("start_up.py", tmp_path / "out.json", "--model", "nano-28k", "--pairs", "300", "--repeats", "1")
    assert 0 < found["recipe_seconds"][0] < found["first_step_seconds"][0]
