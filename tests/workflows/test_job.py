"""A job read from data: its batches are those of its recipe."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from isoembed.budget import Budget
from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.options import Options
from isoembed.recommendation.recommend import Request, shipped_law
from isoembed.workflows.job import DataOptions, plan_job
from tests.data.helpers import write_jsonl


def test_pairs_are_read_in_the_batches_of_the_law_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were read in those that suit the family: for SmolLM2 1,024 in place of 32, so that a source of 500 pairs was
    refused and notes counted other batches."""
    laws = shipped_law("nano")
    assert laws is not None
    settings = laws.settings.model_copy(update={"batch_pairs": 8, "step_tokens": None})
    monkeypatch.setattr(importlib.import_module("isoembed.recommendation.recommend"), "LAWS_FOLDER", tmp_path)
    LawSet(laws=tuple(law.model_copy(update={"settings": settings}) for law in laws.laws)).save(tmp_path / "nano.json")
    rows = [[{"query": f"what is {s} {n}?", "positive": f"{s} {n} is it"} for n in range(28)] for s in ("red", "blue")]
    files = [str(write_jsonl(tmp_path / f"{n}.jsonl", each)) for n, each in enumerate(rows)]
    request = Request(budget=Budget.parse("1e12"), family=NANO, options=Options(batch_by="source"))
    data = DataOptions(",".join(files), query_key="query", positive_key="positive", heldout_pairs=4)
    job = plan_job(request, data, cache=tmp_path / "cache")
    assert job.recipe.batch_pairs == 8 < NANO.batch_pairs
    assert "3 of 6 batches" in " ".join(map(str, job.data.facts))
