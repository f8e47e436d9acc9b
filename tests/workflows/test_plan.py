"""Sweeps asked for by an earlier version: the nano study's request and records, made before norms were counted and
before its rates were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.families import NANO, PYTHIA
from isoembed.records import Ledger
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.request import REQUEST, SweepRequest, load_request

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    (tmp_path / REQUEST).write_bytes((RESULTS / "nano_study.request.json").read_bytes())
    return tmp_path


@pytest.fixture
def again(ledger: Path) -> SweepRequest:
    """What the same arguments ask for today."""
    return load_request(ledger).model_copy(update={"family": NANO, "speeds": {"nano-28k": 1e9}})


def test_the_same_arguments_are_the_same_sweep_in_a_later_version(ledger: Path, again: SweepRequest) -> None:
    first = load_request(ledger)
    assert first.family.models[0].norm_params == 0 != NANO.models[0].norm_params
    plan, new = plan_sweep(ledger, again)
    assert new == len(plan.runs) > 0
    assert load_request(ledger) == first
    rates = {run.recipe.learning_rate for run in plan.runs if run.recipe.method.name == "bias"}
    assert first.family.rate_rule("bias").fixed in rates  # the rule that the sweep began with, not today's
    assert plan_sweep(ledger, again)[1] == 0


@pytest.mark.parametrize("changed", [{"prune": 2.0}, {"family": PYTHIA}], ids=["argument", "family"])
def test_other_arguments_are_refused(ledger: Path, again: SweepRequest, changed: dict[str, object]) -> None:
    with pytest.raises(InputError, match="another sweep"):
        plan_sweep(ledger, again.model_copy(update=changed))


def test_recipes_that_ship_have_the_keys_they_were_run_under() -> None:
    records = Ledger.open(RESULTS / "nano_study.jsonl.gz").records()
    assert len(records) >= 211
    assert all(record.recipe.key == record.key for record in records)
