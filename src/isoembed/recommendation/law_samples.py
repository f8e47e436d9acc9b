"""What the bootstrap samples of a set of laws forecast of any candidate.

Bootstraps of different methods are independent fits; candidates of one law share its samples, so that what the law does
not know cancels where it should.  Where runs allow alternative laws (`LawFile.alternatives`), each has an equal share
of the samples.  A sample that is an outlier among a candidate's counts as the outermost that is none
(`isoembed.fitting.intervals.tamed`).  None is above chance, ln K, where a law of the set says K.

Shapes: B samples, b those of one alternative, K candidates, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoembed.fitting.drift import away, below, beyond
from isoembed.fitting.intervals import tamed
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.repetition import PRETRAINING_R_STAR, effective_tokens
from isoembed.laws import law_named
from isoembed.laws.points import Floats, Rows
from isoembed.recommendation.candidates import Candidate
from isoembed.recommendation.request import CompleteRequest

#: the ends of an even spread, in standard deviations: sizes outside the fitted ones count as these
_EDGE = math.sqrt(3)


@dataclass(frozen=True, eq=False)
class _SharedSamples:
    """A law, or an alternative of it, and the samples that it has: their rows of a loss, and its parameters in each."""

    law: str
    rows_b: npt.NDArray[np.int64]
    theta_bP: Floats


def below_chance(loss_BK: Floats, chance: float) -> Floats:
    """Samples (B, K) of losses, none above `chance`, with the means that they had: what lies above is cut off, and what
    is left is drawn towards chance by as much as its mean has sunk.  Else a wide forecast would seem a low one."""
    cut_BK = np.minimum(loss_BK, chance)
    cut_K = (loss_BK > chance).any(axis=0)
    if not cut_K.any():
        return loss_BK
    room_K = np.maximum(chance - loss_BK.mean(axis=0), 0.0) / np.maximum(chance - cut_BK.mean(axis=0), 1e-12)
    return np.where(cut_K, chance - room_K * (chance - cut_BK), cut_BK)


def _shuffled(draws: int, count: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
    """`count` of `draws` draws in an order of chance; all of them before any comes again."""
    return np.concatenate([chance.permutation(draws) for _ in range(-(-count // draws))])[:count]


def _shared(law: LawFile, order_B: npt.NDArray[np.int64], chance: np.random.Generator) -> list[_SharedSamples]:
    """The samples of `law` in that order, shared out among it and its alternatives by chance."""
    drawn = [(law.law, law.bootstrap().theta_BP)]
    drawn += [(other.law, np.array(other.draws.values)) for other in law.alternatives]
    which_B = np.arange(len(order_B)) % len(drawn)
    if len(drawn) > 1:
        which_B = chance.permutation(which_B)
    rows = [np.flatnonzero(which_B == number) for number in range(len(drawn))]
    return [
        _SharedSamples(name, rows_b, theta_BP[order_B[rows_b] % len(theta_BP)])
        for (name, theta_BP), rows_b in zip(drawn, rows, strict=True)
    ]


def _places(candidates: Sequence[Candidate], law: LawFile) -> list[int]:
    return [k for k, candidate in enumerate(candidates) if candidate.law is law]


class LawSamples:
    """For each law as many samples as the law with most has, paired by chance: their fits are independent."""

    def __init__(self, laws: LawSet) -> None:
        self.laws = laws
        self.count = max(len(law.bootstrap().theta_BP) for law in laws.laws)
        self._by_law: list[list[_SharedSamples]] = []
        self._r_star_B: list[Floats] = []
        """of each law; that of pretraining where none was measured"""
        for index, law in enumerate(laws.laws):
            chance = np.random.default_rng(index)
            draws = len(law.bootstrap().theta_BP)
            order_B = np.arange(draws) if len(laws.laws) == 1 else _shuffled(draws, self.count, chance)
            self._by_law.append(_shared(law, order_B, chance))
            r_star_B = law.repetition.fit_and_draws()[1:] if law.repetition else np.full(draws, PRETRAINING_R_STAR)
            self._r_star_B.append(r_star_B[order_B])

    def losses(
        self, candidates: Sequence[Candidate], tokens_K: Floats, request: CompleteRequest, token_worth: float
    ) -> Floats:
        """Forecasts (B, K) of `candidates` trained on `tokens_K`, each token `token_worth` of the law's."""
        unique = request.unique_tokens
        loss_BK = np.empty((self.count, len(candidates)))
        for law, shared, r_star_B in zip(self.laws.laws, self._by_law, self._r_star_B, strict=True):
            of_law = _places(candidates, law)
            if not of_law:
                continue
            mine = [candidates[k] for k in of_law]
            r_star = PRETRAINING_R_STAR if request.constraints.repeats == "muennighoff" else r_star_B[:, None]
            effective = tokens_K[of_law] if unique is None else effective_tokens(tokens_K[of_law], unique, r_star)
            log_tokens_BK = np.broadcast_to(np.log(effective) + np.log(token_worth), (self.count, len(mine)))
            for part in shared:
                rows = Rows(
                    np.log([law.settings.size(candidate.model) for candidate in mine]),
                    log_tokens_BK[part.rows_b],
                    np.log(token_worth * tokens_K[of_law] * [candidate.cost.flop_per_token for candidate in mine]),
                    1.0 - np.array([candidate.share for candidate in mine]),
                )
                found_bK = law_named(part.law).loss_and_gradient(part.theta_bP, rows)[0]
                loss_BK[np.ix_(part.rows_b, np.array(of_law))] = found_bK
        flop_K = tokens_K * [candidate.cost.flop_per_token for candidate in candidates]
        drift_BK = self._drift(candidates, token_worth * flop_K) + self._widths(candidates)
        return below_chance(np.minimum(tamed(loss_BK), self.laws.chance) * np.exp(drift_BK), self.laws.chance)

    def _widths(self, candidates: Sequence[Candidate]) -> Floats:
        """By how much ln loss (B, K) lies off the laws for the candidates' dimensions: one draw for all that rest on
        one measurement."""
        log_BK = np.zeros((self.count, len(candidates)))
        for index, law in enumerate(self.laws.laws):
            for number, width in enumerate(law.widths):
                mine = [k for k in _places(candidates, law) if candidates[k].width is width]
                normal_B1 = np.random.default_rng([index, number, 3]).normal(size=(self.count, 1))
                log_BK[:, mine] = width.offset + width.error * (normal_B1 - normal_B1.mean())
        return log_BK

    def _drift(self, candidates: Sequence[Candidate], flop_K: Floats) -> Floats:
        """By how much ln loss (B, K) leaves the laws outside their budgets (`isoembed.fitting.drift`): in each sample
        by one draw for all candidates of a law, and by one that goes with their size."""
        log_BK = np.zeros((self.count, len(candidates)))
        level_B = np.random.default_rng(2).normal(size=(self.count, 1))  # one level for all methods
        for index, law in enumerate(self.laws.laws):
            of_law = _places(candidates, law)
            log_BK[:, of_law] = (level_B - level_B.mean()) * away(flop_K[of_law], law.level_flop)
            least, most = law.range["flop"]
            above_K, below_K = beyond(flop_K[of_law], most), below(flop_K[of_law], least)
            outside_K = above_K + below_K  # one of the two is 0
            if not outside_K.any():
                continue
            drift = law.drift
            normal_2B = np.random.default_rng([index, 1]).normal(size=(2, self.count, 1))
            common_B, size_B = normal_2B - normal_2B.mean(axis=1, keepdims=True)  # no shift by chance
            low, high = np.log(law.range["params"])
            log_size_K = np.log([law.settings.size(candidates[k].model) for k in of_law])
            # of sizes spread evenly over the fitted ones the standard deviation is 1
            away_K = (log_size_K - (low + high) / 2) / max((high - low) / math.sqrt(12), 1.0)
            away_K = np.clip(away_K, -_EDGE, _EDGE)
            log_BK[:, of_law] += above_K * (drift.shift + drift.spread * common_B) + below_K * drift.unsigned * common_B
            log_BK[:, of_law] += outside_K * drift.apart * size_B * away_K
        return log_BK
