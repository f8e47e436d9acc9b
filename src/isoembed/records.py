"""RunRecord: what happened in one run, written once; Ledger: a folder of them."""

from __future__ import annotations

import gzip
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field, TypeAdapter, ValidationError, computed_field, field_validator, model_validator

from isoembed.core import Frozen, InputError, Summarised, checked, expanded, write_atomically, write_once
from isoembed.notes import Note
from isoembed.recipe import Recipe
from isoembed.scratch import clear_files

#: file of a run's record, beside what it made
RECORD = "record.json"
#: file of what was asked for, beside it
RECIPE = "recipe.json"
#: file of a ledger: what its sweep was asked for
REQUEST = "sweep.json"


class Heldout(Frozen):
    """Contrastive loss on a fixed held-out set, the number that laws are fitted to.

    Computed in blocks of `candidates` pairs, never the training batch, so that runs with different batches compare.
    Records compare only where `fingerprint` (pairs, blocks, temperature) is the same.
    """

    loss: float
    mrr: float | None = Field(
        None, description="mean reciprocal rank of a query's positive in its block, 0 to 1; None in older records"
    )
    pairs: int
    candidates: int
    fingerprint: str


class LossPoint(Frozen):
    """One optimiser step: tokens seen after it, its loss in nats, its learning rate."""

    step: int
    tokens: int
    loss: float
    rate: float


class HeldoutPoint(Frozen):
    """The held-out loss and MRR during a run: after which step and how many tokens, and the seconds that they took."""

    step: int
    tokens: int
    loss: float
    mrr: float | None = None
    seconds: float


class Inherited(Frozen):
    """What a run took over from a shorter one, whose steps before its rate fell are its own first ones."""

    key: str = Field(description="of the shorter run")
    steps: int
    tokens: int
    flop: float = Field(description="their C")
    teacher_flop: float = Field(0.0, description="of the teacher's forward passes over their pairs")
    seconds: float

    def describe(self) -> str:
        """In words."""
        spent = self.flop + self.teacher_flop
        return f"{spent:.3g} FLOP and {self.seconds:.3g} s are those of {self.key}, not spent again"


class ScoreName(NamedTuple):
    """Which score: of a task, in a metric.  A record, and a column of an exported ledger, names it `task/metric`."""

    task: str
    metric: str

    @classmethod
    def of(cls, written: str) -> ScoreName:
        """As a file has it; of a task that is named alone (no file of ours), with no metric."""
        task, slash, metric = written.rpartition("/")
        return cls(task, metric) if slash else cls(written, "")

    def __str__(self) -> str:
        return f"{self.task}/{self.metric}" if self.metric else self.task


class RunRecord(Summarised):
    """The facts of one run.  Opinions (fits, figures) are derived from records, never stored in them."""

    recipe: Recipe
    key: str
    status: Literal["done"] = "done"
    data_fingerprint: str
    datasets: tuple[str, ...] | None = Field(
        None, description="hub ids of the datasets among the training data; None in older records"
    )
    forward_params: int = Field(description="N_F")
    backward_params: int = Field(description="N_B")
    updated_params: int = Field(description="N_U")
    table_params: int = Field(description="token-table parameters trained; no part of C")
    trainable_params: int
    steps: int
    pairs: int
    negatives: int = Field(0, description="hard negatives processed, repeats counted")
    unique_pairs: int | None = Field(None, description="distinct pairs drawn from; None in older records")
    epochs: float | None = Field(
        None, description="how often they are gone through: pairs / unique_pairs; None in older records"
    )
    tokens: int = Field(description="D: real tokens processed")
    model_flop: float = Field(description="C, counted on the real tokens")
    teacher_flop: float = Field(
        0.0, description="of the teacher's forward passes over the pairs seen, paid from the budget beside C"
    )
    executed_flop: float = Field(description="C with padding, recomputation and adapters that ran merged")
    recomputed_flop: float | None = Field(None, description="of them, second forward passes; None in older records")
    all_in_flop: float = Field(description="C with attention and the token table's update")
    final_loss: float | None = Field(description="mean training loss of the last tenth of the steps; None before one")
    heldout_before: Heldout | None = None
    heldout: Heldout | None = Field(None, description="of the weights that were kept")
    heldout_last: Heldout | None = Field(None, description="of the last step's, where those of another were kept")
    kept_step: int | None = Field(None, description="the step whose weights were kept, where that is not the last one")
    evaluations: tuple[HeldoutPoint, ...] = Field((), description="held-out losses as the run went, where asked for")
    evaluation_flop: float = Field(0.0, description="of these evaluations, forward passes; no part of C")
    scores: dict[str, float] = Field({}, description="task/metric -> score of the trained model, where scored")
    inherited: Inherited | None = Field(
        None, description="of a run that extends another, what was not spent again; the other counts are of the whole"
    )
    wall_seconds: float
    overhead_seconds: float | None = Field(
        None, description="beside the steps: loading, held-out evaluation, scoring; None where it was not measured"
    )
    peak_memory_bytes: int
    tokens_per_second: float
    loss_curve: tuple[LossPoint, ...]
    versions: dict[str, str]
    machine: dict[str, str]
    created: str = Field(description="UTC, ISO 8601")

    @property
    def inherited_flop(self) -> float:
        """Of C, what was not spent again."""
        return 0.0 if self.inherited is None else self.inherited.flop

    @property
    def inherited_teacher_flop(self) -> float:
        """Of its teacher's FLOP, what was not paid again."""
        return 0.0 if self.inherited is None else self.inherited.teacher_flop

    @property
    def own_flop(self) -> float:
        """C but for what was inherited."""
        return self.model_flop - self.inherited_flop

    @property
    def own_seconds(self) -> float:
        """The time of its steps but for those that were inherited."""
        return self.wall_seconds - (0.0 if self.inherited is None else self.inherited.seconds)

    @property
    def ended_early(self) -> bool:
        """Whether early stopping ended it before its tokens were spent."""
        a_step = self.tokens / self.steps
        return self.recipe.early_stopping.patience is not None and self.tokens + a_step < self.recipe.train_tokens

    @property
    def to_the_end(self) -> bool:
        """Whether its held-out loss is that of the last step of all of its tokens, as laws forecast it."""
        return self.kept_step is None and not self.ended_early

    def summary(self) -> dict[str, str]:
        """What ran, what it cost and what it reached."""
        shown = {**self.recipe.summary(), "flop": f"{self.model_flop:.3g}", "seconds": f"{self.wall_seconds:.3g}"}
        if self.heldout is not None:
            before = "" if self.heldout_before is None else f", {self.heldout_before.loss:.4g} untrained"
            shown["heldout_loss"] = f"{self.heldout.loss:.4g}{before}"
        return shown | {name: f"{score:.3f}" for name, score in self.scores.items()}

    def published(self) -> RunRecord:
        """The record as it may leave this machine."""
        recipe = self.recipe.published()
        return self.model_copy(update={"recipe": recipe, "key": recipe.key})

    @checked
    def save(self, file: str | Path) -> None:
        """Write the record as JSON, atomically."""
        write_atomically(expanded(file), self.model_dump_json(indent=1) + "\n")

    @classmethod
    @checked
    def load(cls, file: str | Path) -> RunRecord:
        """Read a record; raises InputError naming the file where it is damaged."""
        file = expanded(file)
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise InputError(
                f"A run record must be a file: {file} cannot be read ({error.strerror}). Training writes record.json."
            ) from None
        except ValidationError as error:
            raise damaged(file, error) from None


#: why an attempt at a run failed
Reason = Literal["out-of-memory", "diverged", "lost-worker", "error"]


class EndNote(Note):
    """How an attempt at a run ended without a record: its kind why, its sentence what was seen of it."""

    kind: Reason | Literal["stopped"]

    sentences: ClassVar = {
        "gone": ("the worker is gone",),
        "process-ended": ("its process ended with exit status {status}",),
        "process-killed": ("its process ended with signal {signal}",),
        "signal": ("stopped by a signal",),
        "overtaken": ("the record was there already",),
        "refused": ("{why}",),
        # of errors that are not ours
        "raised": ("{error}", "{text}"),
        "text": ("{text}",),
    }


def ended(kind: Reason | Literal["stopped"], code: str, **fields: Any) -> EndNote:
    """How an attempt ended, with its fields by name."""
    return EndNote(kind=kind, code=code, fields=fields)


class FailedRun(Frozen):
    """A planned run that was given up: the record of a run that never ended.  Nothing is fitted to it."""

    recipe: Recipe
    key: str
    status: Literal["failed"] = "failed"
    notes: tuple[EndNote, ...] = Field(min_length=1, description="what each attempt died of, first to last")
    machine: dict[str, str] = Field({}, description="of the worker that gave it up")
    created: str = Field(description="UTC, ISO 8601")

    @model_validator(mode="before")
    @classmethod
    def _of_older_file(cls, given: Any) -> Any:
        """A record of before there were notes has their words alone, `reason: words` each."""
        if not isinstance(given, dict):
            return given
        others = {name: value for name, value in given.items() if name not in ("reason", "failures")}
        if "notes" in others or "reason" not in given:
            return others
        last, said = str(given["reason"]), [str(each) for each in given.get("failures") or ()]
        parts = [each.partition(": ") for each in said] or [(last, "", last)]
        known = get_args(Reason)
        read = [(kind, words) if kind in known else (last, f"{kind}{colon}{words}") for kind, colon, words in parts]
        return {"notes": [{"kind": kind, "code": "text", "fields": {"text": words}} for kind, words in read]} | others

    @field_validator("notes")
    @classmethod
    def _failed(cls, notes: tuple[EndNote, ...]) -> tuple[EndNote, ...]:
        if any(note.kind == "stopped" for note in notes):
            raise ValueError("an attempt that was stopped did not fail")
        return notes

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> Reason:
        """Why the last attempt failed."""
        return self.notes[-1].kind  # type: ignore[return-value] # none was stopped

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failures(self) -> tuple[str, ...]:
        """What each attempt died of, in words."""
        return tuple(f"{each.kind}: {each}" for each in self.notes)


Outcome = Annotated[RunRecord | FailedRun, Field(discriminator="status")]
_OUTCOME: TypeAdapter[RunRecord | FailedRun] = TypeAdapter(Outcome)


#: lines of a ledger's file that are no records, before it is taken for something else
MOST_DAMAGED = 1000
#: bytes of one record: the largest seen have a hundredth
MOST_BYTES = 1 << 24


class Ledger:
    """A folder of runs, one file each, named by the recipe's key: `records/KEY.json`, its losses step by step in
    `curves/KEY.json`.  A record is written once and whole.  Two ledgers are merged by copying one's files into the
    other.  A ledger may also be one file, `*.jsonl.gz` with one record per line and no curves: the form in which
    results ship.

    What cannot be read is left out and named in `damaged` (file, or file and line -> why); nothing is ever deleted.
    Empty lines are passed over.  Reading a file ends after `MOST_DAMAGED` lines that are no records, or at one of more
    than `MOST_BYTES`: it is no ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: dict[str, str] = {}

    @classmethod
    @checked
    def open(cls, path: str | Path) -> Ledger:
        """The ledger at `path`; raises InputError where there is none."""
        path = expanded(path)
        if not (path / "records").is_dir() and not (path.is_file() and path.name.endswith(".jsonl.gz")):
            if (path / REQUEST).is_file():
                raise InputError(f"{path} is a sweep of which no run has ended yet; run it: `isoembed sweep run`.")
            raise InputError(f"A ledger must be a folder with records/ in it, or a .jsonl.gz; {path} is neither.")
        return cls(path)

    def __contains__(self, key: str) -> bool:
        return self._record(key).exists()

    def keys(self) -> set[str]:
        """Keys of the runs that ended, well or not."""
        return {file.stem for file in (self.path / "records").glob("*.json")}

    def add(self, outcome: RunRecord | FailedRun) -> bool:
        """Write what came of a run; False where the ledger holds its outcome already, which then stands.

        A run that ended well takes the place of one that was given up, or cannot be read; the first such one stays.
        """
        if isinstance(outcome, RunRecord):
            if isinstance(self.outcome(outcome.key), RunRecord):
                return False
            curve = {name: [getattr(p, name) for p in outcome.loss_curve] for name in LossPoint.model_fields}
            write_atomically(self._curve(outcome.key), json.dumps(curve, separators=(",", ":")) + "\n")
            outcome = outcome.model_copy(update={"loss_curve": ()})
        file, text = self._record(outcome.key), outcome.model_dump_json() + "\n"
        while not write_once(file, text):
            # a finished record is not moved: in its absence another rival could put its own there
            rival_ended_well = isinstance(self.outcome(outcome.key), RunRecord)
            if isinstance(outcome, FailedRun) or rival_ended_well or not self.remove_failed(outcome.key):
                return False
        return True

    def remove_failed(self, key: str) -> bool:
        """Forget that a run was given up; False where it ended well meanwhile, whose record stays."""
        file, aside = self._record(key), self._record(key).with_name(f".{uuid.uuid4().hex}.partial")
        try:
            file.rename(aside)  # looked at where nobody can put another one in its place
        except FileNotFoundError:
            return True
        done = isinstance(self._outcome(str(file), aside.read_bytes()), RunRecord)
        if done:
            with suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()
        return not done

    def clear(self, folders: Iterable[str] = ("records", "curves")) -> None:
        """Remove what killed writers left in these folders of the ledger."""
        for name in folders:
            clear_files(self.path / name)

    def outcomes(self) -> list[RunRecord | FailedRun]:
        """Every run that ended, ordered by key; of two records of one run in a file the one that ended well, or the
        first."""
        self.damaged = {}
        found: dict[str, RunRecord | FailedRun] = {}
        for place, text in self._texts():
            outcome = self._outcome(place, text)
            if outcome is not None and not isinstance(found.get(outcome.key), RunRecord):
                found[outcome.key] = outcome
        return [found[key] for key in sorted(found)]

    def outcome(self, key: str) -> RunRecord | FailedRun | None:
        """How one run of a folder ended; None where it has not, or its record cannot be read."""
        file = self._record(key)
        try:
            return self._outcome(str(file), file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.damaged[str(file)] = str(error)
            return None

    def records(self) -> list[RunRecord]:
        """The runs that ended well, ordered by key."""
        return [outcome for outcome in self.outcomes() if isinstance(outcome, RunRecord)]

    def curve(self, key: str) -> tuple[LossPoint, ...]:
        """The losses of a run, step by step; empty where the ledger has none."""
        file = self._curve(key)
        if not file.is_file():
            return ()
        try:
            columns = json.loads(file.read_bytes())
            return tuple(
                LossPoint(step=step, tokens=tokens, loss=loss, rate=rate)
                for step, tokens, loss, rate in zip(*(columns[name] for name in LossPoint.model_fields), strict=True)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is not a loss curve ({error}); remove it.") from None

    def export(self, file: Path, outcomes: Iterable[RunRecord | FailedRun]) -> None:
        """Write `outcomes` as one `.jsonl.gz`, the same bytes for the same runs."""
        lines = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes)
        write_atomically(file, gzip.compress(lines.encode(), mtime=0))

    def _outcome(self, place: str, text: bytes) -> RunRecord | FailedRun | None:
        """The record that `text` is; None, and named in `damaged`, where it is none."""
        try:
            outcome = _OUTCOME.validate_json(text)
        except ValidationError as error:
            self.damaged[place] = error.errors()[0]["msg"]
            return None
        if outcome.key != outcome.recipe.key:
            self.damaged[place] = f"its key is {outcome.key}, its recipe's {outcome.recipe.key}: it was changed"
            return None
        return outcome

    def _record(self, key: str) -> Path:
        return self.path / "records" / f"{key}.json"

    def _curve(self, key: str) -> Path:
        return self.path / "curves" / f"{key}.json"

    def _texts(self) -> Iterator[tuple[str, bytes]]:
        """Where each record lies, and its JSON."""
        if self.path.is_file():
            yield from self._lines()
            return
        for file in (self.path / "records").glob("*.json"):
            try:
                if file.stat().st_size > MOST_BYTES:
                    self.damaged[str(file)] = "it has more bytes than any record"
                else:
                    yield str(file), file.read_bytes()
            except OSError as error:
                self.damaged[str(file)] = str(error)

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """As `_texts`, of a file; it is read as a stream, for little of it may be much when unpacked."""
        empty = 0
        try:
            with gzip.open(self.path) as lines:
                for number, line in enumerate(iter(partial(lines.readline, MOST_BYTES + 1), b""), 1):
                    empty += line.isspace()
                    if len(line) > MOST_BYTES or empty + len(self.damaged) > MOST_DAMAGED:
                        why = "it is longer than any record" if len(line) > MOST_BYTES else "too few are records"
                        self.damaged[f"{self.path}, line {number} and all after it"] = f"not read: {why}"
                        return
                    if not line.isspace():
                        yield f"{self.path}, line {number}", line
        except (OSError, EOFError, zlib.error) as error:
            self.damaged[str(self.path)] = str(error)


def damaged(file: Path, error: ValidationError) -> InputError:
    """The first complaint about a record's file, as an InputError."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return InputError(f"{file} is not a run record ({where or 'JSON'}: {first['msg']}); restore or remove it.")
