"""Run one recipe and say how it went: what every run of a sweep, on whatever machine, goes through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData
from isoembed.encoder.embedder import Embedder
from isoembed.evaluation.systems import DenseSystem
from isoembed.evaluation.tasks import Task
from isoembed.notes import refusal_of
from isoembed.options import Options
from isoembed.recipe import Recipe
from isoembed.records import EndNote, Heldout, RunRecord, ScoreName, ended
from isoembed.training.checkpoint import checkpoints
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.training.memory import is_out_of_memory
from isoembed.training.step import DivergedError, OutOfMemoryError


@dataclass
class RunContext:
    """What the runs of one process share: the pairs, the tokenizer, the tasks to score on, and how to run.

    The held-out loss of an untrained base is measured once a model.
    """

    data: PairData
    tokenizer: PreTrainedTokenizerFast
    tasks: Sequence[Task] = ()
    execution: Execution = field(default_factory=Execution)
    untrained: dict[tuple[str, int | None, float, str, Options], Heldout] = field(default_factory=dict)


def execute(recipe: Recipe, workdir: Path, context: RunContext, *, scored: bool = False) -> RunRecord | EndNote:
    """Train `recipe` in `workdir`, from its newest checkpoint where it holds one; score the model where `scored`.

    Returns the record, or what failed where this recipe cannot be trained here: memory that runs out, a loss that
    diverges, data or weights that are not the recipe's.  Raises StoppedError after a signal, with a checkpoint in
    `workdir`.
    """
    began, begun_before = time.perf_counter(), bool(checkpoints(workdir))
    base = (recipe.model.source, recipe.model.depth, recipe.temperature, recipe.pooling, recipe.options)
    execution = replace(context.execution, precision=recipe.precision or "fp32")  # which its key names
    try:
        encoder, record = run(recipe, context.data, workdir, execution=execution, before=context.untrained.get(base))
        if record.heldout_before is not None:
            context.untrained[base] = record.heldout_before
        if scored and context.tasks:
            precision = record.recipe.precision or "fp32"
            system = DenseSystem(Embedder(encoder, context.tokenizer, recipe.context_tokens, precision))
            record = record.model_copy(update={"scores": scores_of(system, context.tasks)})
    except StoppedError:
        raise
    except DivergedError as error:
        return ended("diverged", "refused", why=refusal_of(error))
    except OutOfMemoryError as error:
        return ended("out-of-memory", "refused", why=refusal_of(error))
    except InputError as error:
        return ended("error", "refused", why=refusal_of(error))
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return ended("out-of-memory", "text", text=str(error))
        raise
    if not begun_before:  # of an earlier attempt's steps the record counts the seconds too
        beside = max(0.0, time.perf_counter() - began - record.wall_seconds)
        record = record.model_copy(update={"overhead_seconds": beside})
    return record


def scores_of(system: DenseSystem, tasks: Sequence[Task]) -> dict[str, float]:
    """`task/metric` -> score of an encoder."""
    return {str(ScoreName(task.name, metric)): value for task in tasks for metric, value in task.score(system).items()}
