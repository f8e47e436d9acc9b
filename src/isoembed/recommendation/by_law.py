"""The recommendation where a law has been measured on the family: least expected regret over the law's own doubt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from isoembed.core import InputError, number_of
from isoembed.fitting.io.law_file import UNSEALED, LawFile, LawSet
from isoembed.fitting.repetition import REPEAT_SOURCE
from isoembed.fitting.transfer import Elsewhere, exchange
from isoembed.laws import law_named
from isoembed.recipe import Recipe
from isoembed.recommendation.candidates import FARTHEST, Frontier, OutOfReachError, Prospects
from isoembed.recommendation.request import MIN_STEPS, Request
from isoembed.recommendation.result import Candidate, Certainty, Lead, NextRun, Recommendation

#: budgets looked at for a crossover, from the smallest fitted one to ten times the largest, or the target
_CROSSOVER_BUDGETS = 16
#: a run made to learn from costs at most this share of the target budget, and is sought at so many budgets
_PILOT_SHARE, _PILOT_BUDGETS = 0.1, 5
_RUNNERS_UP = 4
#: a run that would remove less of the variance tells nothing
_TELLS = 0.01
#: of what is left out so many are named
_NAMED = 6
#: below this probability of being the best a method is out of contention, and what its law lacks changes no decision
_IN_CONTENTION = 0.01


def by_law(request: Request, laws: LawSet, *, other_settings: bool = False, far: bool = False) -> Recommendation:
    """The recipe of least expected loss over the laws' draws, with runners-up and how sure.

    At a batch or context at which runs have shown that a law holds in steps, it is used, in steps; laws of the set that
    were not checked there, or failed, are left out.
    On other data than the law's, another held-out set or settings of no run, the order is given and no loss.
    far: where all candidates lie out of the laws' reach, guess by their order, with no loss and no probability.
    Raises InputError where the law is of another family (always) or of other settings (unless `other_settings`), and
    OutOfReachError where all candidates lie out of its reach (unless `far`).
    """
    speaking = _speaking(laws, request, other_settings=other_settings)
    laws = speaking.laws
    flop, _ = request.budget.flop_at()
    frontier = Frontier(laws, request, speaking.exchange)
    try:
        prospects, guess = frontier.at(flop), None
    except OutOfReachError as error:
        if not far:
            raise
        prospects, guess = frontier.at(flop, far=True), f"a guess by the law's order, no forecast: {error}"
    no_forecast = guess or _elsewhere(laws, request) or speaking.no_forecast
    order = prospects.order()
    best, others = order[0], order[1:]
    arm, recipe = prospects.arms[best], prospects.recipe(best)
    sure, chance_K = prospects.methods(), prospects.probabilities()

    def candidate(k: int) -> Candidate:
        made = prospects.recipe(k)
        return Candidate(
            recipe=made,
            tokens_per_param=made.train_tokens / made.model.params,
            loss=None if no_forecast else prospects.loss(k),
            behind=None if no_forecast else prospects.behind(k, best),
            best=None if guess else float(chance_K[k]),
        )

    known, assumed = _rests_on(request, prospects, best, recipe, flop)
    found = Recommendation(
        budget=request.budget,
        recipe=recipe,
        basis=f"the {arm.law.law} law measured on {laws.settings.family}: least expected loss of "
        f"{number_of(len(prospects.arms), 'candidate')}",
        known=(*known, *speaking.known),
        assumed=tuple(assumed),
        warnings=(*speaking.warnings, *_warnings(request, laws, prospects, best, recipe, flop)),
        runners_up=tuple(candidate(k) for k in others[:_RUNNERS_UP]),
        no_forecast=no_forecast,
        reach=prospects.reach(best),
        methods=tuple(
            candidate(next(k for k in order if prospects.arms[k].method.name == name))
            for name in dict.fromkeys(prospects.arms[k].method.name for k in order)
        ),
    )
    if guess:
        return found
    return found.model_copy(
        update={
            "loss": None if no_forecast else prospects.loss(best),
            "certainty": Certainty(
                methods=sure,
                method=sure[arm.method.name],
                recipe=float(chance_K[best]),
                regret=None if no_forecast else prospects.regret(best),
            ),
            "crossover": _crossover(frontier, prospects, order, flop),
            "next_run": _next_run(frontier, prospects, best, others[0], flop) if others else None,
        }
    )


def _rests_on(
    request: Request, prospects: Prospects, best: int, recipe: Recipe, flop: float
) -> tuple[list[str], list[str]]:
    """What is known and what is assumed."""
    arm, data = prospects.arms[best], request.data
    known = [
        f"law: {law_named(arm.law.law).about}, fitted to {arm.law.n_points} {arm.law.method or 'unnamed'} runs "
        f"({arm.law.source})",
        "C = 2 N_F D + 2 N_B D + 2 N_U D, non-embedding parameters, real tokens (paper, section 3.5)",
        *_forms(arm.law),
        *(note for note in arm.law.notes if note == UNSEALED),
    ]
    _, speed = request.budget.flop_at()
    assumed = [f"speed: {speed}"] if speed else []
    assumed.append(request.rate(arm.model, arm.method, recipe.train_tokens)[1])
    if data.fingerprint is None:
        assumed.append(f"data: {data.source}")
    else:
        known.append(f"data: {data.pairs:,} unique pairs, {data.tokens_per_pair:.1f} tokens a pair ({data.source})")
    if arm.law.method is None:
        assumed.append(f"the law's table names no method: taken for {arm.method.label}")
    if (serving := request.serving(flop, arm.model)) is not None:
        known.append(serving)
    if (recipe.epochs or 0) > 1:
        if request.constraints.repeats == "muennighoff":
            assumed.append(REPEAT_SOURCE)
        elif arm.law.repetition is not None:
            known.append(f"repeated pairs count as fewer fresh ones: {arm.law.repetition.says()}")
    return known, assumed


def _elsewhere(laws: LawSet, request: Request) -> str | None:
    """Why the law's losses are not those that the request's runs will have; None where they are.  The order of recipes
    carries over to other pairs, the level of the loss does not."""
    settings, data = laws.settings, request.data
    known = {settings.data, *(at.settings.data for _, at in _seen(laws, request) if at is not None)}
    if data.fingerprint is not None and data.fingerprint not in known:
        return "ranking only: the law was measured on other training data"
    if data.tokenizer is not None and settings.tokenizer not in (None, data.tokenizer):
        return "ranking only: the law was measured under another tokenizer"
    if request.heldout is not None and settings.heldout != request.heldout:
        return "ranking only: the law's losses are on another held-out set"
    return None


def speaks_of(laws: LawSet, request: Request) -> bool:
    """Whether `laws` hold for what is asked: its settings, and its method where it names one."""
    differs = _mismatches(laws, request)
    speaking = _holding(laws, request, differs) if differs else laws.laws
    names = {tried.method.name for law in speaking for tried in law.tried}
    return bool(speaking) and (request.method is None or request.method.name in names)


@dataclass(frozen=True)
class _Speaking:
    """The laws that may speak of a request, what a token of it is in theirs, and what is to be said about that."""

    laws: LawSet
    exchange: float = 1.0
    known: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    no_forecast: str | None = None


def _speaking(laws: LawSet, request: Request, *, other_settings: bool) -> _Speaking:
    """All laws at their own settings; at a batch or context that was checked those that hold there, D counting steps.

    Raises InputError at other settings unless `other_settings`.
    """
    differs = _mismatches(laws, request)
    if not differs:
        return _Speaking(laws)
    holding = _holding(laws, request, differs)
    if not holding:
        failed = [
            f"checked there, {law.method or law.law}: {at.verdict.replace('-', ' ')}, {at.why}"
            for law, at in _seen(laws, request)
            if at is not None and at.verdict != "holds"
        ]
        words = "; ".join([*differs.values(), *failed])
        if other_settings:
            warning = f"law used at settings of no run: {words}"
            return _Speaking(laws, warnings=(warning,), no_forecast=warning)
        raise InputError(
            f"A law holds for the settings of its runs: {words}. Ask for those, check it against runs there "
            "(`isoembed validate`), fit a law to runs of yours, or say --other-settings."
        )
    worth = exchange(laws.settings, request.step_tokens)
    known = [f"D counts steps: a token at this batch and context is {worth:.3g} of the law's (paper, appendix G)"]
    warnings = []
    for law, at in _seen(laws, request):
        name = law.method or law.law
        if at is not None and at.verdict == "holds":
            known.append(f"checked at this batch and context, {name} holds: {at.says()}")
        else:
            warnings.append(f"{name} left out: {'not checked at this batch and context' if at is None else at.why}")
    return _Speaking(LawSet(laws=tuple(holding)), worth, tuple(known), tuple(warnings))


def _seen(laws: LawSet, request: Request) -> list[tuple[LawFile, Elsewhere | None]]:
    """Each law with what was seen of it at the request's batch and context."""
    return [(law, law.at(request.batch_pairs, request.context_tokens)) for law in laws.laws]


def _holding(laws: LawSet, request: Request, differs: Collection[str]) -> list[LawFile]:
    """The laws that were seen to hold at the request's batch and context, where it differs in these alone; without
    their other forms, which were not checked there."""
    if not set(differs) <= {"batch_pairs", "context_tokens"}:
        return []
    holding = [law for law, at in _seen(laws, request) if at is not None and at.verdict == "holds"]
    return [law.model_copy(update={"forms": ()}) for law in holding]


def _mismatches(laws: LawSet, request: Request) -> dict[str, str]:
    """Where the request's settings differ from those of the law's runs, in words; raises InputError for another
    family."""
    settings = laws.settings
    if settings.family is None:
        raise InputError(
            "A law speaks for one family, and this one's table named none: it serves fits and figures. Fit it again "
            f"with `isoembed fit --family NAME`, if its losses are contrastive ones of {request.family.name} models."
        )
    if not request.family.is_called(settings.family):
        raise InputError(
            f"A law holds for its own family: this one was measured on {settings.family}; got {request.family.name}. "
            "No family's rule follows from another's exponents: run a pilot, or leave the law out."
        )
    asked = {
        "batch_pairs": request.batch_pairs,
        "context_tokens": request.context_tokens,
        "temperature": Recipe.model_fields["temperature"].default,
        "pooling": request.pooling,
        "negatives": round(request.data.negatives),
        "options": request.options,
    }
    return {
        name: f"{name.replace('_', ' ')} {measured} there, {asked[name]} asked"
        for name in asked
        if (measured := getattr(settings, name)) not in (None, asked[name])
    }


def _warnings(
    request: Request, laws: LawSet, prospects: Prospects, best: int, recipe: Recipe, flop: float
) -> list[str]:
    arm, settings, data = prospects.arms[best], laws.settings, request.data
    warnings = []
    if prospects.left_out:
        few = ", ".join(prospects.left_out[:_NAMED]) + (" ..." if len(prospects.left_out) > _NAMED else "")
        warnings.append(
            f"not considered, more than {FARTHEST:g}x beyond the law's runs in C, N or D, or without a forecast: {few}"
        )
    chance_K = prospects.probabilities()
    contends: dict[int, float] = {}
    for k, each in enumerate(prospects.arms):
        contends[id(each.law)] = contends.get(id(each.law), 0.0) + float(chance_K[k])
    warnings += [
        f"the {law.method or law.law} law is not good: {law.says()}"
        for law in laws.laws
        if law.status != "good" and (law is arm.law or contends.get(id(law), 0.0) >= _IN_CONTENTION)
    ]
    if settings.batch_pairs is None:
        warnings.append("the law's table does not say at which batch, context and temperature its runs were made")
    there = arm.law.at(request.batch_pairs, request.context_tokens)
    if settings.data is not None and data.fingerprint not in (None, settings.data, there and there.settings.data):
        warnings.append("the law was measured on other training data")
    if settings.tokenizer is not None and data.tokenizer not in (None, settings.tokenizer):
        warnings.append("the law was measured under another tokenizer: its tokens are not these")
    if recipe.steps < MIN_STEPS:
        warnings.append(f"only {recipe.steps} steps; under {MIN_STEPS} the schedule is mostly warm-up")
    if request.constraints.repeats == "measured":
        warnings += _repeat_warnings(laws, arm.law, recipe)
    if (unspent := request.unspent(flop, arm.model, recipe)) is not None:
        warnings.append(f"{unspent}{_remedy(arm.law)}")
    return warnings


def _forms(law: LawFile) -> list[str]:
    """Which other laws the doubt is of too."""
    if not law.forms:
        return []
    names, one = " and ".join(form.law for form in law.forms), len(law.forms) == 1
    words = (
        "forecasts what was held out about as well and has"
        if one
        else "forecast what was held out about as well and have"
    )
    return [f"doubt is of the law's form too: {names} {words} an equal share of the draws"]


def _remedy(law: LawFile) -> str:
    """What would repeat the data, where that is not known to be of no use."""
    if law.repetition is not None and law.repetition.worthless:
        return ""
    return f" (--repeats {'muennighoff' if law.repetition is None else 'measured'} would repeat them)"


def _repeat_warnings(laws: LawSet, law: LawFile, recipe: Recipe) -> list[str]:
    """Where the measured worth of repeated data says less than it seems to."""
    unmeasured = [each.method or each.law for each in laws.laws if each.repetition is None]
    warnings = [f"not considered, for want of a measured R*: {', '.join(unmeasured)}"] if unmeasured else []
    found, passes = law.repetition, recipe.epochs or 0.0
    if found is not None and found.worthless:
        warnings.append("one pass at most: repeats were worth nothing, or did harm, in the law's runs")
    if found is None or passes <= 1:
        return warnings
    if not found.identified:
        warnings.append(f"{found.says()}: the loss forecast may be far too low")
    if passes > found.passes[1]:
        warnings.append(f"{passes:.1f} passes over the data, {found.passes[1]:.1f} are the most that were measured")
    return warnings


def _crossover(frontier: Frontier, prospects: Prospects, order: list[int], flop: float) -> Lead | None:
    """The crossover between the two leading methods; None with one method."""
    names = list(dict.fromkeys(prospects.arms[k].method.name for k in order))
    if len(names) < 2:
        return None
    ranges = [law.range["flop"] for law in frontier.laws.laws]
    low = min(low for low, _ in ranges) / frontier.exchange
    high = max(flop, *(10 * high / frontier.exchange for _, high in ranges))
    return frontier.crossover(names[0], names[1], np.geomspace(min(low, flop), high, _CROSSOVER_BUDGETS).tolist())


def _next_run(frontier: Frontier, prospects: Prospects, best: int, second: int, flop: float) -> NextRun | None:
    """The run, at a tenth of the budget at most, that would tell most about the two leading recipes.

    Linear-Gaussian: observing x with noise s removes Cov(x, d)^2 / (Var(x) + s^2) of Var(d), d the difference of the
    two ln losses.  Of the runs that remove at least half of what the best of them does, the one that removes most a
    FLOP.
    """
    gap_B = np.log(prospects.draws[:, best]) - np.log(prospects.draws[:, second])
    if not gap_B.var() > 0:
        return None
    found: list[tuple[float, float, Prospects, int]] = []
    for halvings in range(_PILOT_BUDGETS):
        try:
            pilots = frontier.at(_PILOT_SHARE * flop / 2**halvings, pilot=True)
        except InputError:
            continue
        log_BK = np.log(pilots.draws)
        noise_K = np.array([arm.law.run_noise for arm in pilots.arms])
        shared_K = (gap_B - gap_B.mean()) @ (log_BK - log_BK.mean(axis=0)) / len(gap_B)
        removes_K = shared_K**2 / ((log_BK.var(axis=0) + noise_K**2) * gap_B.var())
        spent_K = pilots.tokens_K * [arm.cost.flop_per_token for arm in pilots.arms]
        found += [(float(r), float(r / s), pilots, k) for k, (r, s) in enumerate(zip(removes_K, spent_K, strict=True))]
    if not found:
        return None
    most = max(removes for removes, _, _, _ in found)
    if most < _TELLS:
        return None
    removes, _, pilots, k = max((run for run in found if run[0] >= most / 2), key=lambda run: run[1])
    return NextRun(recipe=pilots.recipe(k), removes=removes)
