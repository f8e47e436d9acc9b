"""What a node of a Ray cluster does for a sweep: open it once a process, then one attempt at a cell after another."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from isoembed.core import InputError, no_room
from isoembed.data.shipment import Shipment, own_folder
from isoembed.encoder.load import load_tokenizer
from isoembed.evaluation.tasks import Task
from isoembed.records import RunRecord
from isoembed.sweep.folder import Attempt, Cell, SweepFolder
from isoembed.sweep.plan import SweepRequest
from isoembed.sweep.run import Failure
from isoembed.training.loop import Execution, StoppedError
from isoembed.workflows.execute import Bench, execute
from isoembed.workflows.sweep import REQUEST

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass(frozen=True, eq=False)
class Parcel:
    """What a node needs to open the sweep."""

    request: SweepRequest
    data: Shipment
    tasks: tuple[Task, ...]
    execution: Execution


def run_cell(
    cell: Cell, attempt: Attempt, shared_ledger: Path | None, parcels: list[ObjectRef[Parcel]], threads: int
) -> RunRecord | Failure | None:
    """The task: one attempt at a cell; None where it was interrupted.  Raises only what stands in every cell's way."""
    torch.set_num_threads(threads)
    bench = _open(parcels[0])
    if shared_ledger is None:
        place = _own_workdir()
    elif (shared_ledger / REQUEST).is_file():
        place = SweepFolder(shared_ledger).work(attempt)
    else:
        raise InputError(
            f"A shared ledger must lie under the same path on every node; {shared_ledger} does not. "
            "Mount it there, or run without sharing."
        )
    try:
        return execute(cell.recipe, place, bench, scored=cell.scored)
    except StoppedError:
        return None
    except Exception as error:  # whatever it is, it must not take the other cells with it
        if no_room(error):  # no fault of this cell's
            raise
        return Failure.of(error)
    finally:
        if shared_ledger is None:
            shutil.rmtree(place, ignore_errors=True)


@lru_cache(maxsize=1)
def _open(parcel: ObjectRef[Parcel]) -> Bench:
    """The sweep as this process sees it, kept from cell to cell (Ray gives a GPU cell a process of its own)."""
    import ray

    opened = ray.get(parcel)
    tokenizer = load_tokenizer(
        opened.request.family.model(opened.request.models[0]).source, pooling=opened.request.pooling
    )
    return Bench(opened.data.open(), tokenizer, opened.tasks, opened.execution)


def _own_workdir() -> Path:
    """An empty folder for this process's checkpoints; those that killed processes left behind are removed."""
    for left in own_folder().glob("work-*"):
        process = int(left.name.removeprefix("work-"))
        if process == os.getpid() or not psutil.pid_exists(process):
            shutil.rmtree(left, ignore_errors=True)
    return own_folder() / f"work-{os.getpid()}"
