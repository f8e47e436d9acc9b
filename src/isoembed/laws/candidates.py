"""A contrastive loss among other candidates than it was taken: z = (e^L - 1) / (K - 1), what chance leaves over.

Measured on the nano study (docs/lab-notes/laws.md): ln z1024 = .16 + 1.27 ln z32, standard deviation .076; from 512
candidates on z moves by 1 % at most.  In between, both numbers and the deviation are taken in proportion to ln K:
assumed.  Below 32 nothing was measured.
"""

from __future__ import annotations

import math

import numpy as np

from isoembed.core import InputError
from isoembed.laws.points import Floats

_FEWEST, _MEASURED, _SAME = 32, 1024, 512
_OFFSET, _SLOPE, _DEVIATION = 0.16, 1.27, 0.076


def among(loss_R: Floats, candidates: int, wanted: int) -> tuple[Floats, float]:
    """`loss_R` taken among `candidates` as it would be among `wanted`, and the standard deviation of ln z that this
    adds; the same losses where z is the same, moved by K alone.

    Raises InputError for losses among fewer than 32 candidates, or from many to fewer.
    """
    if candidates == wanted:
        return loss_R, 0.0
    if candidates < _FEWEST or wanted < min(candidates, _SAME):
        raise InputError(
            f"Losses among {candidates} candidates cannot be told among {wanted}: the rule was measured from {_FEWEST} "
            f"to {_MEASURED} upwards. Take a held-out set of {min(wanted, _SAME)} pairs or more."
        )
    share = 0.0 if candidates >= _SAME else math.log(_MEASURED / candidates) / math.log(_MEASURED / _FEWEST)
    log_z_R = np.log(np.expm1(loss_R) / (candidates - 1))
    log_z_R = _OFFSET * share + (1.0 + (_SLOPE - 1.0) * share) * log_z_R
    return np.log1p((wanted - 1) * np.exp(log_z_R)), _DEVIATION * share
