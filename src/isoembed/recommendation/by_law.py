"""The recommendation where a law has been measured on the family: least expected regret over the law's own uncertainty.

Shapes: K candidates.
"""

from __future__ import annotations

from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.notes import reason
from isoembed.fitting.repetition import ONE_EPOCH, PRETRAINING_R_STAR_SOURCE
from isoembed.laws import law_named
from isoembed.notes import refusal_of
from isoembed.recipe import Recipe
from isoembed.recommendation.applicable import applicable, checks
from isoembed.recommendation.candidates import Candidate, sized
from isoembed.recommendation.frontier import FARTHEST, Forecasts, Frontier, OutOfReachError
from isoembed.recommendation.notes import RecipeNote, note
from isoembed.recommendation.repeats import repeated
from isoembed.recommendation.request import MIN_STEPS, CompleteRequest
from isoembed.recommendation.result import Certainty, RankedRecipe, Recommendation

_RUNNERS_UP = 4
#: of what is left out so many are named
_NAMED = 6
#: below this probability of being the best a method is out of contention, and what its law lacks changes no decision
_IN_CONTENTION = 0.01


def by_law(
    request: CompleteRequest, laws: LawSet, *, other_settings: bool = False, far: bool = False
) -> Recommendation:
    """The recipe of least expected loss over the laws' bootstrap samples, with runners-up and how sure.

    At a batch or context at which runs have shown that a law holds in steps, it is used, in steps; laws of the set that
    were not checked there, or failed, are left out.
    On other data than the law's, another held-out set or settings of no run, the order is given and no loss.
    far: where all candidates lie out of the laws' reach, guess by their order, with no loss and no probability.
    Raises InputError where the law is of another family (always) or of other settings (unless `other_settings`), and
    OutOfReachError where all candidates lie out of its reach (unless `far`).
    """
    found = applicable(laws, request, other_settings=other_settings)
    laws, unsized = sized(found.laws)
    flop = request.budget.paid_flop
    frontier = Frontier(laws, request, found.token_worth)
    reasons = [*_other_losses(laws, request), *(each for each in found.notes if each.kind == "no-forecast")]
    guess = False
    try:
        forecasts = frontier.at(flop)
    except OutOfReachError as error:
        if not far:
            raise
        forecasts, guess = frontier.at(flop, far=True), True
        reasons.insert(0, note("no-forecast", "order-alone", error=refusal_of(error)))
    samples, best = forecasts.samples, forecasts.samples.best
    recipe = forecasts.recipe(best)
    if _borrows_repeats(forecasts, recipe):
        reasons.append(note("no-forecast", "ranking-repeats"))
    lossless = bool(reasons)
    made = Recommendation(
        budget=request.budget,
        recipe=recipe,
        notes=(
            _chosen_by(laws, forecasts),
            *_rests_on(forecasts, recipe),
            *(each for each in found.notes if each.kind != "no-forecast"),
            *(note("warning", "left-out", law=each.method or each.law, why=reason("sizeless")) for each in unsized),
            *_warnings(laws, forecasts, recipe),
            *reasons[:1],
        ),
        runners_up=tuple(
            _ranked(forecasts, k, loss=not lossless, sure=not guess) for k in samples.order[1 : 1 + _RUNNERS_UP]
        ),
        reach=forecasts.extrapolation(best),
        methods=tuple(_ranked(forecasts, k, loss=not lossless, sure=not guess) for k in forecasts.best_of_methods()),
    )
    if guess:
        return made
    return made.model_copy(
        update={
            "loss": None if lossless else forecasts.loss(best),
            "certainty": _certainty(forecasts, loss=not lossless),
            "crossover": frontier.leading_crossover(forecasts),
            "next_run": frontier.next_run(forecasts),
        }
    )


def _chosen_by(laws: LawSet, forecasts: Forecasts) -> RecipeNote:
    family = laws.settings.family
    return note(
        "basis",
        "by-law",
        law=forecasts.candidates[forecasts.samples.best].law.law,
        family=note("basis", "along-depth", family=family) if laws.settings.along == "depth" else family,
        candidates=len(forecasts.candidates),
    )


def _borrows_repeats(forecasts: Forecasts, recipe: Recipe) -> bool:
    """Whether the recipe repeats its pairs at what repeats are worth in pretraining, for want of the law's own R*."""
    repeats, law = forecasts.request.constraints.repeats, forecasts.candidates[forecasts.samples.best].law
    return (recipe.epochs or 0) > ONE_EPOCH and (repeats == "muennighoff" or law.repetition is None)


def _ranked(forecasts: Forecasts, k: int, *, loss: bool, sure: bool) -> RankedRecipe:
    """Candidate `k`, with what is expected of it where `loss` is forecast, and its probability where that is `sure`."""
    recipe, samples = forecasts.recipe(k), forecasts.samples
    return RankedRecipe(
        recipe=recipe,
        tokens_per_param=recipe.train_tokens / recipe.model.params,
        loss=forecasts.loss(k) if loss else None,
        behind=forecasts.behind(k, samples.best) if loss else None,
        best=float(samples.probabilities[k]) if sure else None,
    )


def _certainty(forecasts: Forecasts, *, loss: bool) -> Certainty:
    samples, methods = forecasts.samples, forecasts.methods()
    return Certainty(
        methods=methods,
        method=methods[forecasts.candidates[samples.best].method.name],
        recipe=float(samples.probabilities[samples.best]),
        regret=samples.regret(samples.best) if loss else None,
    )


def _rests_on(forecasts: Forecasts, recipe: Recipe) -> list[RecipeNote]:
    """What is known of the best candidate and what is assumed."""
    request, candidate = forecasts.request, forecasts.candidates[forecasts.samples.best]
    law = candidate.law
    names = tuple(other.law for other in law.alternatives)
    notes = [
        note(
            "known",
            "fitted",
            about=law_named(law.law).about,
            runs=law.n_points,
            method=law.method or "unnamed",
            source=law.source,
        ),
        note("known", "cost"),
        *([note("known", "form" if len(law.alternatives) == 1 else "forms", forms=names)] if law.alternatives else []),
        *([note("known", "unsealed")] if law.unsealed else []),
        *request.speed_notes,
        *candidate.asked(request).rate_notes(recipe),
        request.data_note,
        *([note("assumed", "law-of-the-end", rule=rule)] if (rule := recipe.early_stopping.note) is not None else []),
        *([note("assumed", "method-unnamed", method=candidate.method.label)] if law.method is None else []),
        *request.teacher_notes(recipe),
        *_limit_notes(forecasts, candidate),
        *_width_notes(candidate, recipe),
    ]
    if _borrows_repeats(forecasts, recipe):
        notes.append(note("assumed", "repeats-borrowed", source=PRETRAINING_R_STAR_SOURCE))
    elif (recipe.epochs or 0) > ONE_EPOCH and law.repetition is not None:
        notes.append(note("known", "repeats-measured", r_star=law.repetition.seen))
    return notes


def _limit_notes(forecasts: Forecasts, candidate: Candidate) -> list[RecipeNote]:
    """What the limits leave; of sizes that are projected not how many, for few of them were measured."""
    found = candidate.asked(forecasts.request).limit_notes(forecasts.flop, candidate.model)
    return [each for each in found if candidate.width is None or each.code != "limited"]


def _width_notes(candidate: Candidate, recipe: Recipe) -> list[RecipeNote]:
    """What the dimensions of a projected candidate cost where they were measured, and that it is taken for the same
    elsewhere."""
    if (width := candidate.width) is None:
        return []
    fields = {"dimensions": width.dimensions, "model": width.model, "flop": width.flop, "runs": width.runs}
    notes = [note("known", "projected", cost=width.cost, **fields)]
    if not 0.5 <= recipe.flop / width.flop <= 2.0:
        notes.append(note("assumed", "projected-elsewhere", flop=width.flop))
    return notes


def _other_losses(laws: LawSet, request: CompleteRequest) -> list[RecipeNote]:
    """Why the law's losses are not those that the request's runs will have.  The order of recipes carries over to other
    pairs, the level of the loss does not."""
    settings, data = laws.settings, request.data
    known = {settings.data, *(at.settings.data for _, at in checks(laws, request) if at is not None)}
    reasons = {
        "ranking-other-data": data.fingerprint is not None and data.fingerprint not in known,
        "ranking-other-tokenizer": data.tokenizer is not None and settings.tokenizer not in (None, data.tokenizer),
        "ranking-other-heldout": request.heldout is not None and settings.heldout != request.heldout,
    }
    return [note("no-forecast", code) for code, holds in reasons.items() if holds]


def _warnings(laws: LawSet, forecasts: Forecasts, recipe: Recipe) -> list[RecipeNote]:
    request, candidate = forecasts.request, forecasts.candidates[forecasts.samples.best]
    law, settings, data = candidate.law, laws.settings, request.data
    there = law.at(request.batch_pairs, request.context_tokens)
    notes = []
    if request.options.dimensions is not None and candidate.width is not None:
        models = dict.fromkeys(each.model for each in law.widths if each.dimensions == request.options.dimensions)
        notes.append(note("warning", "projected-alone", models=tuple(models), dimensions=request.options.dimensions))
    if names := list(dict.fromkeys(each.name for each in forecasts.left_out)):
        few, more = names[:_NAMED], len(names) - _NAMED
        ends = [note("warning", "and-more", last=few.pop(), more=more)] if more > 0 else []
        notes.append(note("warning", "not-considered", farthest=FARTHEST, candidates=(*few, *ends)))
    notes += [
        note("warning", "not-good", law=each.method or each.law, status=each.standing)
        for each in laws.laws
        if each.status != "good" and (each is law or _probability(forecasts, each) >= _IN_CONTENTION)
    ]
    if settings.batch_pairs is None:
        notes.append(note("warning", "settings-unknown"))
    if settings.data is not None and data.fingerprint not in (None, settings.data, there and there.settings.data):
        notes.append(note("warning", "other-data"))
    if settings.tokenizer is not None and data.tokenizer not in (None, settings.tokenizer):
        notes.append(note("warning", "other-tokenizer"))
    if recipe.steps < MIN_STEPS:
        notes.append(note("warning", "few-steps", steps=recipe.steps, least=MIN_STEPS, remedy=()))
    if request.constraints.repeats != "muennighoff":
        notes += _repeat_warnings(laws, law, request, recipe)
    in_vain = law.repetition is not None and law.repetition.worthless
    return [
        *notes,
        *repeated(recipe, None if request.constraints.repeats == "muennighoff" else law.repetition),
        *request.unspent(forecasts.flop, recipe, in_vain=in_vain),
    ]


def _probability(forecasts: Forecasts, law: LawFile) -> float:
    """That a candidate of `law` is the best one."""
    chance = zip(forecasts.candidates, forecasts.samples.probabilities, strict=True)
    return float(sum(share for candidate, share in chance if candidate.law is law))


def _repeat_warnings(laws: LawSet, law: LawFile, request: CompleteRequest, recipe: Recipe) -> list[RecipeNote]:
    """Where the measured R* of repeated data says less than it seems to."""
    found, epochs, asked = law.repetition, recipe.epochs or 0.0, request.constraints
    notes = []
    if asked.repeats == "measured":
        unmeasured = [each.method or each.law for each in laws.laws if each.repetition is None]
        notes += [note("warning", "repeats-unmeasured", laws=tuple(unmeasured))] if unmeasured else []
        if asked.epochs is None and found is not None and found.worthless:
            notes.append(note("warning", "repeats-worthless"))
    if found is None or epochs <= ONE_EPOCH:
        return notes
    if found.worthless:
        notes.append(note("warning", "repeats-harm"))
    if not found.identified:
        notes.append(note("warning", "repeats-uncertain", r_star=found.seen))
    if epochs > found.epochs[1]:
        notes.append(note("warning", "many-epochs", epochs=epochs, measured=found.epochs[1]))
    return notes
