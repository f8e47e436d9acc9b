"""Points: the runs a law is fitted to, as checked arrays.  Every array has one entry per row (suffix R)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoembed.core import InputError, fingerprint

Floats = NDArray[np.float64]

#: seeds draw pairs of other lengths: runs of one recipe end up to half a batch apart in D and C, of 100 steps or more
SAME_RECIPE = 5e-3
#: N, D and losses are within it and one over it, C within its square: beyond, powers of them are no numbers
LARGEST_SIZE = 1e30


@dataclass(frozen=True)
class Rows:
    """What laws read, in logarithms: ln N, ln D, ln C, and 1 - S, the untrained (or kept) share.  A forecast may give
    ln D for each draw (B, R)."""

    log_params_R: Floats
    log_tokens_R: Floats
    log_flop_R: Floats
    frozen_share_R: Floats


def check_candidates(candidates: int | None) -> None:
    """Raise InputError where a contrastive loss would have nothing to tell its positive from."""
    if candidates is not None and candidates < 2:
        raise InputError(f"`candidates` must be at least 2, the positive and another; got {candidates}.")


@dataclass(frozen=True, eq=False)
class Points:
    """Runs: N parameters, D tokens, final loss, and where known C, S, weight and the run a row belongs to.

    `flop` is 6 N D where not given.  `fraction` is S: the trainable share for the embedding law, the sparsity for
    Frantar's; 1 where not given.  Rows that share a `run` (checkpoints of one training) are resampled together.
    Raises InputError for anything that is not a positive finite number.
    """

    params: Floats
    tokens: Floats
    loss: Floats
    flop: Floats
    fraction: Floats
    weight: Floats
    run: NDArray[np.int64]
    candidates: int | None = None  #: among how many a contrastive loss was taken; None where nobody said
    setting: NDArray[np.int64] | None = None  #: rows of one number have one rate, batch and so on; None: all rows have

    @classmethod
    def of(
        cls,
        params: ArrayLike,
        tokens: ArrayLike,
        loss: ArrayLike,
        *,
        flop: ArrayLike | None = None,
        fraction: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        run: Sequence[Any] | NDArray[Any] | None = None,
        candidates: int | None = None,
        setting: NDArray[Any] | None = None,
        rows: ArrayLike | None = None,
    ) -> Points:
        """Check and collect the columns.  rows: what an error calls the rows; 1, 2, ... where not given."""
        check = _Check(rows)
        params_R, tokens_R, loss_R = check("params", params), check("tokens", tokens), check("loss", loss)
        count = len(loss_R)
        flop_R = 6.0 * params_R * tokens_R if flop is None else check("flop", flop, most=LARGEST_SIZE**2)
        fraction_R = np.ones(count) if fraction is None else check("fraction", fraction, positive=False)
        weight_R = np.ones(count) if weight is None else check("weight", weight, positive=False)
        run_R = np.arange(count) if run is None else np.unique(np.asarray(run), return_inverse=True)[1]
        for name, column in (("params", params_R), ("tokens", tokens_R), ("flop", flop_R), ("fraction", fraction_R),
                             ("weight", weight_R), ("run", run_R)):  # fmt: skip
            if len(column) != count:
                raise InputError(f"Columns must be equally long: `{name}` has {len(column)} rows, `loss` {count}.")
        if count == 0:
            raise InputError("A fit needs runs; the table has none. Check the file and its columns.")
        if bad := np.flatnonzero((fraction_R < 0) | (fraction_R > 1)).tolist():
            raise InputError(
                f"`fraction` must lie in 0..1: row {check.row(bad[0])} is {fraction_R[bad[0]]:g}; give a share."
            )
        if np.any(weight_R < 0) or not np.any(weight_R > 0):
            raise InputError(
                "`weight` must be zero or more and positive somewhere; leave the column out for equal ones."
            )
        check_candidates(candidates)
        return cls(
            params_R, tokens_R, loss_R, flop_R, fraction_R, weight_R, run_R.astype(np.int64), candidates, setting
        )

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, keep: NDArray[Any]) -> Points:
        """The rows that a mask or an index array selects."""
        setting = None if self.setting is None else self.setting[keep]
        return replace(self, setting=setting, **{name: getattr(self, name)[keep] for name in _ROW_COLUMNS})

    @cached_property
    def rows(self) -> Rows:
        return Rows(np.log(self.params), np.log(self.tokens), np.log(self.flop), 1.0 - self.fraction)

    @property
    def fingerprint(self) -> str:
        """Identity of the data: the hash of all columns."""
        return fingerprint({name: getattr(self, name).tolist() for name in _ROW_COLUMNS})

    def column(self, name: str) -> Floats:
        """The column of that name."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def distinct(self, *names: str) -> int:
        """How many different rows the named columns hold, to 10 digits."""
        return len(np.unique(np.array([[f"{value:.10g}" for value in self.column(name)] for name in names]).T, axis=0))

    def seed_sd(self) -> float | None:
        """Standard deviation of ln loss between runs that differ in nothing but their seed; None without repeats.

        Runs of one setting, N and S whose D and C are within `SAME_RECIPE` count as such; of one run's rows the first.
        """
        log_loss: list[list[float]] = []
        first, runs = np.full(5, np.inf), set[int]()
        other = np.zeros(len(self)) if self.setting is None else self.setting
        setting = np.stack([np.log(self.flop), np.log(self.tokens), self.fraction, other, np.log(self.params)])
        for row in np.lexsort(setting):
            if (np.abs(setting[:, row] - first) > [SAME_RECIPE, SAME_RECIPE, 0.0, 0.0, 0.0]).any():
                first, runs = setting[:, row], set()
                log_loss.append([])
            if int(self.run[row]) not in runs:
                runs.add(int(self.run[row]))
                log_loss[-1].append(math.log(self.loss[row]))
        free = sum(len(repeats) - 1 for repeats in log_loss)
        if not free:
            return None
        return math.sqrt(sum(len(repeats) * float(np.var(repeats)) for repeats in log_loss) / free)


_ROW_COLUMNS = tuple(field.name for field in fields(Points) if field.name not in ("candidates", "setting"))


class _Check:
    """A column as an array of finite numbers within bounds that no power of them leaves the floats' range from."""

    def __init__(self, rows: ArrayLike | None) -> None:
        self.rows = None if rows is None else np.asarray(rows)

    def row(self, index: int) -> int:
        return index + 1 if self.rows is None else int(self.rows[index])

    def __call__(self, name: str, values: ArrayLike, *, positive: bool = True, most: float = LARGEST_SIZE) -> Floats:
        try:
            array = np.atleast_1d(np.asarray(values, dtype=np.float64))
        except OverflowError:
            array = np.array([_float(value) for value in np.atleast_1d(np.asarray(values, dtype=object))])
        self._refuse(name, "a finite number", array, ~np.isfinite(array))
        if positive:
            self._refuse(name, "positive", array, array <= 0)
            self._refuse(name, f"within {1 / most:g} and {most:g}", array, (array < 1 / most) | (array > most))
        else:
            self._refuse(name, f"at most {most:g}", array, np.abs(array) > most)
        return array

    def _refuse(self, name: str, rule: str, array: Floats, bad_R: NDArray[np.bool_]) -> None:
        if bad := np.flatnonzero(bad_R).tolist():
            raise InputError(
                f"`{name}` must be {rule} in every row: row {self.row(bad[0])} is {array[bad[0]]:g} "
                f"({len(bad)} such rows); remove them or mend the table."
            )


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
