"""A sweep on disk: asked for once, listed, and over where there is nothing to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from isoembed.cli.entry import app
from isoembed.core import InputError
from isoembed.report.terminal.sweep import plan_text
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.plan import at_most
from isoembed.sweep.stage import REASONS, REMEDIES
from tests.sweep.fake import request


@pytest.mark.parametrize(
    "changed", [{"min_steps": 200}, {"prune": None}, {"batch_pairs": 64}, {"allowance_flop": 1e15}]
)
def test_another_sweep_is_refused_with_what_differs(tmp_path: Path, changed: dict[str, Any]) -> None:
    """What one of the two leaves open and the other names is another sweep too; what was measured is not."""
    plan_sweep(tmp_path, request())
    (name,) = changed
    with pytest.raises(InputError, match=f"another sweep already .*{name.replace('_', '.')}.* there, .* here"):
        plan_sweep(tmp_path, request(**changed))
    assert plan_sweep(tmp_path, request(speeds={"nano-28k": 1e9}, max_bytes=1e12))[1] == 0


def test_planned_runs_are_listed(tmp_path: Path) -> None:
    plan, _ = plan_sweep(tmp_path, request())
    found = json.loads(CliRunner().invoke(app, ["sweep", "list", str(tmp_path), "--json"]).output)
    assert [run["key"] for run in found] == [run.key for run in plan.runs]
    assert {run["state"] for run in found} == {"left"}
    assert plan.runs[0].key in CliRunner().invoke(app, ["sweep", "list", str(tmp_path)]).output


def test_a_sweep_with_nothing_to_run_says_so_and_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers were started, which loaded torch and the data to find nothing."""
    asked = request(max_bytes=1.0)
    plan, new = plan_sweep(tmp_path, asked)
    assert (new, plan.complete) == (0, True)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan_text(asked, plan, at_most(asked), new))
    printed = " ".join(captured.get().split())
    assert "No run is planned" in printed
    assert "runs left out does not fit in memory, at 1e+11 to 6.4e+12 FLOP: lower" in printed
    monkeypatch.setattr("isoembed.workflows.sweep.run_sweep", None)
    done = CliRunner().invoke(app, ["sweep", "run", str(tmp_path)])
    assert done.exit_code == 0
    assert "no run is planned" in done.output


def test_every_reason_has_a_remedy() -> None:
    assert REMEDIES.keys() == REASONS.keys()
