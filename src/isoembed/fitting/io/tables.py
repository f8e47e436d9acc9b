"""Tables of anybody's runs, CSV or Parquet, as points."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoembed.core import InputError
from isoembed.fitting.io.columns import Columns, Table
from isoembed.fitting.io.units import Measured, check_flop, odd_sizes
from isoembed.fitting.notes import FitNote, remark
from isoembed.fitting.repetition import ONE_EPOCH, matched_to_single_epoch, repeated_note
from isoembed.fitting.settings import Group, TestedSetting, method_labelled
from isoembed.laws.base import Law
from isoembed.laws.points import SAME_RECIPE, Floats, Points, check_candidates

#: names under which a column is found when the user names none
COLUMNS: dict[str, tuple[str, ...]] = {
    "params": ("N", "params"),
    "tokens": ("D", "tokens"),
    "loss": ("loss", "L"),
    "flop": ("C", "flop"),
    "fraction": ("S", "fraction"),
    "weight": ("weight",),
    "run": ("run",),
}
#: columns that are read wherever they are, by these names whatever their capitals and marks, the first that there is:
#: epochs, unique tokens, and how a run ended
_EPOCHS = ("passes", "epochs", "epoch", "nepochs", "numepochs", "totalepochs", "epochstrained", "numtrainepochs",
           "datapasses", "repetitions", "numrepetitions")  # fmt: skip
_UNIQUE = ("uniquetokens", "tokensunique", "uniqtokens", "numuniquetokens", "nuniquetokens", "uniquetraintokens",
           "dunique", "ud", "du", "u", "unique", "uniq")  # fmt: skip
#: names of a run's identity, those that others than runs may have, and names of a place within a run
_RUN = ("run", "runid", "runname", "runkey", "runuid", "runpath", "wandbid", "wandbrunid", "trialid", "jobid")
_ID = (*_RUN, "id", "name", "key", "trial", "experiment", "experimentid", "experimentname", "expid", "expname")
_STEP = ("step", "globalstep", "trainstep", "trainingstep", "iteration", "iter", "checkpoint", "ckpt", "checkpointid",
         "checkpointstep")  # fmt: skip
#: names of what two runs must share to differ in their seed alone
_SETTINGS = ("learningrate", "lr", "peaklr", "maxlr", "peaklearningrate", "batch", "batchsize", "batchpairs",
             "globalbatchsize", "rank", "lorar", "lorarank", "loraalpha", "weightdecay", "warmup", "warmupsteps",
             "warmupratio", "optimizer", "scheduler", "schedule", "dropout", "temperature", "method", "tuning",
             "dataset", "contexttokens", "contextlength", "seqlen", "maxseqlength")  # fmt: skip
#: rows of one N whose D rise by steps that are even to 2 % are taken for checkpoints, from as many rows as these
_EVEN_ROWS, _EVEN = 5, 0.02
#: epochs at most: beyond, the column is something else
_MOST_EPOCHS = 1e4
_STATUS = ("status", "state")
#: what stands there for runs that did not end well, or not yet
_FAILED = frozenset(
    (
        "failed",
        "failure",
        "crashed",
        "killed",
        "error",
        "diverged",
        "oom",
        "timeout",
        "canceled",
        "cancelled",
        "running",
    )
)
#: columns not read that a note names
_NAMED = 12


@dataclass(frozen=True, eq=False)
class _Read:
    """The rows of a table that a law can be fitted to, and what was seen on the way."""

    points: Points
    rows: NDArray[np.int64]
    """row of the table behind each point, counted from 1"""
    epochs_R: Floats
    methods: list[str | None] | None
    facts: tuple[FitNote, ...]

    def __getitem__(self, keep: NDArray[np.int64]) -> _Read:
        methods = None if self.methods is None else [self.methods[row] for row in keep]
        return _Read(self.points[keep], self.rows[keep], self.epochs_R[keep], methods, self.facts)


def read_groups(
    file: Path,
    laws: Sequence[Law],
    names: Mapping[str, str] | None = None,
    method_column: str | None = None,
    candidates: int | None = None,
) -> list[Group]:
    """The runs in a CSV or Parquet file that `laws` can be fitted to, one group per method where `method_column` names
    the method of each.

    names: column of the file for `params`, `tokens`, `loss`, `flop`, `fraction`, `weight` or `run`.  What is not named
    is looked up in COLUMNS, but only where a law reads it; C is 6 N D where neither named nor read.

    Where one of `laws` reads the trained share, all hyperparameters of a method are one group; else those that the
    labels tell apart (`lora r=8`, `lora r=32`) are methods of their own.  `candidates` as in `Points.of`.

    Rows whose `status` is failed are set aside.  Rows of one `run` or `run_id` are its checkpoints.  Where the columns
    `epochs` or `unique_tokens` say that a row repeats its data, it is kept apart, beside the row of the same N, D and S
    that does not.
    """
    check_candidates(candidates)
    read = _read(file, laws, names, method_column)
    read = replace(read, points=replace(read.points, candidates=candidates))
    if read.methods is None:
        return [_group(file, None, read, ())]
    together = any("fraction" in law.also_reads for law in laws)
    members: dict[str, list[int]] = {}
    tested: dict[str, dict[str, TestedSetting]] = {}
    for row, value in enumerate(read.methods):
        if value is None:
            continue
        method = method_labelled(value)
        key = value if method is None else method.name if together else value.casefold()
        members.setdefault(key, []).append(row)
        if method is not None:
            tested.setdefault(key, {})[method.label] = TestedSetting(method=method)
    if not members:
        raise InputError(f"{method_column} of {file.name} must name the methods of the runs; it is empty.")
    if without := read.methods.count(None):
        read = replace(read, facts=(*read.facts, remark("no-method", runs=without, column=method_column)))
    return [
        _group(file, key, read[np.array(rows)], tuple(tested.get(key, {}).values())) for key, rows in members.items()
    ]


def _group(file: Path, method: str | None, read: _Read, tested: tuple[TestedSetting, ...]) -> Group:
    repeated_R = read.epochs_R > ONE_EPOCH
    if repeated_R.all():
        raise InputError(
            f"A law needs single-epoch runs: all {len(repeated_R)} of {method or file.name} repeat theirs, as "
            "its column of epochs or unique tokens says; add runs of at most one epoch, or rename the column to fit "
            "what there is."
        )
    repeats = matched_to_single_epoch(read.points, _recipes(read.points), repeated_R, read.epochs_R)
    repeated = int(repeated_R.sum())
    facts = repeated_note(repeated, repeated - (0 if repeats is None else len(repeats.points)))
    single_R = ~repeated_R
    rows = tuple(read.rows[single_R].tolist())
    return Group(method, read.points[single_R], rows, tested, facts=(*facts, *read.facts), repeats=repeats)


def _recipes(points: Points) -> NDArray[np.int64]:
    """A number for each row, the same where N, S and, within `SAME_RECIPE`, D are."""
    setting = np.stack([np.log(points.tokens), points.fraction, np.log(points.params)])
    order = np.lexsort(setting)
    apart = np.abs(np.diff(setting[:, order], axis=1, prepend=np.nan)) > [[SAME_RECIPE], [0.0], [0.0]]
    labels = np.empty(len(points), dtype=np.int64)
    labels[order] = np.cumsum(apart.any(axis=0))
    return labels


def _read(file: Path, laws: Sequence[Law], names: Mapping[str, str] | None, method_column: str | None) -> _Read:
    table = Table(file)
    if method_column is not None and method_column not in table.names:
        raise InputError(
            f"{file.name} needs a method column named {method_column}; it has {', '.join(table.names)}. Name one of "
            "them."
        )
    found = _places(table, laws, dict(names or {}))
    numbers = [name for column, name in found.items() if column != "run"]
    epochs, unique, status, step = (_anywhere(table, names) for names in (_EPOCHS, _UNIQUE, _STATUS, _STEP))
    numbers += [name for name in (epochs, unique) if name is not None]
    runs = found.get("run") or _anywhere(table, _RUN)
    ids = [name for name in table.names if _plain(name) in _ID]
    texts = [name for name in (runs, method_column, status) if name is not None]
    measured = {column: name for column in ("params", "tokens", "flop") if (name := _place(table, column)) is not None}
    settings = [
        name for name in table.names if _plain(name) in _SETTINGS and name not in (*numbers, *measured.values())
    ]
    looked_at = [*texts, *ids, *settings, *([] if step is None else [step])]
    read = table.read(
        _once(numbers), _once(looked_at), _once(each for each in measured.values() if each not in numbers)
    )
    kept, facts = _ended_well(file, read, found["loss"], status)
    values: dict[str, Any] = {column: read.numbers[name][kept] for column, name in found.items() if column != "run"}
    run: NDArray[np.int64] | None
    if "run" in found:
        run = _runs(_column(read, found["run"], kept))
    else:
        size = found.get("params") or measured.get("params")
        size_R = np.ones(len(kept)) if size is None else read.numbers[size][kept]
        run, said = _checkpoints(file, {name: _column(read, name, kept) for name in looked_at}, size_R, runs, step, ids)
        facts += said
    # a law without N (or D) reads none: ones stand in
    ones = np.ones(len(kept))
    columns = [_column(read, name, kept) for name in settings]
    setting = _runs([" ".join(map(str, row)) for row in zip(*columns, strict=True)]) if columns else None
    points = Points.of(**{"params": ones, "tokens": ones, **values}, run=run, setting=setting, rows=kept + 1)
    facts += odd_sizes(values.get("params"), values.get("tokens"), values.get("flop"), points.loss)
    if {"params", "tokens", "flop"} <= (measured := measured | found).keys():
        facts += _against_flop(file, read, kept, measured)
    if unread := [name for name in table.names if name not in numbers and name not in texts]:
        facts += (_unread(unread),)
    methods = None if method_column is None else _column(read, method_column, kept)
    facts += _copies(points, methods)
    if run is None and runs is None and "tokens" in values:
        facts += _even_steps(points)
    epochs_R = _epochs(file, points, kept, read, epochs, unique if "tokens" in found else None)
    return _Read(points, kept + 1, epochs_R, methods, facts)


def _unread(names: Sequence[str]) -> FitNote:
    columns, more = tuple(names[:_NAMED]), len(names) - _NAMED
    return remark("unread-more", columns=columns, more=more) if more > 0 else remark("unread", columns=columns)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _place(table: Table, column: str) -> str | None:
    """Where the table has a column that no user named."""
    return next((name for name in COLUMNS[column] if name in table.names), None)


def _anywhere(table: Table, names: Sequence[str]) -> str | None:
    """The table's column of the first of `names` that there is."""
    plain = {_plain(name): name for name in reversed(table.names)}
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    """A column's name as `_RUN` and the like have it: small letters and digits, and nothing of `train/` before it."""
    group, _, last = name.rpartition("/")
    return re.sub(r"[\W_]", "", (last if len(group) > 1 else name).casefold())


def _column(read: Columns, name: str, kept: NDArray[np.int64]) -> list[str | None]:
    return [read.texts[name][row] for row in kept]


def _places(table: Table, laws: Sequence[Law], names: Mapping[str, str]) -> dict[str, str]:
    """Names in the table of the columns that `laws` read or the user named; raises InputError where one is missing."""
    if foreign := sorted(set(names) - set(COLUMNS)):
        raise InputError(f"Columns can be named for {', '.join(COLUMNS)}; got {', '.join(foreign)}.")
    needed = {"loss", *(column for law in laws for column in law.varies)}
    if "flop" in needed and (names.get("flop") or _place(table, "flop")) not in table.names:
        needed = needed - {"flop"} | {"params", "tokens"}
    found = {}
    for column in COLUMNS:
        if column not in needed and column not in names and all(column not in law.also_reads for law in laws):
            continue
        name = names.get(column) or _place(table, column)
        if name in table.names:
            found[column] = name
        elif column in needed or column in names:
            raise InputError(
                f"{table.file.name} needs a `{column}` column named {name or ' or '.join(COLUMNS[column])}; it has "
                f"{', '.join(table.names) or 'none with a name'}. Say which one it is: `{column}_col`."
            )
    return found


def _ended_well(
    file: Path, read: Columns, loss: str, status: str | None
) -> tuple[NDArray[np.int64], tuple[FitNote, ...]]:
    """Rows to fit to, and a note of the others: where a table says how runs ended, not those that failed or have no
    loss."""
    loss_R = read.numbers[loss]
    if status is None:
        return np.arange(len(loss_R)), ()
    failed_R = np.array([(said or "").casefold() in _FAILED for said in read.texts[status]]) | np.isnan(loss_R)
    if failed_R.all() and len(failed_R):
        raise InputError(
            f"A fit needs runs that ended well: all {len(failed_R)} of {file.name} failed or have no loss."
        )
    failed = int(failed_R.sum())
    return np.flatnonzero(~failed_R), (remark("failed", rows=failed),) if failed else ()


def _against_flop(file: Path, read: Columns, kept: NDArray[np.int64], names: Mapping[str, str]) -> tuple[FitNote, ...]:
    """Notes on the table's C against its N and D, whatever the law reads of them."""
    params, tokens, flop = (names[column] for column in ("params", "tokens", "flop"))
    column = {name: read.numbers[name][kept] for name in (params, tokens, flop)}
    found = Measured((params, tokens, flop), column[params], column[tokens], column[flop], kept + 1)
    return check_flop(file.name, found)


def _runs(names: Sequence[str | None]) -> NDArray[np.int64]:
    """A number for each row, the same for rows of one run; a row without a name is a run of its own."""
    numbers: dict[str, int] = {}
    keys = (f"row {row}" if name is None else f"run {name}" for row, name in enumerate(names))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _checkpoints(
    file: Path,
    texts: Mapping[str, Sequence[str | None]],
    size_R: Floats,
    runs: str | None,
    step: str | None,
    ids: Sequence[str],
) -> tuple[NDArray[np.int64] | None, tuple[FitNote, ...]]:
    """The run of each row, None where each is one of its own, and a note.  Rows that share a run's name and N are its
    checkpoints: drawn one by one, as if each were a training of its own, they make intervals too narrow.  Raises
    InputError where a column of steps says that there are checkpoints, and none whose they are."""
    facts: tuple[FitNote, ...] = ()
    if runs is not None:
        run_R = _runs(texts[runs])
        count = len(np.unique(run_R))
        if count == len(run_R):
            return None, ()
        if len(np.unique(np.stack([run_R, size_R]), axis=1).T) == count:
            return run_R, (remark("checkpoints", column=runs, rows=len(run_R), runs=count),)
        facts = (remark("no-checkpoints", column=runs),)
    if step is None or any(None not in texts[name] and len(set(texts[name])) == len(size_R) for name in ids):
        return None, facts
    places = {(size, place) for size, place in zip(size_R.tolist(), texts[step], strict=True)}
    if len(places) == len(np.unique(size_R)):
        return None, facts
    raise InputError(
        f"`{step}` of {file.name} looks like steps of runs, of which a row each is a checkpoint, and no column says "
        "which rows are of one run. Name it with `run_col`, or rename the steps where each row is a run of its own."
    )


def _even_steps(points: Points) -> tuple[FitNote, ...]:
    """A note where most rows lie at even steps of D within their N, which runs planned by budget do not."""
    rows = 0
    for size in np.unique(points.params):
        of_size = points.params == size
        steps = np.diff(np.unique(points.tokens[of_size]))
        if len(steps) + 1 >= _EVEN_ROWS and steps.max() < (1 + _EVEN) * steps.min():
            rows += int(of_size.sum())
    return (remark("even-steps", even=rows, rows=len(points)),) if 2 * rows > len(points) else ()


def _copies(points: Points, methods: Sequence[str | None] | None) -> tuple[FitNote, ...]:
    """A note of rows that are others again: seeds differ in the last digits of the loss, copies do not."""
    method_R = np.zeros(len(points)) if methods is None else np.unique([str(each) for each in methods], False, True)[1]
    columns = (points.params, points.tokens, points.flop, points.fraction, points.loss, method_R)
    copies = len(points) - len(np.unique(np.stack(columns), axis=1).T)
    return (remark("copies", rows=copies),) if copies else ()


def _epochs(
    file: Path, points: Points, kept: NDArray[np.int64], read: Columns, epochs: str | None, unique: str | None
) -> Floats:
    """Epochs of each row, one where the table does not say.  Raises InputError where its two ways of
    saying it, the columns `epochs` and `unique`, contradict."""
    nothing_R = np.full(len(kept), np.nan)
    said_R = nothing_R if epochs is None else read.numbers[epochs][kept]
    unique_R = nothing_R if unique is None else read.numbers[unique][kept]
    counted_R = points.tokens / np.where(unique_R > 0, unique_R, np.nan)
    epochs_R = np.where(np.isnan(counted_R), np.where(np.isnan(said_R), 1.0, said_R), counted_R)
    for wrong_R, rule in (
        (said_R <= 0, f"`{epochs}` must be epochs over the data, above 0 (where it counts from 0, add 1)"),
        (epochs_R > _MOST_EPOCHS, f"`{epochs or unique}` must be epochs over the data, or unique tokens of D"),
        (np.abs(np.log(np.maximum(said_R, 1e-9) / counted_R)) > 0.1,
         f"Epochs by `{epochs}` and by D over `{unique}` must be the same, D the tokens of all"),
    ):  # fmt: skip
        if wrong_R.any():
            at = int(np.argmax(wrong_R))
            found = [f"{value:g}" for value in (said_R[at], counted_R[at]) if not np.isnan(value)]
            row = f"row {kept[at] + 1} of {file.name} has {' and '.join(found)} epochs"
            raise InputError(f"{rule}: {row}. Mend or rename the column.")
    return epochs_R
