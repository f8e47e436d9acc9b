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
from isoembed.report.terminal.sweep import plan_text, skipped_rows
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.plan import at_most
from isoembed.sweep.request import RateSearch
from isoembed.sweep.stage import REASONS, REMEDIES
from tests.sweep.fake import DATA, request


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
    assert "does not fit in memory, at 1e+11 to 6.4e+12 FLOP on nano-28k to nano-760k: lower" in printed
    monkeypatch.setattr("isoembed.workflows.sweep.run_sweep", None)
    done = CliRunner().invoke(app, ["sweep", "run", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output.lower().count("no run is planned") == 1, "it was said twice"
    listed = json.loads(CliRunner().invoke(app, ["sweep", "run", str(tmp_path), "--json"]).stdout)
    assert listed["stages"] == []


def test_a_budget_too_small_for_some_and_too_large_for_others_is_not_to_be_both_raised_and_lowered() -> None:
    """`name larger budgets` and `name smaller budgets` stood beside the same budget; and others were named, which
    nobody had asked for: what a search for rates costs."""
    few = DATA.model_copy(update={"pairs": 5000})
    search = RateSearch(models=("nano-28k", "nano-389k"), steps=(100, 300))
    rows = [why for _, why in skipped_rows(at_most(request(budgets=(1e11,), data=few, rates=search)).skipped)]
    assert rows == [
        "the data would repeat, in the search for learning rates on nano-28k to nano-389k: bring more pairs as `data`, "
        "or name fewer `rate_steps`",
        "the data would repeat, at 1e+11 FLOP on nano-28k to nano-51k: bring more pairs as `data`",
        "too few steps, at 1e+11 FLOP on nano-113k to nano-760k: lower `batch_pairs` or `min_steps`",
    ]
    (alone,) = [why for _, why in skipped_rows(at_most(request(budgets=(1e11,))).skipped)]
    assert alone.endswith("name larger `budgets`, or lower `batch_pairs` or `min_steps`")


def test_every_reason_has_a_remedy() -> None:
    assert REMEDIES.keys() == REASONS.keys()
