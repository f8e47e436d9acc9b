"""The recommendation where no law has been measured: two rules, each only where it holds.

1. The published rule of the family, where there is one (`Family.method_rule`; for Pythia that of Ziarko et al. 2024,
   algorithm 1).  It holds for the models, data, batch and budgets of its source, and is never extrapolated.  The
   rounded lines of the paper's figure 1 are not used: they cross at exp(54), about 3e23 FLOP, six orders of magnitude
   from the stated threshold.
2. A provisional rule for the model's size (the paper's size plots carry no numbers): train on about as many tokens per
   parameter as the family says for the budget.  Called a guess, with the sizes either side; a pilot would tell.
3. At most one epoch of the unique pairs, or as many as are asked for.  Where they end before the tokens that rule 2
   asks for, the largest model of those that the budget pays all epochs for: at equal data the largest is best, with
   full fine-tuning or LoRA of high rank (paper, appendix D).
"""

from __future__ import annotations

import math

from isoembed.core import InputError
from isoembed.families.base import MethodRule
from isoembed.methods import Full, LoRA, Method, method_named
from isoembed.notes import refusal
from isoembed.recommendation.notes import Kind, RecipeNote, note
from isoembed.recommendation.repeats import repeated
from isoembed.recommendation.request import MIN_STEPS, CompleteRequest
from isoembed.recommendation.result import RankedRecipe, Recommendation

#: batch and context of the paper's runs
_PAPER_SETUP = (1024, 75)
#: of the unique tokens, from which on a recipe goes through all of them
_WHOLE = 0.99
#: the provisional rule for the size tells nothing within this factor either way
BRACKET = 10.0


def by_rule(request: CompleteRequest) -> Recommendation:
    """The recipe that the rules name.  Whatever the caller fixed is kept and not judged.

    Raises InputError where the family's rule would have to be extrapolated, or no model of the family is affordable.
    """
    if request.constraints.repeats == "measured":
        raise InputError(
            "`repeats=measured` needs a law, and none speaks of what is asked; give `law`, or `repeats=muennighoff`."
        )
    flop = request.budget.paid_flop
    method, notes = _choose_method(request)
    candidates = _candidates(request, method)
    notes += request.speed_notes
    ranked, ended = _ranked(request, candidates)
    rule = request.family.method_rule
    if ended and rule is not None and request.method is None and isinstance(method, LoRA):
        method = method.resized(rule.ranks[-1])
        notes.append(note("known", "high-rank", method=method.label))
        ranked, ended = _ranked(request, _candidates(request, method))
    best = ranked[0]
    bracket: tuple[str, ...] = ()
    if request.model is None:
        size_notes, bracket = _size(request, candidates, best, ended=ended)
        notes += size_notes
    recipe = best.recipe
    notes += [*request.rate_notes(recipe), note("known", "cost"), request.data_note]
    if rule is not None and (recipe.batch_pairs, recipe.context_tokens) != _PAPER_SETUP:
        setup = {"batch_pairs": recipe.batch_pairs, "context_tokens": recipe.context_tokens}
        notes.append(note("assumed", "setup", **setup))
    notes += [*request.teacher_notes(recipe), *request.limit_notes(flop, recipe.model)]
    notes += repeated(recipe)
    if isinstance(method, LoRA) and rule is not None:
        notes.append(note("known", "lora-ranks", ranks=rule.ranks))
        notes.append(note("assumed", "lora-alpha", alpha=method.alpha))
    return Recommendation(
        budget=request.budget,
        recipe=recipe,
        notes=(*notes, *best.notes),
        bracket=bracket,
        runners_up=tuple(ranked[1:3]),
    )


def _choose_method(request: CompleteRequest) -> tuple[Method, list[RecipeNote]]:
    """The method, which rule chose it, and why."""
    family, allowed = request.family, request.constraints.methods
    rule = family.method_rule
    kind: Kind = "assumed" if rule is None else "known"
    method: Method
    if request.method is not None:
        return request.method, [note("basis", "as-asked", method=request.method.label)]
    if allowed is not None and len(allowed) == 1:
        return method_named(allowed[0]), [note("basis", "only-method"), note(kind, "method-allowed", method=allowed[0])]
    if rule is None:
        method, notes = Full(), [note("basis", "default-method"), note(kind, "method-default", family=family.name)]
    else:
        why = note(kind, "method-published", flop=rule.full_up_to_flop, source=rule.source)
        method, notes = _by_published_rule(request, rule), [note("basis", "published-rule"), why]
    if not request.constraints.allows(method):
        raise InputError(refusal("rule-method", method=method.name, allowed=allowed or ()))
    return method, notes


def _by_published_rule(request: CompleteRequest, rule: MethodRule) -> Method:
    flop = request.budget.paid_flop
    low, high = rule.range_flop
    if not low <= flop <= high:
        raise InputError(refusal("rule-range", low=low, high=high, flop=flop))
    return Full() if flop <= rule.full_up_to_flop else LoRA(rank=rule.ranks[0], alpha=2.0 * rule.ranks[0])


def _candidates(request: CompleteRequest, method: Method) -> list[RankedRecipe]:
    """One candidate a model at the FLOP that the budget buys for it, within the epochs allowed, smallest first.

    Raises InputError where there is none.
    """
    flop = request.budget.paid_flop
    candidates: list[RankedRecipe] = []
    errors: list[InputError] = []
    for spec in request.models:
        try:
            recipe = request.recipe(flop, spec, method, most_epochs=request.constraints.most_epochs)
        except InputError as error:
            errors.append(error)
            continue
        notes = request.unspent(flop, recipe)
        if recipe.steps < MIN_STEPS:
            fields = {"steps": recipe.steps, "least": MIN_STEPS, "remedy": ("`batch_pairs`",)}
            notes.insert(0, note("warning", "few-steps", **fields))
        candidates.append(
            RankedRecipe(recipe=recipe, tokens_per_param=recipe.train_tokens / spec.params, notes=tuple(notes))
        )
    if not candidates:
        raise errors[0]
    long = [candidate for candidate in candidates if candidate.recipe.steps >= MIN_STEPS]
    # where the data are why no size has the steps, larger ones have no fewer
    ended = [candidate for candidate in candidates if _ends(request, candidate)]
    return long or ended or candidates[:1]


def _ranked(request: CompleteRequest, candidates: list[RankedRecipe]) -> tuple[list[RankedRecipe], bool]:
    """Candidates, best first, and whether the data decide: the size that the rule names would repeat them more often
    than is allowed."""
    flop = request.budget.paid_flop

    def off(candidate: RankedRecipe) -> float:
        recipe = candidate.recipe
        paid = request.tokens(flop, recipe.model, recipe.cost, most_epochs=None)
        return abs(math.log(paid / recipe.model.params / request.family.tokens_per_param_at(flop)))

    by_rule = sorted(candidates, key=off)
    if not _ends(request, by_rule[0]):
        return by_rule, False
    ended = [candidate for candidate in candidates if _ends(request, candidate)]
    return [*reversed(ended), *(candidate for candidate in by_rule if candidate not in ended)], True


def _size(
    request: CompleteRequest, candidates: list[RankedRecipe], best: RankedRecipe, *, ended: bool
) -> tuple[list[RecipeNote], tuple[str, ...]]:
    """Why `best` is of the size that it is, and it with the sizes either side, which the rule cannot tell apart."""
    family, ratio = request.family, best.tokens_per_param
    wanted = family.tokens_per_param_at(request.budget.paid_flop)
    low, high = wanted / BRACKET, wanted * BRACKET
    if ended:
        why = note("assumed", "size-by-data", family=family.name, tokens_per_param=wanted)
        return [note("basis", "by-data"), why], ()
    if not low <= ratio <= high:
        end, other = ("smallest", "smaller") if ratio < low else ("largest", "larger")
        last = best.recipe.model.name == family.models[0 if end == "smallest" else -1].name
        why = note("assumed", "size-at-end" if last else "size-limited", tokens_per_param=wanted, wanted=other)
        return [note("basis", "at-end", end=end, tokens_per_param=ratio), why], ()
    names, chosen = [spec.name for spec in request.models], best.recipe.model.name
    place = names.index(chosen)
    smaller, larger = names[max(0, place - 1) : place], names[place + 1 : place + 2]
    fields = {"rule": family.size_rule, "either": (*smaller, *larger), "low": low, "high": high}
    why = note("assumed", "size-provisional", **fields)
    return [note("basis", "provisional", tokens_per_param=wanted), why], (*smaller, chosen, *larger)


def _ends(request: CompleteRequest, candidate: RankedRecipe) -> bool:
    """Whether the budget pays for all epochs allowed, or more."""
    unique = request.unique_tokens
    most = request.constraints.most_epochs
    return unique is not None and candidate.recipe.train_tokens >= _WHOLE * most * unique
