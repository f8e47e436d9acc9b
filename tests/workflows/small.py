"""A real sweep that takes seconds: nano-28k on a few hundred made-up pairs."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from isoembed.families import NANO
from isoembed.recipe import DataStats
from isoembed.records import LossPoint
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import SweepFolder
from isoembed.sweep.request import SweepRequest
from isoembed.workflows.job import DataOptions
from isoembed.workflows.sweep import prepare_request, work_here
from tests.data.helpers import write_jsonl

MODEL = "nano-28k"
WORDS = ("read", "write", "file", "table", "row", "column", "index", "list", "sort", "array", "wait", "thread", "lock")

#: held-out loss and the loss of every step
Losses = tuple[float, tuple[LossPoint, ...]]


def small_request(folder: Path, *, budgets: tuple[float, ...] = (3e9, 6e9)) -> SweepRequest:
    """Full and bias-only at each budget (3e9 are 50 and 73 steps); the second one is planned when the first has
    ended."""
    rng = random.Random(0)
    rows = [
        {"query": " ".join(rng.choices(WORDS, k=6)), "positive": " ".join(rng.choices(WORDS, k=12))} for _ in range(400)
    ]
    spec = str(write_jsonl(folder / "pairs.jsonl", rows))
    options = DataOptions(spec, query_key="query", positive_key="positive")
    fields = {
        "family": NANO,
        "models": (MODEL,),
        "methods": ("full", "bias"),
        "budgets": budgets,
        "batch_pairs": 16,
        "context_tokens": 32,
        "max_epochs": 1e6,
    }
    draft = SweepRequest.model_validate({**fields, "data": DataStats.assumed(32)})
    return prepare_request(draft, options, cache=folder / "tokens")


def undisturbed(ledger: Path, request: SweepRequest, *, threads: int) -> dict[str, Losses]:
    """The losses of the whole sweep, worked off here."""
    plan_sweep(ledger, request)
    before = torch.get_num_threads()
    work_here(ledger, threads=threads)
    torch.set_num_threads(before)
    return losses(ledger)


def losses(ledger: Path) -> dict[str, Losses]:
    """Losses by key; every record must be whole, and of a planned run."""
    folder = SweepFolder(ledger)
    records = folder.ledger.records()
    assert not folder.ledger.damaged
    assert {record.key for record in records} == folder.ledger.keys() == {run.key for run in folder.runs()}
    assert len(records) == len(folder.ledger.keys())
    found = {}
    for record in records:
        assert record.heldout is not None
        found[record.key] = (record.heldout.loss, folder.ledger.curve(record.key))
    return found


def reasons(ledger: Path) -> list[str]:
    """How all attempts ended that left no record."""
    folder = SweepFolder(ledger)
    ends = [folder.end_of(run.key, number) for run in folder.runs() for number in folder.attempts(run.key)]
    return [end.reason for end in ends if end is not None]
