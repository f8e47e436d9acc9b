"""The recommendation where no law has been measured: two rules, each only where it holds.

1. The paper's (Ziarko et al. 2024, algorithm 1): full fine-tuning up to 9.06e16 FLOP, LoRA above, as stated there.  It
   holds for the paper's models, data, batch and budgets, and is never extrapolated.  The rounded lines of its figure 1
   are not used: they cross at exp(54), about 3e23 FLOP, six orders of magnitude from the stated threshold.
2. A provisional rule for the model's size (the paper's size plots carry no numbers): train on about as many tokens a
   parameter as the family says, within a bracket.  Labelled so; a pilot on three sizes would tell.
"""

from __future__ import annotations

import math

from isoembed.core import InputError
from isoembed.families import PYTHIA
from isoembed.methods import Full, LoRA, Method, method_named
from isoembed.recommendation import Candidate, Recommendation
from isoembed.request import MIN_STEPS, Request

#: algorithm 1 of the paper: full fine-tuning at or below, LoRA above
PAPER_THRESHOLD_FLOP = 9.06e16
#: the budgets that the paper ran (section 4.1)
PAPER_RANGE_FLOP = (1.5e15, 1.5e18)
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

    # 2. one candidate a model, at the FLOP that the budget buys for it
    candidates, refused, speed = _candidates(request, method)
    if not candidates:
        raise InputError(refused[0])
    assumed += [f"speed: {speed}"] if speed else []

    # 3. the size
    target, low, high = family.tokens_per_param, family.tokens_per_param / 10, family.tokens_per_param * 10
    fresh = [candidate for candidate in candidates if (candidate.recipe.epochs or 0) <= 1]
    if not fresh:
        # more budget than data: at equal data the largest model is best (paper, appendix D)
        ranked = sorted(candidates, key=lambda candidate: -candidate.recipe.model.params)
        if request.model is None:
            known.append("fewer unique pairs than the budget pays for: the largest model (paper, appendix D)")
    else:
        ranked = sorted(fresh, key=lambda candidate: abs(math.log(candidate.tokens_per_param / target)))
    best, others = ranked[0], ranked[1:]
    judged = request.model is None and bool(fresh)
    if judged:
        basis += f"; size by the provisional rule of {target:g} tokens a parameter"
        assumed.append(f"size: {family.size_rule}; unmeasured between {low:g} and {high:g} tokens a parameter")
    in_bracket = [c.recipe.model.name for c in fresh if low <= c.tokens_per_param <= high]

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
        bracket=tuple(in_bracket) if request.model is None else (),
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
    """Every affordable candidate, the refusals (largest step cost last), and the assumption about speed."""
    flop, speed = request.budget.flop_at()
    candidates, refused = [], []
    for spec in request.models:
        try:
            recipe = request.recipe(flop, spec, method)
        except InputError as error:
            refused.append(str(error))
            continue
        remarks = []
        if recipe.steps < MIN_STEPS:
            remarks.append(f"only {recipe.steps} steps; under {MIN_STEPS} the schedule is mostly warm-up")
        if recipe.epochs is not None and recipe.epochs > 1:
            remarks.append(f"the data repeat {recipe.epochs:.1f} times; no rule here was measured on repeated data")
        candidates.append(
            Candidate(recipe=recipe, tokens_per_param=recipe.train_tokens / spec.params, remarks=tuple(remarks))
        )
    long = [candidate for candidate in candidates if candidate.recipe.steps >= MIN_STEPS]
    return long or candidates[:1], refused, speed
