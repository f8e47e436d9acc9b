"""The recommendation where no law has been measured: two rules, each only where it holds.

1. The paper's (Ziarko et al. 2024, algorithm 1): full fine-tuning up to 9.06e16 FLOP, LoRA above, as stated there.  It
   holds for the paper's models, data, batch and budgets, and is never extrapolated.  The rounded lines of its figure 1
   are not used: they cross at exp(54), about 3e23 FLOP, six orders of magnitude from the stated threshold.
2. A provisional rule for the model's size (the paper's size plots carry no numbers): train on about as many tokens a
   parameter as the family says, within a bracket.  Labelled so; a pilot on three sizes would tell.
3. At most one pass over the unique pairs.  Where they end before the tokens that rule 2 asks for, the largest model of
   those that the budget pays a whole pass for: at equal data the largest is best (paper, appendix D).
"""

from __future__ import annotations

import math

from isoembed.core import InputError
from isoembed.families import PYTHIA
from isoembed.methods import Full, LoRA, Method, method_named
from isoembed.recommendation.request import MIN_STEPS, Request
from isoembed.recommendation.result import Candidate, Recommendation

#: algorithm 1 of the paper: full fine-tuning at or below, LoRA above
PAPER_THRESHOLD_FLOP = 9.06e16
#: the budgets that the paper ran (section 4.1)
PAPER_RANGE_FLOP = (1.5e15, 1.5e18)
#: of the unique tokens, from which on a recipe goes through all of them
_WHOLE = 0.99
#: LoRA's rank: 32 or 128 was nearly always best (figure 5)
PAPER_RANKS = (32, 128)


def by_rule(request: Request) -> Recommendation:
    """The recipe that the rules name.  Whatever the caller fixed is kept and not judged.

    Raises InputError where the paper's rule would have to be extrapolated, or no model of the family is affordable.
    """
    known: list[str] = []
    assumed: list[str] = []
    family, data = request.family, request.data
    if request.constraints.repeats != "none":
        raise InputError(
            "`repeats` needs a law to weigh repeated data, and none speaks of what is asked; give --law or drop it."
        )

    # 1. the method
    if request.method is not None:
        method = request.method
        basis = f"{method.label}, as asked"
    else:
        method, basis, why = _choose_method(request)
        (known if family is PYTHIA else assumed).append(why)

    # 2. one candidate a model, at the FLOP that the budget buys for it, one pass at most
    candidates, refused, speed = _candidates(request, method)
    if not candidates:
        raise InputError(refused[0])
    assumed += [f"speed: {speed}"] if speed else []

    # 3. the size
    target, low, high = family.tokens_per_param, family.tokens_per_param / 10, family.tokens_per_param * 10
    ranked, scarce = _ranked(request, candidates, target)
    best, others = ranked[0], ranked[1:]
    bracket: tuple[str, ...] = ()
    if request.model is None and scarce:
        basis += "; size by the data: at equal data the largest model is best (paper, appendix D)"
        assumed.append(
            f"size: one pass over the {family.name} data ends before {target:g} tokens a parameter; the largest model "
            "whose whole pass the budget pays for, unmeasured here"
        )
    elif request.model is None and not low <= best.tokens_per_param <= high:
        end = "smallest" if best.tokens_per_param < low else "largest"
        basis += f"; size: the {end} affordable, {best.tokens_per_param:.2g} tokens a parameter"
        assumed.append(
            f"size, a guess: the provisional rule of {target:g} tokens a parameter asks for a "
            f"{'smaller' if end == 'smallest' else 'larger'} model than there is; take another family"
        )
    elif request.model is None:
        basis += f"; size by the provisional rule of {target:g} tokens a parameter"
        assumed.append(f"size, a guess: {family.size_rule}; unmeasured between {low:g} and {high:g} tokens a parameter")
        bracket = tuple(c.recipe.model.name for c in candidates if low <= c.tokens_per_param <= high)

    # 4. the rest of the recipe
    assumed.append(request.rate(best.recipe.model, method, best.recipe.train_tokens)[1])
    known.append("C = 2 N_F D + 2 N_B D + 2 N_U D, non-embedding parameters, real tokens (paper, section 3.5)")
    if data.fingerprint is None:
        assumed.append(f"data: {data.source}")
    else:
        known.append(f"data: {data.pairs:,} unique pairs, {data.tokens_per_pair:.1f} tokens a pair ({data.source})")
    if best.recipe.batch_pairs != 1024 or best.recipe.context_tokens != 75:
        assumed.append(
            f"batch {best.recipe.batch_pairs} and context {best.recipe.context_tokens}: losses and rules measured at "
            "1024 pairs and 75 tokens do not carry over"
        )
    if (serving := request.serving(request.budget.flop_at()[0], best.recipe.model)) is not None:
        known.append(serving)
    if isinstance(method, LoRA) and family is PYTHIA:
        known.append(f"LoRA rank {PAPER_RANKS[0]} or {PAPER_RANKS[1]} nearly always best (figure 5)")
        assumed.append(f"LoRA alpha {method.alpha:g}: the paper states none")
    return Recommendation(
        budget=request.budget,
        recipe=best.recipe,
        basis=basis,
        known=tuple(known),
        assumed=tuple(assumed),
        warnings=best.remarks,
        bracket=bracket,
        runners_up=tuple(others[:2]),
    )


def _choose_method(request: Request) -> tuple[Method, str, str]:
    """The method, the rule that chose it, and the sentence that says why."""
    budget, family, allowed = request.budget, request.family, request.constraints.methods
    if allowed is not None and len(allowed) == 1:
        return (
            method_named(allowed[0]),
            "the only method allowed",
            f"method: {allowed[0]}, at its default hyperparameter",
        )
    method: Method
    if family is not PYTHIA:
        why = f"method: full; no law measured on the {family.name} family speaks of this request"
        method, basis = Full(), "full fine-tuning by default"
    else:
        flop, _ = budget.flop_at()
        low, high = PAPER_RANGE_FLOP
        if not low <= flop <= high:
            raise InputError(
                f"The paper's rule holds for budgets of {low:.2g} to {high:.2g} FLOP and is not extrapolated; got "
                f"{flop:.3g}. Name `--method` (and `--model`) yourself, or run a pilot on your budget."
            )
        why = f"method: full up to {PAPER_THRESHOLD_FLOP:.3g} FLOP, LoRA above (paper, algorithm 1)"
        method = Full() if flop <= PAPER_THRESHOLD_FLOP else LoRA(rank=PAPER_RANKS[0], alpha=2.0 * PAPER_RANKS[0])
        basis = "the paper's rule"
    if not request.constraints.allows(method):
        raise InputError(
            f"Without a law {method.name} is the only choice of the rule; --methods allows {', '.join(allowed or ())}. "
            "Name one with --method, or give a --law."
        )
    return method, basis, why


def _candidates(request: Request, method: Method) -> tuple[list[Candidate], list[str], str | None]:
    """Every affordable candidate, smallest first, the refusals, and the assumption about speed."""
    flop, speed = request.budget.flop_at()
    candidates, refused = [], []
    for spec in request.models:
        try:
            recipe = request.recipe(flop, spec, method, one_pass=True)
        except InputError as error:
            refused.append(str(error))
            continue
        remarks = []
        if recipe.steps < MIN_STEPS:
            remarks.append(
                f"only {recipe.steps} steps; under {MIN_STEPS} the schedule is mostly warm-up; lower --batch-pairs"
            )
        if (left := request.unspent(flop, spec, recipe)) is not None:
            remarks.append(left)
        candidates.append(
            Candidate(recipe=recipe, tokens_per_param=recipe.train_tokens / spec.params, remarks=tuple(remarks))
        )
    long = [candidate for candidate in candidates if candidate.recipe.steps >= MIN_STEPS]
    # where the data are why no size has the steps, larger ones have no fewer
    ended = [candidate for candidate in candidates if _ends(request, candidate)]
    return long or ended or candidates[:1], refused, speed


def _ranked(request: Request, candidates: list[Candidate], target: float) -> tuple[list[Candidate], bool]:
    """Candidates, best first, and whether the data decide: the size that the rule names would repeat them."""
    flop, _ = request.budget.flop_at()

    def off(candidate: Candidate) -> float:
        recipe = candidate.recipe
        paid = request.tokens(flop, recipe.model, recipe.cost, one_pass=False)
        return abs(math.log(paid / recipe.model.params / target))

    by_rule = sorted(candidates, key=off)
    if not _ends(request, by_rule[0]):
        return by_rule, False
    ended = [candidate for candidate in candidates if _ends(request, candidate)]
    return [*reversed(ended), *(candidate for candidate in by_rule if candidate not in ended)], True


def _ends(request: Request, candidate: Candidate) -> bool:
    """Whether the budget pays for all unique pairs, or more."""
    unique = request.unique_tokens
    return unique is not None and candidate.recipe.train_tokens >= _WHOLE * unique
