"""What a node of a Ray cluster does for a sweep: open it once a process, then one attempt at a run after another."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isoembed.core import InputError, StoppedError, no_room
from isoembed.data.packed import PackedData
from isoembed.evaluation.tasks import Task
from isoembed.records import EndNote, RunRecord
from isoembed.scratch import own_folder, scratch
from isoembed.sweep.folder import Attempt, PlannedRun, SweepFolder
from isoembed.sweep.request import REQUEST, SweepRequest
from isoembed.sweep.work import raised
from isoembed.training.execution import Execution
from isoembed.workflows.execute import RunContext, execute
from isoembed.workflows.sweep import extend, tokenizer_of

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass(frozen=True, eq=False)
class NodePayload:
    """What a node needs to open the sweep."""

    request: SweepRequest
    data: PackedData
    tasks: tuple[Task, ...]
    execution: Execution


def attempt_run(
    run: PlannedRun, attempt: Attempt, shared_ledger: Path | None, payloads: list[ObjectRef[NodePayload]], threads: int
) -> RunRecord | EndNote | None:
    """The task: one attempt at a run; None where it was interrupted.  Raises only what stands in every run's way."""
    torch.set_num_threads(threads)
    context = _open(payloads[0])
    if shared_ledger is not None and not (shared_ledger / REQUEST).is_file():
        raise InputError(
            f"A shared ledger must lie under the same path on every node; {shared_ledger} does not. "
            "Mount it there, or run without sharing."
        )
    folder = None if shared_ledger is None else SweepFolder(shared_ledger)
    try:
        with scratch(own_folder(), "work-") if folder is None else nullcontext(folder.work(attempt)) as place:
            if folder is not None:
                extend(folder, run, place)
            return execute(run.recipe, place, context, scored=run.scored)
    except StoppedError:
        return None
    except Exception as error:  # whatever it is, it must not take the other runs with it
        if no_room(error):  # no fault of this run's
            raise
        return raised(error)


def forget(payloads: list[ObjectRef[NodePayload]]) -> None:
    """The last task on a node: what was unpacked there is not left in its temporary folder."""
    import ray

    ray.get(payloads[0]).data.forget()


@lru_cache(maxsize=1)
def _open(payload: ObjectRef[NodePayload]) -> RunContext:
    """The sweep as this process sees it, kept from run to run (Ray gives a GPU run a process of its own)."""
    import ray

    opened = ray.get(payload)
    return RunContext(opened.data.open(), tokenizer_of(opened.request), opened.tasks, opened.execution)
