"""What follows a run as it goes: the metrics file always, a progress bar and trackers on request."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from isoembed.core import InputError, write_atomically
from isoembed.recipe import Recipe
from isoembed.records import LossPoint


@dataclass(frozen=True)
class StepFacts:
    """One finished step.  `flop` is C so far; `flop_per_second` is this step's model FLOP over its wall time."""

    step: int
    tokens: int
    pairs: int
    loss: float
    rate: float
    grad_norm: float
    flop: float
    tokens_per_second: float
    flop_per_second: float


@runtime_checkable
class Callback(Protocol):
    """Told of the start, of every step, and of the end (also when the run fails)."""

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        """Before the first step; `step` and `tokens` are those of the checkpoint that the run goes on from, or 0."""

    def step(self, facts: StepFacts) -> None:
        """After every optimiser step."""

    def end(self) -> None:
        """Once, last."""


class LossCurve:
    """The losses of a run, in memory: `points` are those before it began, and grow by one a step."""

    def __init__(self, points: list[LossPoint]) -> None:
        self.points = points

    def start(self, recipe: Recipe, step: int, tokens: int) -> None: ...

    def step(self, facts: StepFacts) -> None:
        self.points.append(LossPoint(step=facts.step, tokens=facts.tokens, loss=facts.loss, rate=facts.rate))

    def end(self) -> None: ...


class OutputGoneError(InputError):
    """The output folder was removed or renamed while a run wrote to it."""

    exit_code = 1


class MetricsFile:
    """One JSON line per step.  A resumed run first drops the lines past its checkpoint: no step is there twice.

    A run whose file is gone, or `beside`, a file in its output folder, ends by OutputGoneError: what it wrote from then
    on would look like a whole output and be half of one.
    """

    def __init__(self, file: Path, beside: Path | None = None) -> None:
        self.file, self.needed = file, (file,) if beside is None else (beside, file)

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        write_atomically(self.file, "".join(f"{line}\n" for line in lines[:step]))
        self.handle = self.file.open("a", encoding="utf-8")

    def step(self, facts: StepFacts) -> None:
        self.check()
        self.handle.write(json.dumps(asdict(facts)) + "\n")
        self.handle.flush()

    def check(self) -> None:
        """Raise OutputGoneError where the file is gone, or the one beside it."""
        if gone := [file for file in self.needed if not file.exists()]:
            raise OutputGoneError(
                f"The output folder must stay where it is while a run writes to it; {gone[0]} was removed or "
                "renamed. Put the folder back and go on with `resume`, or start anew."
            )

    def end(self) -> None:
        self.handle.close()


class ProgressBar:
    """Step, loss, speed and time left: a bar on a terminal, in less than 80 columns; else a line every
    `every_seconds`."""

    def __init__(
        self, console: Console, *, every_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.every_seconds, self.clock = console, every_seconds, clock
        self.progress = Progress(
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[said]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.steps, self.tokens, self.before = recipe.steps, recipe.train_tokens, tokens
        self.began = self.said = self.clock()
        self.task = self.progress.add_task("", total=recipe.train_tokens, completed=tokens, said="")
        self.progress.start()

    def step(self, facts: StepFacts) -> None:
        assert self.task is not None
        said = f"step {facts.step:,}/{self.steps:,}  loss {facts.loss:.3f}  {facts.tokens_per_second:,.0f} tokens/s"
        self.progress.update(self.task, completed=facts.tokens, said=said)
        now = self.clock()
        if not self.console.is_terminal and now - self.said >= self.every_seconds:
            self.said = now
            rate = (facts.tokens - self.before) / (now - self.began)
            left = timedelta(seconds=round(max(0.0, self.tokens - facts.tokens) / rate)) if rate else "?"
            self.console.print(f"{said}  {left} left")

    def end(self) -> None:
        self.progress.stop()


class TensorBoard:
    """Scalars against tokens in a TensorBoard log folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(self.folder), purge_step=tokens + 1)
        self.writer.add_text("recipe", f"```json\n{recipe.model_dump_json(indent=1)}\n```")

    def step(self, facts: StepFacts) -> None:
        for name in ("loss", "rate", "grad_norm", "flop", "tokens_per_second"):
            self.writer.add_scalar(name, getattr(facts, name), facts.tokens)

    def end(self) -> None:
        self.writer.close()


class RunTracker:
    """trackio or wandb: both offer `init`, `log` and `finish`."""

    def __init__(self, library: Any, **options: Any) -> None:
        self.library, self.options = library, options

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.library.init(project="isoembed", name=recipe.key, config=recipe.model_dump(mode="json"), **self.options)

    def step(self, facts: StepFacts) -> None:
        self.library.log(asdict(facts))

    def end(self) -> None:
        self.library.finish()


def tracker_named(name: str, folder: Path) -> Callback:
    """The tracker called `tensorboard` (writes FOLDER/tensorboard), `trackio` or `wandb`; their files name the host."""
    try:
        if name == "tensorboard":
            importlib.import_module("tensorboard")
            return TensorBoard(folder / "tensorboard")
        if name == "trackio":
            import trackio

            return RunTracker(trackio)
        if name == "wandb":
            import wandb

            return RunTracker(wandb, dir=str(folder), resume="allow")
    except ImportError:
        raise InputError(f"`tracker={name}` needs the package {name}: pip install 'isoembed[trackers]'.") from None
    raise InputError(f"`tracker` must be tensorboard, trackio or wandb; got {name!r}.")
