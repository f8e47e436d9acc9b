"""Do the columns of a table make sense together?  C against 6 N D, and sizes that no model or run has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from isoembed.core import InputError
from isoembed.fitting.notes import FitNote, remark
from isoembed.laws.points import Floats

#: C over 6 N D beyond which, or under one over which, a unit is wrong: methods, sparsity, experts and attention stay
#: within, and units are apart by thousands
_WRONG = 100.0
#: as much beyond 6 N D is worth a word
_ODD = 10.0
_N_UNITS = {"": 1.0, "millions": 1e6, "billions": 1e9, "thousands": 1e3}
_D_UNITS = {"": 1.0, "billions": 1e9, "millions": 1e6, "trillions": 1e12, "thousands": 1e3}
_C_UNITS = {"": 1.0, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18, "PFLOP/s-days": 8.64e19, "ZFLOP": 1e21}
#: parameters, tokens and FLOP between which runs lie that anybody made
_PLAUSIBLE = ((1e3, 1e14), (1e5, 1e16), (1e9, 1e28))


@dataclass(frozen=True)
class Measured:
    """The columns by their names in the table, as they stand."""

    names: tuple[str, str, str]
    params: Floats
    tokens: Floats
    flop: Floats
    rows: NDArray[np.int64]


def check_flop(source: str, found: Measured) -> tuple[FitNote, ...]:
    """Notes on C against 6 N D.  Raises InputError, with the likely unit, where they contradict by orders of magnitude;
    a C that is no positive number in some rows is broken itself, and is only said to be."""
    c = found.names[2]
    if (broken_R := ~(found.flop > 0)).any():
        row = found.rows[np.argmax(broken_R)]
        return (remark("flop-broken", column=c, rows=int(broken_R.sum()), row=int(row)),)
    with np.errstate(all="ignore"):
        ratio_R = found.flop / (6.0 * found.params * found.tokens)
    ratio = float(np.median(ratio_R))
    wrong_R = ~((ratio_R <= _WRONG) & (ratio_R >= 1 / _WRONG))
    if wrong_R.any():
        at = int(np.argmax(wrong_R))
        alike = np.mean(np.abs(np.log(ratio_R / ratio)) < np.log(_WRONG)) if 0 < ratio < np.inf else 0.0
        remedy = _likely(found, ratio) if min(alike, np.mean(wrong_R)) > 0.9 else "Mend these rows"
        raise InputError(
            f"{c} of {source}, as C, contradicts 6 N D in {int(wrong_R.sum()):,} of {len(ratio_R):,} rows: "
            f"{ratio_R[at]:.2g} times as much in row {found.rows[at]}. N counts parameters, D tokens, C FLOP. {remedy}."
        )
    if not 1 / _ODD <= ratio <= _ODD:
        return (remark("flop-odd", column=c, ratio=ratio),)
    return ()


def _likely(found: Measured, ratio: float) -> str:
    """The units by which C is 6 N D, of those the fewest that leave sizes that somebody trained."""
    middles = [float(np.median(column)) for column in (found.params, found.tokens, found.flop)]

    def cost(units: tuple[str, str, str]) -> float:
        n, d, c = _N_UNITS[units[0]], _D_UNITS[units[1]], _C_UNITS[units[2]]
        sizes = [middle * unit for middle, unit in zip(middles, (n, d, c), strict=True)]
        odd = sum(not low <= size <= high for size, (low, high) in zip(sizes, _PLAUSIBLE, strict=True))
        off = abs(np.log10(ratio * c / (n * d)))
        return float(10 * odd + 3 * off + sum(map(bool, units)) + (sizes[1] < sizes[0]))

    units = min(product(_N_UNITS, _D_UNITS, _C_UNITS), key=cost)  # of equals the first: the usual units
    likely = [
        f"{name} looks like {unit}: multiply it by {table[unit]:g}"
        for name, unit, table in zip(found.names, units, (_N_UNITS, _D_UNITS, _C_UNITS), strict=True)
        if unit
    ]
    return "; ".join(likely) or "Mend the columns"


def odd_sizes(params: Floats | None, tokens: Floats | None, flop: Floats | None, loss: Floats) -> tuple[FitNote, ...]:
    """Notes on sizes in units that a law should not be asked in, and on a loss that looks like something else."""
    facts = []
    sizes = (("N", params, "parameters", 1e4), ("D", tokens, "tokens", 1e4), ("C", flop, "FLOP", 1e9))
    for letter, column, unit, few in sizes:
        if column is not None and column.max() < few:
            low, high = float(column.min()), float(column.max())
            facts.append(remark("small", letter=letter, low=low, high=high, unit=unit))
    if np.median(loss) > 20:
        facts.append(remark("perplexity", low=float(loss.min()), high=float(loss.max())))
    if params is not None and tokens is not None and len(loss) >= 5:
        compute, height = (np.argsort(np.argsort(column)) for column in (np.log(params) + np.log(tokens), loss))
        if np.corrcoef(compute, height)[0, 1] > 0.5:
            facts.append(remark("score"))
    return tuple(facts)
