"""Checkpoints: atomic, safetensors and JSON only, the last few kept.

A checkpoint holds the trainable parameters (the rest is the base model, which the recipe names), AdamW's moments, the
random state, and what the loop had counted.  With it a run continues bitwise as if it had never stopped (on a CPU).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from isoembed.core import Count, Frozen, InputError
from isoembed.recipe import Precision, Recipe
from isoembed.records import HeldoutPoint, Inherited, LossPoint, RunRecord
from isoembed.scratch import STATE, STEPS, TRUNK, own_place, remove, step_folder
from isoembed.training.distributed import rank
from isoembed.training.sharding import part_like, whole

Tensors = Mapping[str, torch.Tensor]


class Counters(Frozen):
    """What a run has done so far, and where in the data it stands; every step makes a new one."""

    step: Count = 0
    epoch: Count = 0
    batch: Count = 0
    tokens: Count = 0
    pairs: Count = 0
    negatives: Count = 0
    executed_flop: float = 0.0
    recomputed_flop: float = 0.0
    all_in_flop: float = 0.0
    seconds: float = 0.0


class LoopState(Counters):
    """What a checkpoint says of its run, in `state.json`."""

    recipe_key: str
    data_fingerprint: str
    precision: Precision = "fp32"
    computing: str | None = None  #: the hash of the base's configuration; None in older ones
    losses: tuple[LossPoint, ...] = ()
    evaluations: tuple[HeldoutPoint, ...] = ()
    inherited: Inherited | None = None


def save_checkpoint(
    folder: Path,
    state: LoopState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    others: Mapping[str, Tensors | None] | None = None,
) -> Path:
    """Write `folder/step-NNNNNNNN` and remove all but the newest `keep`; a kill at any moment leaves a whole one.

    others: further weights that a run keeps, by the names of `load_others`.
    Every rank calls it and the first one writes.  Sharded tensors are written whole, so that any number of ranks can go
    on, sharded or not.
    """
    target = folder / step_folder(state.step)
    trainable = trainable_of(model)
    weights = _gathered(trainable)
    moments = _gathered(
        {
            f"{key}/{name}": value
            for name, parameter in trainable.items()
            for key, value in optimizer.state[parameter].items()
        }
    )
    beside = {name: _gathered(each) for name, each in (others or {}).items() if each}
    if rank() != 0 or target.is_dir():  # the same step again: what is there is whole, and stays
        return target
    partial = own_place(folder) / ".partial"
    remove(partial)
    partial.mkdir(parents=True)
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    try:
        save_file(weights, partial / "model.safetensors")
        for name, tensors in beside.items():
            save_file(tensors, partial / f"{name}.safetensors")
        save_file(moments, partial / "optimizer.safetensors")
        save_file(random, partial / "random.safetensors")
        (partial / STATE).write_text(state.model_dump_json() + "\n", encoding="utf-8")
    except (OSError, SafetensorError):  # a full disk gets its room back
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.replace(target)
    for old in checkpoints(folder)[:-keep]:
        remove(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(folder.glob(STEPS)) if folder.is_dir() else []


def begun_precision(folder: Path) -> Precision | None:
    """The precision of the run whose checkpoints are in `folder`; None where there are none to read."""
    for newest in checkpoints(folder)[-1:]:
        with suppress(OSError, ValidationError):  # `load_checkpoint` says that it is damaged
            return LoopState.model_validate_json((newest / STATE).read_bytes()).precision
    return None


def load_checkpoint(
    folder: Path, fresh: LoopState, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> LoopState:
    """Restore the newest checkpoint into `model`, `optimizer` and the random state; `fresh` where there is none.

    Raises InputError where the checkpoint is damaged, or was made by another recipe or from other data than `fresh`'s.
    """
    found = checkpoints(folder)
    if not found:
        return fresh
    newest = found[-1]
    remedy = f"remove {newest} to go on from the one before, or give another `out`"
    try:
        state = LoopState.model_validate_json((newest / STATE).read_bytes())
        weights = load_file(newest / "model.safetensors")
        moments = load_file(newest / "optimizer.safetensors")
        random = load_file(newest / "random.safetensors")
    except (OSError, ValidationError, SafetensorError) as error:
        raise InputError(f"The checkpoint {newest} is damaged ({type(error).__name__}); {remedy}.") from error
    if len(state.losses) != state.step:
        raise InputError(
            f"The checkpoint {newest} is damaged ({len(state.losses)} losses of {state.step} steps); {remedy}."
        )
    if state.precision != fresh.precision:
        raise InputError(
            f"A run goes on in the precision that it was begun in: {newest} in {state.precision}, this is to be "
            f"{fresh.precision}. Give that as `precision`, or another `out`."
        )
    if (state.recipe_key, state.data_fingerprint) != (fresh.recipe_key, fresh.data_fingerprint):
        raise InputError(f"The checkpoint {newest} belongs to another recipe or to other data; give another `out`.")
    if state.computing not in (None, fresh.computing):
        raise InputError(
            f"The base must compute as it did when {newest} was made; its configuration has changed. Put back its "
            "config.json, or give another `out`."
        )
    trainable = trainable_of(model)
    if not _fits(trainable, weights, moments):
        raise InputError(f"The checkpoint {newest} holds other parameters than the model trains; {remedy}.")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(part_like(weights[name], parameter))
            if f"step/{name}" in moments:
                optimizer.state[parameter] = {
                    "step": moments[f"step/{name}"].to(parameter.device),
                    "exp_avg": part_like(moments[f"exp_avg/{name}"], parameter),
                    "exp_avg_sq": part_like(moments[f"exp_avg_sq/{name}"], parameter),
                }
    try:
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"The checkpoint {newest} is damaged (its random state is none); {remedy}.") from error
    return state


def remove_checkpoints(folder: Path) -> None:
    """Remove those of a run that ended well; its trunk stays."""
    for each in folder.glob("*"):
        if each.name != TRUNK:
            remove(each)
    if not (folder / TRUNK).is_dir():
        remove(folder)


def trunk_state(trunk: Path, origin: RunRecord) -> LoopState:
    """Where the run of the record `origin` stood before its rate fell, as the checkpoint in `trunk` says.

    Raises InputError where that is not there, or is not of that run.
    """
    remedy = "train the longer run anew"
    found = checkpoints(trunk)
    if not found:
        raise InputError(
            f"The run goes on from a checkpoint in {trunk}, which is not there: the cache was cleared, is another one, "
            f"or the run had too few steps. Name that run's `cache`, or {remedy}."
        )
    try:
        state = LoopState.model_validate_json((found[-1] / STATE).read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"The checkpoint {found[-1]} is damaged ({type(error).__name__}); {remedy}.") from error
    if not state.losses or state.losses != origin.loss_curve[: state.step]:
        raise InputError(f"The checkpoint {found[-1]} is not of the run that is recorded, {origin.key}; {remedy}.")
    return state


def branch(trunk: Path, folder: Path, recipe: Recipe, origin: RunRecord) -> None:
    """Begin the run of `recipe`, which extends that of `origin`, in `folder`: the checkpoint in `trunk` is its first.

    Raises InputError as `trunk_state`, or where the run is to go on in another precision.
    """
    state = trunk_state(trunk, origin)
    if state.precision != (recipe.precision or "fp32"):
        raise InputError(
            f"A run goes on in the precision that it was begun in, {state.precision}; got {recipe.precision}. Leave "
            "`precision` out."
        )
    price, tokens = recipe.price, state.tokens
    flop = {"flop": price.train * tokens, "teacher_flop": price.teacher_flop(tokens)}
    taken = Inherited(key=origin.key, steps=state.step, tokens=tokens, seconds=state.seconds, **flop)
    state = state.model_copy(update={"recipe_key": recipe.key, "inherited": taken})
    source, partial = checkpoints(trunk)[-1], own_place(folder) / ".partial"
    remove(partial)
    shutil.copytree(source, partial)
    (partial / STATE).write_text(state.model_dump_json() + "\n", encoding="utf-8")
    partial.replace(folder / source.name)


def load_others(
    folder: Path, state: LoopState, model: torch.nn.Module, name: Literal["best", "average"]
) -> Tensors | None:
    """Further weights that the newest checkpoint, whose state is `state`, holds: the `best`, those of the least loss
    held out, or their `average`; None where the run has none yet.  Raises InputError where they are damaged."""
    if not (state.evaluations if name == "best" else state.step):
        return None
    newest = checkpoints(folder)[-1]
    trainable = trainable_of(model)
    try:
        found = load_file(newest / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The checkpoint {newest} is damaged ({type(error).__name__}); remove it to go on from the one before, or "
            "give another `out`."
        ) from error
    if found.keys() != trainable.keys() or any(found[each].shape != trainable[each].shape for each in found):
        raise InputError(f"The {name} weights in {newest} are not those of this model; give another `out`.")
    return found


def _fits(trainable: Mapping[str, torch.Tensor], weights: Tensors, moments: Tensors) -> bool:
    """Whether these are the trained parameters, by name, shape and type, each with both moments or none: a tensor of
    another shape might be spread over a parameter in silence."""

    def alike(name: str, found: torch.Tensor | None) -> bool:
        like = trainable[name]
        return found is not None and (found.shape, found.dtype) == (like.shape, like.dtype)

    stepped = [name for name in trainable if f"step/{name}" in moments]
    expected = {f"{key}/{name}" for name in stepped for key in ("step", "exp_avg", "exp_avg_sq")}
    return (
        weights.keys() == trainable.keys()
        and moments.keys() == expected
        and all(alike(name, weights[name]) for name in trainable)
        and all(alike(name, moments[f"{key}/{name}"]) for name in stepped for key in ("exp_avg", "exp_avg_sq"))
        and all(moments[f"step/{name}"].shape == () for name in stepped)
    )


def _gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the first rank the tensors, whole and on the CPU; the others take part and keep none."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if rank() == 0:
            kept[name] = full.cpu().contiguous()
    return kept


def trainable_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
