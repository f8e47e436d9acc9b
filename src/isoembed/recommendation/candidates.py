"""The frontier under measured laws: what each method's law expects of a family's real sizes at their real cost.

Candidates are arms: a law, a hyperparameter setting of which there were runs, a model of the family.  At a budget each
arm gets the tokens that it pays for, and each bootstrap draw of its law a loss.  Draws of different methods are
independent fits; arms of one law share theirs, so that what the law does not know cancels where it should.  Where runs
allow other forms of law (`LawFile.forms`), each has an equal share of the draws.

What is expected of an arm is the mean over its draws, from which order, loss, gaps and regret are read alike.  A draw
that is an outlier among an arm's draws counts as the outermost that is none (`isoembed.fitting.intervals.tamed`).

A law is not read where its runs do not reach: an arm more than `FARTHEST` times beyond them in C, N or D, at either
end, is left out, and one of which the draws forecast next to no loss.

Shapes: B draws (row 0 of a loss: their mean), b those of one form, K arms, F budgets, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from isoembed.core import Frozen, InputError
from isoembed.families.base import ModelSpec
from isoembed.fitting.bootstrap import crossover
from isoembed.fitting.intervals import Interval, percentile, tamed
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.repetition import REPEAT_WORTH, effective_tokens
from isoembed.flops import Cost, all_in_flop
from isoembed.laws import law_named
from isoembed.laws.points import Floats, Rows
from isoembed.methods import Full, Method
from isoembed.recipe import DataStats, Recipe
from isoembed.recommendation.request import MIN_STEPS, Request
from isoembed.recommendation.result import Lead, Reach

#: a law says nothing of recipes so many times beyond its runs in C, N or D, at either end
FARTHEST = 30.0
#: fewer draws tell no probabilities
LEAST_DRAWS = 200
#: nats: no contrastive loss on held-out pairs was seen below; a law that forecasts less is out of its reach
_LEAST_LOSS = 0.01


class OutOfReachError(InputError):
    """What is asked lies where the law's runs do not reach."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One method with its hyperparameters on one model, and the law that forecasts it."""

    law: LawFile
    method: Method
    model: ModelSpec
    cost: Cost

    @property
    def share(self) -> float:
        """S: the trained share of the parameters, as a ledger's runs count it."""
        return self.cost.updated / self.cost.forward

    @property
    def tail(self) -> float:
        """Probability that an interval of its draws leaves out on each side."""
        assert self.law.draws is not None
        return self.law.draws.tail


@dataclass(frozen=True, eq=False)
class Prospects:
    """The arms that a budget can train, with their forecasts."""

    request: Request
    flop: float
    arms: list[Arm]
    tokens_K: Floats
    loss_BK: Floats
    exchange: float = 1.0
    left_out: tuple[str, ...] = ()
    """arms out of the law's reach, in words"""

    @property
    def draws(self) -> Floats:
        """The bootstrap's forecasts (B, K) alone."""
        return self.loss_BK[1:]

    def probabilities(self) -> Floats:
        """Share of draws in which each arm is the best one; adds up to 1."""
        return np.bincount(np.argmin(self.draws, axis=1), minlength=len(self.arms)) / len(self.draws)

    def methods(self) -> dict[str, float]:
        """Probability that each method is the best one, most probable first; adds up to 1."""
        found = dict.fromkeys((arm.method.name for arm in self.arms), 0.0)
        for arm, probability in zip(self.arms, self.probabilities(), strict=True):
            found[arm.method.name] += float(probability)
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def order(self) -> list[int]:
        """Arms by their mean loss over the draws: the first has the least expected regret."""
        return [int(k) for k in np.argsort(self.loss_BK[0], kind="stable")]

    def loss(self, k: int, seed: int = 0) -> Interval:
        """Where one run of arm `k` will end: the law's doubt, the scatter of runs around it, and its drift beyond the
        fitted budgets."""
        arm = self.arms[k]
        scatter = arm.law.scatter(self.exchange * self.tokens_K[k] * arm.cost.flop_per_token)
        scatter_B = np.random.default_rng([seed, k]).normal(0.0, scatter, len(self.draws))
        return percentile(float(self.loss_BK[0, k]), self.draws[:, k] * np.exp(scatter_B), arm.tail)

    def behind(self, k: int, best: int) -> Interval:
        """Expected loss of arm `k` above that of arm `best`, of the laws' doubt alone."""
        gap_B = self.draws[:, k] - self.draws[:, best]
        gap = float(self.loss_BK[0, k] - self.loss_BK[0, best])
        return percentile(gap, gap_B, min(self.arms[k].tail, self.arms[best].tail))

    def regret(self, k: int) -> float:
        """Mean over draws of arm `k`'s loss above the draw's best arm."""
        return float(np.mean(self.draws[:, k] - self.draws.min(axis=1)))

    def reach(self, k: int) -> Reach:
        """Where arm `k` lies beside the runs of its law."""
        return _reach(self.arms[k], float(self.tokens_K[k]), self.request.data, self.exchange)

    def recipe(self, k: int) -> Recipe:
        """Arm `k` as a recipe."""
        arm = self.arms[k]
        return self.request.recipe(self.flop, arm.model, arm.method, one_pass=_one_pass(self.request, arm))


class EnvelopePoint(Frozen):
    """The frontier at one budget: the method of least expected loss, its loss, and each method's probability."""

    flop: float
    method: str
    loss: Interval
    probability: dict[str, float]


class Frontier:
    """All arms that `laws` and `request` leave, ready to be asked at any budget.

    exchange: what a token of the request is in the laws' tokens; other than 1 where D counts steps (`laws.elsewhere`).
    Raises InputError where a law has no size in it or no draws, or no arm is left.
    """

    def __init__(self, laws: LawSet, request: Request, exchange: float = 1.0) -> None:
        self.laws, self.request, self.exchange = laws, request, exchange
        self.arms, refused = _arms(laws, request)
        if not self.arms:
            raise InputError(refused[0] if refused else _nothing_allowed(laws, request))
        self.forms, self.worth_B = _aligned_draws(laws)

    def at(self, flop: float, *, pilot: bool = False, far: bool = False) -> Prospects:
        """The prospects of `flop`.  Arms of fewer than 30 steps are left out unless there are no others.

        pilot: a run made to learn from, which is not served and never has fewer than 30 steps.
        far: leave nothing out for its reach; the order is then a guess, and no loss a forecast.
        Raises InputError where no arm is left, OutOfReachError where the reach of the laws is why.
        """
        request = _not_served(self.request) if pilot else self.request
        tokens_K = np.array([_tokens(request, flop, arm) for arm in self.arms])
        enough_K = tokens_K >= MIN_STEPS * request.step_tokens
        if not enough_K.any() and not pilot:
            enough_K = tokens_K >= request.step_tokens
        if not enough_K.any():
            smallest = min(self.arms, key=lambda arm: arm.cost.flop_per_token)
            request.recipe(flop, smallest.model, smallest.method)  # says what it lacks
            raise InputError(f"`budget` must pay for one step of a model; {flop:.3g} FLOP do not. Raise it.")
        enough = [k for k in range(len(self.arms)) if enough_K[k]]
        reach = {k: _reach(self.arms[k], float(tokens_K[k]), request.data, self.exchange) for k in enough}
        within = [k for k in enough if far or reach[k].farthest <= FARTHEST]
        loss_BK = self._losses([self.arms[k] for k in within], tokens_K[within], request)
        # with more draws than an interval leaves out there is no low end to name
        low_K = np.mean(loss_BK[1:] < _LEAST_LOSS, axis=0) >= [self.arms[k].tail for k in within]
        kept = [k for k, low in zip(within, low_K, strict=True) if far or not low]
        if not kept:
            nearest = min(reach.values(), key=lambda each: each.farthest)
            raise OutOfReachError(_out_of_reach(self.laws, flop, nearest))
        loss_BK = loss_BK[:, [far or not low for low in low_K]]
        left_out = tuple(dict.fromkeys(_named(self.arms[k]) for k in enough if k not in kept))
        arms = [self.arms[k] for k in kept]
        return Prospects(request, flop, arms, tokens_K[kept], loss_BK, self.exchange, left_out)

    def envelope(self, flop_F: Sequence[float]) -> list[EnvelopePoint]:
        """The best method at each budget, with the probability that each method is."""
        points = []
        for flop in flop_F:
            prospects = self.at(flop)
            best = prospects.order()[0]
            points.append(
                EnvelopePoint(
                    flop=flop,
                    method=prospects.arms[best].method.name,
                    loss=prospects.loss(best),
                    probability=prospects.methods(),
                )
            )
        return points

    def crossover(self, first: str, second: str, flop_F: Sequence[float]) -> Lead | None:
        """The budget from which one of two methods stays ahead of the other, each at its best size: the one that the
        fits see ahead at the highest budget.  None where fewer than two budgets can train both."""
        lead = []
        looked_at = []
        for flop in flop_F:
            try:
                prospects = self.at(flop)
            except InputError:
                continue
            best = [
                prospects.loss_BK[:, [arm.method.name == name for arm in prospects.arms]] for name in (first, second)
            ]
            if all(loss_BK.shape[1] for loss_BK in best):
                lead.append([loss_BK.min(axis=1) for loss_BK in best])
                looked_at.append(flop)
        if len(looked_at) < 2:
            return None
        first_BF, second_BF = np.array(lead).transpose(1, 2, 0)
        if first_BF[0, -1] < second_BF[0, -1]:
            first, second, first_BF, second_BF = second, first, second_BF, first_BF
        tail = min(arm.law.draws.tail for arm in self.arms if arm.law.draws and arm.method.name in (first, second))
        found = crossover(first_BF, second_BF, np.array(looked_at), tail=tail)
        return Lead(
            first=first,
            second=second,
            flop=found.flop,
            never=found.never,
            always=found.always,
            looked_at=(looked_at[0], looked_at[-1]),
        )

    def _losses(self, arms: list[Arm], tokens_K: Floats, request: Request) -> Floats:
        """Forecasts (1 + B, K) of `arms` trained on `tokens_K`, their mean first."""
        unique = request.unique_tokens
        loss_BK = np.empty((len(self.worth_B[0]), len(arms)))
        for index, law in enumerate(self.laws.laws):
            of_law = [k for k, arm in enumerate(arms) if arm.law is law]
            if not of_law:
                continue
            mine = [arms[k] for k in of_law]
            worth = self.worth_B[index][:, None] if request.constraints.repeats == "measured" else REPEAT_WORTH
            fresh = tokens_K[of_law] if unique is None else effective_tokens(tokens_K[of_law], unique, worth)
            log_fresh_BK = np.broadcast_to(np.log(fresh) + np.log(self.exchange), (len(loss_BK), len(mine)))
            for form in self.forms[index]:
                rows = Rows(
                    np.log([law.settings.size(arm.model) for arm in mine]),
                    log_fresh_BK[form.draws_b],
                    np.log(self.exchange * tokens_K[of_law] * [arm.cost.flop_per_token for arm in mine]),
                    1.0 - np.array([arm.share for arm in mine]),
                )
                found_bK = law_named(form.law).loss_and_gradient(form.theta_bP, rows)[0]
                loss_BK[np.ix_(form.draws_b, np.array(of_law))] = found_bK
        draw_BK = tamed(loss_BK)
        return np.concatenate([draw_BK.mean(axis=0, keepdims=True), draw_BK])


def _reach(arm: Arm, tokens: float, data: DataStats, worth: float) -> Reach:
    """How far `arm`, trained on `tokens`, lies beyond its law's runs, a token of it being `worth` of the law's."""
    law, flop = arm.law, tokens * arm.cost.flop_per_token
    if law.settings.flop == "all_in_flop":
        flop = all_in_flop(
            arm.cost,
            tokens=tokens,
            squared_lengths=tokens / data.tokens_per_pair * data.squared_tokens,
            hidden=arm.model.attention_width,
            blocks=arm.model.blocks,
        )
    size = law.settings.size(arm.model)
    (least_C, most_C), (least_N, most_N), (least_D, most_D) = (law.range[c] for c in ("flop", "params", "tokens"))
    return Reach(
        flop=worth * flop / most_C,
        params=size / most_N,
        tokens=worth * tokens / most_D,
        below=worth * flop / least_C,
        params_below=size / least_N,
        tokens_below=worth * tokens / least_D,
    )


def _named(arm: Arm) -> str:
    return f"{arm.method.label} on {arm.model.name}"


def _out_of_reach(laws: LawSet, flop: float, nearest: Reach) -> str:
    low, high = (f"{end(law.range['flop'][i] for law in laws.laws):.2g}" for i, end in ((0, min), (1, max)))
    how = nearest.says() if nearest.outside else "the law forecasts next to no loss"
    return (
        f"A law holds to {FARTHEST:g} times beyond its runs in C, N and D: these go from {low} to {high} FLOP, and at "
        f"{flop:.3g} the nearest candidate is {how}. Run a pilot (`isoembed run --pilot`), add runs nearer to it, or "
        "leave --law out for a guess by rule."
    )


def _one_pass(request: Request, arm: Arm) -> bool:
    """Whether the arm's data must not repeat: nobody asked for it, or the law's own runs gained nothing by it."""
    repeats, worth = request.constraints.repeats, arm.law.repetition
    return repeats == "none" or (repeats == "measured" and worth is not None and worth.worthless)


def _tokens(request: Request, flop: float, arm: Arm) -> float:
    """The tokens an arm is trained on; 0 where serving leaves nothing."""
    try:
        return request.tokens(flop, arm.model, arm.cost, one_pass=_one_pass(request, arm))
    except InputError:
        return 0.0


def _arms(laws: LawSet, request: Request) -> tuple[list[Arm], list[str]]:
    """Every arm within the limits, and why others are not."""
    arms, refused = [], []
    for law in laws.laws:
        if "params" not in law_named(law.law).varies:
            raise InputError(
                f"A recommendation needs a law with N in it; {law.law} has none. Fit hoffmann or embedding instead."
            )
        drawn = [len(law.bootstrap().theta_BP), *(len(form.draws.values) for form in law.forms)]
        if (fewest := min(drawn)) < LEAST_DRAWS:
            raise InputError(
                f"Probabilities need {LEAST_DRAWS} bootstrap draws; the {law.method or law.law} law has {fewest}. Fit "
                "again with --bootstrap 1000."
            )
        if request.constraints.repeats == "measured" and law.repetition is None:
            refused.append(
                f"`--repeats measured` needs a law whose runs repeated their data: the {law.method or law.law} law has "
                "no R*. Add such runs with `sweep plan --pairs` and fit again, or say --repeats muennighoff."
            )
            continue
        for model in request.models:
            for method in _ways(law, request, model):
                try:
                    request.check_memory(model, method)
                    arms.append(Arm(law, method, model, method.cost(model)))
                except InputError as error:
                    refused.append(str(error))
    return arms, refused


def _ways(law: LawFile, request: Request, model: ModelSpec) -> list[Method]:
    """The methods, hyperparameters included, that `law` can speak of on `model` and the request allows."""
    ways: list[Method] = [tried.on(model) for tried in law.tried]
    if law.method is None:
        ways = [request.method or Full()]
    asked = request.method
    if asked is not None and asked not in ways:
        # a law that reads the trained share forecasts hyperparameters of which there were no runs
        reads_share = "fraction" in law_named(law.law).also_reads
        ways = [asked] if reads_share and any(way.name == asked.name for way in ways) else []
    elif asked is not None:
        ways = [asked]
    return [way for way in dict.fromkeys(ways) if request.constraints.allows(way)]


def _nothing_allowed(laws: LawSet, request: Request) -> str:
    asked = request.method.label if request.method else ", ".join(request.constraints.methods or ("any",))
    fitted = ", ".join(tried.label for law in laws.laws for tried in law.tried) or "no method that is known here"
    return f"A law holds for the methods of its runs: {fitted}; got {asked}. Ask for one of them, or fit runs of yours."


@dataclass(frozen=True, eq=False)
class _FormDraws:
    """A form of a law, and the draws that it has: their rows of a loss, and its parameters in each."""

    law: str
    draws_b: npt.NDArray[np.int64]
    theta_bP: Floats


def _aligned_draws(laws: LawSet) -> tuple[list[list[_FormDraws]], list[Floats]]:
    """For each law as many draws as the law with most has, shared among its forms; and the R* of each (B,), that of
    pretraining where none was measured.  Draws of different laws are paired by chance: their fits are independent."""
    most = max(len(law.bootstrap().theta_BP) for law in laws.laws)
    forms, worth = [], []
    for index, law in enumerate(laws.laws):
        boot = law.bootstrap()
        draws = len(boot.theta_BP)
        order = np.arange(draws)
        chance = np.random.default_rng(index)
        if len(laws.laws) > 1:
            order = np.concatenate([chance.permutation(draws) for _ in range(-(-most // draws))])[:most]
        drawn = [(law.law, boot.theta_BP), *((form.law, np.array(form.draws.values)) for form in law.forms)]
        form_B = np.arange(most) % len(drawn)
        if len(drawn) > 1:
            form_B = chance.permutation(form_B)
        shares = []
        for number, (name, theta_BP) in enumerate(drawn):
            draws_b = np.flatnonzero(form_B == number)
            shares.append(_FormDraws(name, draws_b, theta_BP[order[draws_b] % len(theta_BP)]))
        worth_B = law.repetition.fit_and_draws()[1:] if law.repetition else np.full(draws, REPEAT_WORTH)
        forms.append(shares)
        worth.append(worth_B[order])
    return forms, worth


def _not_served(request: Request) -> Request:
    return replace(request, constraints=request.constraints.model_copy(update={"serving_tokens": 0.0}))
