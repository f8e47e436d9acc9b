"""The record of a run that ended well."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence

import torch

from isoembed.data.dataset import PairData
from isoembed.recipe import Recipe
from isoembed.records import Heldout, Inherited, LossPoint, RunRecord
from isoembed.training.checkpoint import Counters
from isoembed.training.distributed import total, world
from isoembed.training.early_stopping import Evaluations
from isoembed.training.memory import peak_bytes
from isoembed.training.step import Trainer

#: whose versions a record names
_PACKAGES = ("isoembed", "torch", "transformers", "peft", "sentence-transformers")


def record_of(
    trainer: Trainer,
    data: PairData,
    done: Counters,
    losses: Sequence[LossPoint],
    evaluations: Evaluations,
    *,
    before: Heldout | None,
    inherited: Inherited | None = None,
) -> RunRecord:
    """The record of a finished run, whose encoder then has the weights that are kept; every rank calls it."""
    recipe, device = trainer.recipe, trainer.device
    cost, unique_pairs = recipe.cost, len(data.first(recipe.unique_pairs))
    last = losses[-max(1, len(losses) // 10) :]
    at_end = evaluations.take(done)
    kept, kept_step = evaluations.kept(at_end)
    return RunRecord(
        recipe=recipe,
        key=recipe.key,
        data_fingerprint=str(data.stats.fingerprint),
        datasets=data.datasets,
        forward_params=cost.forward,
        backward_params=cost.backward,
        updated_params=cost.updated,
        table_params=cost.table,
        trainable_params=sum(parameter.numel() for parameter in trainer.trainable),
        steps=done.step,
        pairs=done.pairs,
        negatives=done.negatives,
        unique_pairs=unique_pairs,
        epochs=done.pairs / unique_pairs,
        tokens=done.tokens,
        model_flop=float(cost.flop_per_token) * done.tokens,
        teacher_flop=_teacher_flop(recipe, data),
        executed_flop=total(done.executed_flop, device),
        recomputed_flop=total(done.recomputed_flop, device),
        all_in_flop=done.all_in_flop,
        final_loss=sum(point.loss for point in last) / len(last),
        heldout_before=before,
        heldout=kept,
        heldout_last=None if kept_step is None else at_end,
        kept_step=kept_step,
        evaluations=tuple(evaluations.points),
        evaluation_flop=len(evaluations.points) * 2.0 * cost.forward * _heldout_tokens(data, kept),
        inherited=inherited,
        wall_seconds=done.seconds,
        peak_memory_bytes=peak_bytes(device),
        tokens_per_second=done.tokens / done.seconds,
        loss_curve=tuple(losses),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        machine=_machine(device, trainer.bf16),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _teacher_flop(recipe: Recipe, data: PairData) -> float:
    """2 N_T for every token that the teacher read of the pairs seen, in whichever run it did."""
    if recipe.options.teacher is None or data.teacher is None:
        return 0.0
    return 2.0 * recipe.options.teacher.params * data.teacher.tokens


def _heldout_tokens(data: PairData, heldout: Heldout | None) -> int:
    """Real tokens of the pairs that a held-out loss is taken on."""
    rows = data.heldout[: 0 if heldout is None else heldout.pairs]
    return sum(int(data.heldout_store.kept_tokens(side)[rows].sum()) for side in ("query", "positive"))


def _machine(device: torch.device, bf16: bool) -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "precision": "bf16 autocast" if bf16 else "fp32",
        "processes": str(world()),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "system": platform.system(),
    }
