"""What a node of a Ray cluster does for a sweep: open it once a process, then one attempt at a cell after another."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isoembed.core import InputError, no_room
from isoembed.data.shipment import Shipment
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.evaluation.tasks import Task
from isoembed.records import RunRecord
from isoembed.scratch import own_folder, scratch
from isoembed.sweep.folder import Attempt, Cell, SweepFolder
from isoembed.sweep.plan import SweepRequest
from isoembed.sweep.run import Failure
from isoembed.training.execution import Execution
from isoembed.training.loop import StoppedError
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
    if shared_ledger is not None and not (shared_ledger / REQUEST).is_file():
        raise InputError(
            f"A shared ledger must lie under the same path on every node; {shared_ledger} does not. "
            "Mount it there, or run without sharing."
        )
    try:
        with (
            scratch(own_folder(), "work-")
            if shared_ledger is None
            else nullcontext(SweepFolder(shared_ledger).work(attempt)) as place
        ):
            return execute(cell.recipe, place, bench, scored=cell.scored)
    except StoppedError:
        return None
    except Exception as error:  # whatever it is, it must not take the other cells with it
        if no_room(error):  # no fault of this cell's
            raise
        return Failure.of(error)


def forget(parcels: list[ObjectRef[Parcel]]) -> None:
    """The last task on a node: what was unpacked there is not left in its temporary folder."""
    import ray

    ray.get(parcels[0]).data.forget()


@lru_cache(maxsize=1)
def _open(parcel: ObjectRef[Parcel]) -> Bench:
    """The sweep as this process sees it, kept from cell to cell (Ray gives a GPU cell a process of its own)."""
    import ray

    opened = ray.get(parcel)
    tokenizer = load_tokenizer(
        opened.request.family.model(opened.request.models[0]).source, pooling=opened.request.pooling
    )
    return Bench(opened.data.open(), tokenizer, opened.tasks, opened.execution)
