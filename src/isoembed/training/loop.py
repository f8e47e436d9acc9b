"""The training loop: a recipe and data in, a trained encoder and a record out, resumable at any step."""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import math
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import nn

from isoembed.core import InputError, checked, expanded
from isoembed.data.batches import Batch, Position, batches
from isoembed.data.dataset import PairData
from isoembed.encoder.attention import unmasked
from isoembed.encoder.chunks import CPU_CHUNK_TOKENS, GPU_CHUNK_TOKENS
from isoembed.encoder.crew import Crew
from isoembed.encoder.encoder import Encoder, enable_checkpointing
from isoembed.encoder.load import attend_both_ways, load_base
from isoembed.flops import Cost, all_in_flop, executed_flop
from isoembed.recipe import Recipe
from isoembed.records import Heldout, LossPoint, RunRecord
from isoembed.training.checkpoint import LoopState, load_checkpoint, save_checkpoint
from isoembed.training.compiled import check_compiler, compiled
from isoembed.training.distributed import largest, own_share, rank, share_parameters, sum_gradients, total, world
from isoembed.training.gradients import Memory, Step, accumulate_gradients
from isoembed.training.heldout import heldout_loss
from isoembed.training.memory import first_line, forget_peak, is_out_of_memory, peak_bytes, plan_memory
from isoembed.training.merged import as_run
from isoembed.training.objective import Objective
from isoembed.training.replay import RandomState
from isoembed.training.schedule import rate_at
from isoembed.training.sharding import shard, unsharded, whole
from isoembed.training.watchers import StepFacts, Watcher


class DivergedError(InputError):
    """The loss or its gradient stopped being finite."""

    exit_code = 1


class StoppedError(InputError):
    """The run was asked to stop (ctrl-C, SIGTERM, SIGHUP) and saved a checkpoint first."""

    exit_code = 130


class OutOfMemoryError(InputError):
    """Not even the smallest piece of a batch fits."""

    exit_code = 1


Precision = Literal["auto", "fp32", "bf16"]


def precision_named(name: str) -> Precision:
    """`name` as a precision; raises InputError where it is none."""
    if name not in get_args(Precision):
        raise InputError(f"`--precision` must be one of {', '.join(get_args(Precision))}; got {name!r}.")
    return cast(Precision, name)


@dataclass(frozen=True)
class Execution:
    """How a recipe runs on this machine.  Nothing here changes the result beyond rounding."""

    device: str | None = None  #: None: the GPU where there is one
    precision: Precision = "auto"  #: of products: fp32, or bf16 by autocast; auto: bf16 on a GPU that has it
    memory_bytes: float | None = None  #: peak of the process (GPU: allocated there); None: half of what is free
    chunk_tokens: int | None = None  #: padded tokens a chunk; None: by device
    checkpointing: bool = False  #: gradient checkpointing inside the model
    packed: bool = False  #: texts one behind the other in place of padding, where the architecture allows it
    compile: bool = False  #: torch.compile of the blocks: slow at first, then faster
    shard: bool = False  #: cut the parameters over the processes, for a model too large for one device
    checkpoint_seconds: float = 120.0  #: time between checkpoints; 0 saves after every step, inf never
    keep_checkpoints: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        precision_named(self.precision)
        for name in ("chunk_tokens", "keep_checkpoints"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"`{name}` must be at least 1; got {number}. Give another number.")

    def torch_device(self) -> torch.device:
        """The device to run on; under torchrun each rank takes the GPU of its local number.

        Raises InputError where `device` names none, or this torch or machine has none such.
        """
        if self.device is not None:
            try:
                return torch.empty(0, device=self.device).device
            except (RuntimeError, AssertionError) as error:  # the latter: a torch built without CUDA
                why = str(error).splitlines()[0]
                raise InputError(
                    f"`device` must be one that torch can use here; got {self.device!r} ({why})."
                ) from None
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether products on `device` run in bfloat16."""
        if self.precision == "auto":
            return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return self.precision == "bf16"


Execution.__init__ = checked(Execution.__init__)  # type: ignore[method-assign]


@checked
def run(
    recipe: Recipe,
    data: PairData,
    folder: str | Path,
    *,
    execution: Execution | None = None,
    watchers: Sequence[Watcher] = (),
    before: Heldout | None = None,
) -> tuple[Encoder, RunRecord]:
    """Train as `recipe` says; checkpoints go to `folder`.  Returns the trained encoder and the record.

    `before` is the untrained base's held-out loss where it was measured already; else it is measured here.

    Raises InputError where recipe and data do not belong together or a checkpoint does not fit, DivergedError where the
    loss stops being finite, StoppedError after a signal; the last two leave a good checkpoint behind.
    """
    execution, folder = execution or Execution(), expanded(folder)
    _check(recipe, data, folder, execution)
    device = execution.torch_device()
    bf16 = execution.uses_bf16(device)
    forget_peak(device)

    # 1. model: base weights, method, readout
    torch.manual_seed(recipe.seed)
    encoder = _untrained(recipe)
    if execution.checkpointing:
        enable_checkpointing(encoder.model)
    share_parameters(encoder, device)
    if execution.shard:
        shard(encoder, device)
    else:
        encoder.to(device)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = adamw(trainable, recipe)

    # 2. how to cut a batch, and where to start
    # these keep state between passes, or cannot be in two threads
    alone = device.type != "cpu" or execution.checkpointing or execution.shard or execution.compile or execution.packed
    memory = plan_memory(
        encoder,
        batch_pairs=recipe.batch_pairs,
        negatives=recipe.data.negatives,
        prefixes=len(recipe.options.matryoshka),
        context_tokens=recipe.context_tokens,
        memory_bytes=execution.memory_bytes,
        chunk_tokens=execution.chunk_tokens or (GPU_CHUNK_TOKENS if device.type == "cuda" else CPU_CHUNK_TOKENS),
        threads=1 if alone else torch.get_num_threads(),
        bf16=bf16,
        merged=not alone,
    )
    crew = Crew(encoder, memory.members)
    before = before or heldout_loss(encoder, data, temperature=recipe.temperature, batch_tokens=memory.chunk_tokens)
    fresh = LoopState(recipe_key=recipe.key, data_fingerprint=str(data.stats.fingerprint))
    state = load_checkpoint(folder, fresh, encoder, optimizer) if execution.resume else fresh
    for watcher in watchers:
        watcher.start(recipe, state.step, state.tokens)

    # 3. train
    try:
        with ExitStack() as around:
            stop = around.enter_context(_stop_signals())
            if device.type == "cuda" or execution.packed:
                how = {"bf16": bf16, "packed": execution.packed}
                around.enter_context(unmasked(encoder, context_tokens=recipe.context_tokens, **how))
            if execution.compile:
                around.enter_context(compiled(encoder))
            loop = _Loop(recipe, data, crew, optimizer, trainable, memory, execution, folder, watchers, bf16)
            state = loop.until_spent(state, stop)
    finally:
        for watcher in watchers:
            watcher.end()
    after = heldout_loss(encoder, data, temperature=recipe.temperature, batch_tokens=memory.chunk_tokens)
    unique = len(data.first(recipe.unique_pairs))
    record = record_of(recipe, state, trainable, device, bf16, unique_pairs=unique, before=before, after=after)
    return (unsharded(encoder, _untrained(recipe)) if execution.shard else encoder), record


def _untrained(recipe: Recipe) -> Encoder:
    """Base weights, method and readout, on the CPU."""
    base = load_base(recipe)
    if recipe.options.bidirectional:
        attend_both_ways(base)
    return Encoder(recipe.method.apply(base), recipe.pooling, recipe.options.prompts)


def adamw(trainable: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only (biases and norms are not pulled to zero)."""
    return torch.optim.AdamW(
        [
            {"params": [value for value in trainable if value.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [value for value in trainable if value.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
    )


@dataclass
class _Loop:
    """One run's parts, held together for the length of the loop."""

    recipe: Recipe
    data: PairData
    crew: Crew
    optimizer: torch.optim.AdamW
    trainable: list[nn.Parameter]
    memory: Memory
    execution: Execution
    folder: Path
    watchers: Sequence[Watcher]
    bf16: bool

    @cached_property
    def executed_cost(self) -> Cost:
        """The recipe's cost as this machine runs it."""
        return as_run(self.recipe.cost, self.crew.encoders[0]) if self.memory.merged else self.recipe.cost

    def until_spent(self, state: LoopState, stop: list[int]) -> LoopState:
        """Step until the next step would end further from `train_tokens` than the last one did."""
        recipe, saved = self.recipe, time.monotonic()
        start = Position(state.epoch, state.batch)
        stream = batches(
            self.data,
            batch_pairs=recipe.batch_pairs,
            seed=recipe.seed,
            start=start,
            unique_pairs=recipe.unique_pairs,
        )
        for after, batch in stream:
            if state.step > 0 and state.tokens + batch.tokens / 2 > recipe.train_tokens:
                break
            state = self.step(state, batch, after)
            interval = self.execution.checkpoint_seconds
            flags = (bool(stop), time.monotonic() - saved >= interval)  # the ranks stop and save together or hang
            stopping, due = (largest(int(flag), self.trainable[0].device) for flag in flags)
            if stopping or due:
                self.save(state)
                saved = time.monotonic()
            if stopping:
                raise StoppedError(
                    f"Stopped by a signal after step {state.step}; the same command with --resume goes on."
                )
        if self.execution.checkpoint_seconds < math.inf:
            self.save(state)
        return state

    def step(self, state: LoopState, batch: Batch, after: Position) -> LoopState:
        """One optimiser step on `batch`."""
        started, recipe = time.perf_counter(), self.recipe
        rate = rate_at(
            (state.tokens + batch.tokens / 2) / recipe.train_tokens,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            end_fraction=recipe.end_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = self.trainable[0].device
        share = batch.pairs // world()
        own = slice(rank() * share, (rank() + 1) * share)
        for encoder in self.crew.encoders:
            encoder.train()
        cost = None
        while cost is None:
            self.optimizer.zero_grad(set_to_none=True)
            cost = self.gradients(batch, own, device)
        if not self.execution.shard:  # there the backward pass has summed them
            sum_gradients(self.trainable)
        grad_norm = whole(nn.utils.clip_grad_norm_(self.trainable, recipe.max_grad_norm)).item()
        if not (math.isfinite(cost.loss) and math.isfinite(grad_norm)):
            self.save(state)
            raise DivergedError(
                f"The loss must stay finite: it was {cost.loss} (gradient norm {grad_norm}) at step {state.step + 1}, "
                f"learning rate {rate:.2g}. The weights before that step are kept in {self.folder}. "
                f"Lower --learning-rate (try {recipe.learning_rate / 3:.1g})."
            )
        self.optimizer.step()
        seconds = time.perf_counter() - started
        once = executed_flop(self.executed_cost, processed_tokens=cost.processed_tokens)
        executed = executed_flop(
            self.executed_cost,
            processed_tokens=cost.processed_tokens,
            recomputed_tokens=cost.recomputed_tokens,
            resumed_tokens=cost.resumed_tokens + (cost.processed_tokens if self.execution.checkpointing else 0),
        )
        tokens = state.tokens + batch.tokens
        state = state.model_copy(
            update={
                "step": state.step + 1,
                "epoch": after.epoch,
                "batch": after.batch,
                "tokens": tokens,
                "pairs": state.pairs + batch.pairs,
                "negatives": state.negatives + len(batch.negative_ids),
                "executed_flop": state.executed_flop + executed,
                "recomputed_flop": state.recomputed_flop + executed - once,
                "all_in_flop": state.all_in_flop
                + all_in_flop(
                    recipe.cost,
                    tokens=batch.tokens,
                    squared_lengths=float((batch.lengths**2).sum()),
                    hidden=recipe.model.attention_width,
                    blocks=recipe.model.blocks,
                ),
                "seconds": state.seconds + seconds,
                "losses": (*state.losses, LossPoint(step=state.step + 1, tokens=tokens, loss=cost.loss, rate=rate)),
            }
        )
        facts = StepFacts(
            step=state.step,
            tokens=state.tokens,
            pairs=state.pairs,
            loss=cost.loss,
            rate=rate,
            grad_norm=grad_norm,
            flop=float(recipe.cost.flop_per_token) * state.tokens,
            tokens_per_second=batch.tokens / seconds,
            flop_per_second=recipe.cost.flop_per_token * batch.tokens / seconds,
        )
        for watcher in self.watchers:
            watcher.step(facts)
        return state

    def gradients(self, batch: Batch, own: slice, device: torch.device) -> Step | None:
        """The gradient of `batch`; None where memory ran out: the batch is then to be cut smaller, as `memory` says
        from then on."""
        random = RandomState.now(device)
        try:
            return accumulate_gradients(
                self.crew,
                batch.query_ids[own],
                batch.positive_ids[own],
                Objective(self.recipe.temperature, self.recipe.options).of(batch, device),
                self.memory,
                prompt_tokens=batch.prompt_tokens,
                negative_ids=[batch.negative_ids[index] for index in own_share(len(batch.negative_ids))],
                bf16=self.bf16,
            )
        except (MemoryError, RuntimeError) as error:
            if world() > 1 or not is_out_of_memory(error):  # the other ranks would wait for this one
                raise
            smaller = self.memory.smaller(self.recipe.context_tokens)
            if smaller is None:
                raise OutOfMemoryError(
                    f"Memory must hold {self.recipe.context_tokens} tokens at work; it did not ({first_line(error)}). "
                    "Free some, or take a smaller model, another method or --gradient-checkpointing."
                ) from None
        # here, where nothing of the failed attempt is held any more
        self.memory = smaller
        random.restore(device)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def save(self, state: LoopState) -> None:
        """Checkpoint; every rank calls it."""
        save_checkpoint(self.folder, state, self.crew.encoders[0], self.optimizer, keep=self.execution.keep_checkpoints)


def record_of(
    recipe: Recipe,
    state: LoopState,
    trainable: list[nn.Parameter],
    device: torch.device,
    bf16: bool,
    *,
    unique_pairs: int,
    before: Heldout | None,
    after: Heldout | None,
) -> RunRecord:
    """The record of a finished run."""
    cost = recipe.cost
    last = state.losses[-max(1, len(state.losses) // 10) :]
    return RunRecord(
        recipe=recipe,
        key=recipe.key,
        data_fingerprint=state.data_fingerprint,
        forward_params=cost.forward,
        backward_params=cost.backward,
        updated_params=cost.updated,
        table_params=cost.table,
        trainable_params=sum(parameter.numel() for parameter in trainable),
        steps=state.step,
        pairs=state.pairs,
        negatives=state.negatives,
        unique_pairs=unique_pairs,
        epochs=state.pairs / unique_pairs,
        tokens=state.tokens,
        model_flop=float(cost.flop_per_token) * state.tokens,
        executed_flop=total(state.executed_flop, device),
        recomputed_flop=total(state.recomputed_flop, device),
        all_in_flop=state.all_in_flop,
        final_loss=sum(point.loss for point in last) / len(last),
        heldout_before=before,
        heldout=after,
        wall_seconds=state.seconds,
        peak_memory_bytes=peak_bytes(device),
        tokens_per_second=state.tokens / state.seconds,
        loss_curve=state.losses,
        versions={
            name: importlib.metadata.version(name)
            for name in ("isoembed", "torch", "transformers", "peft", "sentence-transformers")
        },
        machine={
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            "precision": "bf16 autocast" if bf16 else "fp32",
            "processes": str(world()),
            "cores": str(os.cpu_count()),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _check(recipe: Recipe, data: PairData, folder: Path, execution: Execution) -> None:
    if recipe.data.fingerprint is not None and recipe.data.fingerprint != data.stats.fingerprint:
        raise InputError(
            f"The recipe was made for other data ({recipe.data.fingerprint}, these are {data.stats.fingerprint}); "
            "make the recipe anew from these data."
        )
    if (pairs := len(data.first(recipe.unique_pairs))) < recipe.batch_pairs:
        raise InputError(
            f"The data must hold at least one batch: {pairs} pairs < {recipe.batch_pairs}; "
            "lower --batch-pairs or bring more data."
        )
    if execution.shard and world() == 1:
        raise InputError(
            "`--shard` needs at least two processes to shard over; got 1. Start with torchrun --nproc-per-node N, "
            "or leave it out."
        )
    if execution.compile:
        check_compiler(execution.torch_device())
    if recipe.batch_pairs % world():
        raise InputError(f"`batch_pairs` must be a multiple of the {world()} processes; got {recipe.batch_pairs}.")
    if not execution.resume and any(folder.glob("step-*")):
        raise InputError(f"{folder} already holds checkpoints; go on with --resume or give another --out.")


#: of a terminal that closes: the shell and the system may both send it; None outside Unix
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a run to save and end.  A terminal that closes is one, but not where it is ignored, as under
    nohup."""
    if HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, HANGUP


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals fill the list instead of breaking into a step; a second one ends the process at once, but not of a
    terminal that closes."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number != HANGUP:
            signal.signal(number, previous[signal.Signals(number)])

    try:
        previous = {number: signal.signal(number, note) for number in stop_signals()}
    except ValueError:  # not the main thread: signals stay as they are
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
