"""The frontier under measured laws: what each method's law expects of a family's real sizes at their real cost.

At a budget each candidate gets the tokens that it pays for, and each bootstrap sample of its law a loss; best, order,
gaps and regret are read from these samples alone (`isoembed.fitting.decision`).

A law is not read where its runs do not reach: a candidate more than `FARTHEST` times beyond them in C, N or D, at
either end, is left out, and one of which the samples forecast next to no loss.

Shapes: B samples, K candidates, X runs that could be made, F budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoembed.core import InputError
from isoembed.fitting.bootstrap import crossover
from isoembed.fitting.decision import CandidateSamples
from isoembed.fitting.intervals import Interval, percentile
from isoembed.fitting.io.law_file import LawSet
from isoembed.laws.points import Floats
from isoembed.notes import refusal
from isoembed.recipe import Recipe
from isoembed.recommendation.candidates import Candidate, candidates_of
from isoembed.recommendation.law_samples import LawSamples
from isoembed.recommendation.request import MIN_STEPS, CompleteRequest
from isoembed.recommendation.result import Extrapolation, MethodCrossover, NextRun

#: a law says nothing of recipes so many times beyond its runs in C, N or D, at either end
FARTHEST = 30.0
#: nats: no contrastive loss on held-out pairs was seen below; a law that forecasts less is out of its reach
_LEAST_LOSS = 0.01
#: budgets looked at for a crossover, from the smallest fitted one to ten times the largest, or the target
_CROSSOVER_BUDGETS = 16
#: a run made to learn from costs at most this share of the target budget, and is sought at so many budgets
_PILOT_SHARE, _PILOT_BUDGETS = 0.1, 5
#: a run that would remove less of the variance tells nothing
_TELLS = 0.01


class OutOfReachError(InputError):
    """What is asked lies where the law's runs do not reach."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """The candidates that a budget can train, with samples of the loss of each."""

    request: CompleteRequest
    flop: float
    candidates: list[Candidate]
    tokens_K: Floats
    samples: CandidateSamples
    """nats: the law's uncertainty and, beyond its budgets, its drift; without the noise of runs"""
    token_worth: float = 1.0
    """what a token of the request is in the laws' tokens"""
    left_out: tuple[Candidate, ...] = ()
    """candidates out of the law's reach"""
    chance: float = math.inf
    """nats: above it no loss is expected"""

    def of_method(self, method: str) -> list[int]:
        """The candidates of one method."""
        return [k for k, candidate in enumerate(self.candidates) if candidate.method.name == method]

    def methods(self) -> dict[str, float]:
        """Probability that each method is the best one, most probable first; adds up to 1."""
        found = dict.fromkeys((candidate.method.name for candidate in self.candidates), 0.0)
        for candidate, probability in zip(self.candidates, self.samples.probabilities, strict=True):
            found[candidate.method.name] += float(probability)
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def best_of_methods(self) -> list[int]:
        """The best candidate of each method, best first."""
        found: dict[str, int] = {}
        for k in self.samples.order:
            found.setdefault(self.candidates[k].method.name, k)
        return list(found.values())

    def expected(self, k: int) -> Interval:
        """Expected loss of candidate `k`, with the law's uncertainty alone."""
        return percentile(float(self.samples.means[k]), self.samples.loss_BK[:, k], self.candidates[k].tail)

    def loss(self, k: int, seed: int = 0) -> Interval:
        """Where one run of candidate `k` will end: the samples, and the noise of runs around them."""
        candidate, loss_B = self.candidates[k], self.samples.loss_BK[:, k]
        noise_B = np.random.default_rng([seed, k]).normal(0.0, candidate.law.run_noise, len(loss_B))
        losses_B = np.minimum(loss_B * np.exp(noise_B), self.chance)
        return percentile(float(self.samples.means[k]), losses_B, candidate.tail)

    def behind(self, k: int, best: int) -> Interval:
        """Expected loss of candidate `k` above that of `best`, with the laws' uncertainty alone."""
        tail = min(self.candidates[k].tail, self.candidates[best].tail)
        return percentile(self.samples.gap(k, best), self.samples.gaps(k, best), tail)

    def extrapolation(self, k: int) -> Extrapolation:
        """Where candidate `k` lies beside the runs of its law."""
        return self.candidates[k].extrapolation(float(self.tokens_K[k]), self.request.data, self.token_worth)

    def recipe(self, k: int) -> Recipe:
        """Candidate `k` as a recipe."""
        candidate = self.candidates[k]
        request = candidate.asked(self.request)
        return request.recipe(self.flop, candidate.model, candidate.method, most_epochs=candidate.most_epochs(request))


class Frontier:
    """All candidates that `laws` and `request` leave, ready to be asked at any budget.

    token_worth: what a token of the request is in the laws' tokens; other than 1 where D counts steps
    (`isoembed.fitting.transfer`).
    Raises InputError where a law has no size in it or too few samples, or no candidate is left.
    """

    def __init__(self, laws: LawSet, request: CompleteRequest, token_worth: float = 1.0) -> None:
        self.laws, self.request, self.token_worth = laws, request, token_worth
        self.candidates = candidates_of(laws, request)
        self._samples = LawSamples(laws)

    def at(self, flop: float, *, pilot: bool = False, far: bool = False) -> Forecasts:
        """The forecasts at `flop`.  Candidates of fewer than 30 steps are left out unless there are no others.

        pilot: a run made to learn from, which is not served and never has fewer than 30 steps.
        far: leave nothing out for its reach; the order is then a guess, and no loss a forecast.
        Raises InputError where no candidate is left, OutOfReachError where the reach of the laws is why.
        """
        request = _not_served(self.request) if pilot else self.request
        affordable, tokens_K = self._affordable(flop, request, short=not pilot)
        reach = [
            candidate.extrapolation(float(tokens), request.data, self.token_worth)
            for candidate, tokens in zip(affordable, tokens_K, strict=True)
        ]
        within_K = np.array([far or each.farthest <= FARTHEST for each in reach])
        within = [candidate for candidate, kept in zip(affordable, within_K, strict=True) if kept]
        loss_BK = self._samples.losses(within, tokens_K[within_K], request, self.token_worth)
        # with more samples than an interval leaves out there is no low end to name
        low_K = np.mean(loss_BK < _LEAST_LOSS, axis=0) >= [candidate.tail for candidate in within]
        by_chance_K = loss_BK.mean(axis=0) >= self.laws.chance * (1 - 1e-9)  # nothing learnt: no order among them
        kept_K = ~(low_K | by_chance_K) | far
        kept = [candidate for candidate, keep in zip(within, kept_K, strict=True) if keep]
        if not kept:
            seen = refusal("no-better-than-chance" if by_chance_K.any() else "next-to-no-loss")
            how = seen if within else min(reach, key=lambda each: each.farthest).facts
            low, high = (end(law.range["flop"][i] for law in self.laws.laws) for i, end in ((0, min), (1, max)))
            known = {"farthest": FARTHEST, "low": low, "high": high, "flop": flop, "nearest": how}
            raise OutOfReachError(refusal("law-range", **known))
        left_out = tuple(candidate for candidate in affordable if candidate not in kept)
        samples = CandidateSamples(loss_BK[:, kept_K])
        kept_tokens_K = tokens_K[within_K][kept_K]
        return Forecasts(
            request, flop, kept, kept_tokens_K, samples, self.token_worth, left_out, chance=self.laws.chance
        )

    def _affordable(self, flop: float, request: CompleteRequest, *, short: bool) -> tuple[list[Candidate], Floats]:
        """The candidates that `flop` trains for 30 steps, and the tokens of each; for one step where there are none and
        `short` ones may do."""
        tokens_K = np.array([candidate.tokens(request, flop) for candidate in self.candidates])
        enough_K = tokens_K >= MIN_STEPS * request.step_tokens
        if not enough_K.any() and short:
            enough_K = tokens_K >= request.step_tokens
        if not enough_K.any():
            smallest = min(self.candidates, key=lambda candidate: candidate.cost.flop_per_token)
            smallest.asked(request).recipe(flop, smallest.model, smallest.method)  # says what it lacks
            raise InputError(f"`budget` must pay for one step of a model; {flop:.3g} FLOP do not. Raise it.")
        return [self.candidates[k] for k in np.flatnonzero(enough_K)], tokens_K[enough_K]

    def crossover(self, first: str, second: str, flop_F: Sequence[float]) -> MethodCrossover | None:
        """The budget from which one of two methods stays ahead of the other, each at its best size: the one that is
        expected ahead at the highest budget.  None where fewer than two budgets can train both."""
        ahead: list[list[Floats]] = []
        looked_at: list[float] = []
        for flop in flop_F:
            try:
                forecasts = self.at(flop)
            except InputError:
                continue
            both = [forecasts.of_method(name) for name in (first, second)]
            if all(both):
                ahead.append([forecasts.samples.of(mine).lowest() for mine in both])
                looked_at.append(flop)
        if len(looked_at) < 2:
            return None
        first_BF, second_BF = np.array(ahead).transpose(1, 2, 0)
        if first_BF[0, -1] < second_BF[0, -1]:
            first, second, first_BF, second_BF = second, first, second_BF, first_BF
        tail = min(candidate.tail for candidate in self.candidates if candidate.method.name in (first, second))
        found = crossover(first_BF, second_BF, np.array(looked_at), tail=tail)
        return MethodCrossover(**dict(found), first=first, second=second, looked_at=(looked_at[0], looked_at[-1]))

    def leading_crossover(self, forecasts: Forecasts) -> MethodCrossover | None:
        """The crossover between the two leading methods of `forecasts`; None with one method."""
        names = [forecasts.candidates[k].method.name for k in forecasts.best_of_methods()]
        if len(names) < 2:
            return None
        ranges = [law.range["flop"] for law in self.laws.laws]
        low = min(low for low, _ in ranges) / self.token_worth
        high = max(forecasts.flop, *(10 * high / self.token_worth for _, high in ranges))
        flop_F = np.geomspace(min(low, forecasts.flop), high, _CROSSOVER_BUDGETS)
        flop_F = np.unique(np.append(flop_F, forecasts.flop))  # between two budgets the order is a guess
        return self.crossover(names[0], names[1], flop_F.tolist())

    def next_run(self, forecasts: Forecasts) -> NextRun | None:
        """The run, at a tenth of the budget at most, that would tell most about the two leading recipes.

        Of the runs that remove at least half of what the best of them does of the variance of the two's difference in
        ln loss, the one that removes most a FLOP.  None with one candidate, or where no run tells anything.
        """
        leading = forecasts.samples.of(forecasts.samples.order[:2]).log()
        if len(leading.means) < 2 or not (variance := float(leading.gaps(0, 1).var())) > 0:
            return None
        found: list[tuple[float, float, Forecasts, int]] = []
        for halvings in range(_PILOT_BUDGETS):
            try:
                pilots = self.at(_PILOT_SHARE * forecasts.flop / 2**halvings, pilot=True)
            except InputError:
                continue
            noise_X = np.array([candidate.law.run_noise for candidate in pilots.candidates])
            shift_XK = leading.one_more_run(pilots.samples.log().loss_BK, noise_X).shifts
            removes_X = (shift_XK[:, 0] - shift_XK[:, 1]) ** 2 / variance
            flop_X = pilots.tokens_K * [candidate.cost.flop_per_token for candidate in pilots.candidates]
            found += [
                (float(r), float(r / c), pilots, x) for x, (r, c) in enumerate(zip(removes_X, flop_X, strict=True))
            ]
        most = max((removes for removes, _, _, _ in found), default=0.0)
        if most < _TELLS:
            return None
        removes, _, pilots, x = max((run for run in found if run[0] >= most / 2), key=lambda run: run[1])
        return NextRun(recipe=pilots.recipe(x), removes=removes)


def _not_served(request: CompleteRequest) -> CompleteRequest:
    constraints = request.constraints.model_copy(update={"serving_tokens": 0.0})
    return request.model_copy(update={"constraints": constraints})
