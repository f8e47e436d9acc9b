"""The recommendation: budget, family and data in, recipe out, with what is known and what is assumed.

Until laws measured on the family at hand exist, two rules speak, each only where it holds:

1. The paper's (Ziarko et al. 2024, algorithm 1): full fine-tuning up to 9.06e16 FLOP, LoRA above, as stated there.  It
   holds for the paper's models, data, batch and budgets, and is never extrapolated.  The rounded lines of its figure 1
   are not used: they cross at exp(54), about 3e23 FLOP, six orders of magnitude from the stated threshold.
2. A provisional rule for the model's size (the paper's size plots carry no numbers): train on about as many tokens a
   parameter as the family says, within a bracket.  Labelled so; a pilot on three sizes would tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from isoembed.budget import Budget, Device
from isoembed.core import Frozen, InputError
from isoembed.families import PYTHIA, Family, ModelSpec, family_named
from isoembed.methods import Full, LoRA, Method
from isoembed.recipe import DataStats, Recipe, solve

#: algorithm 1 of the paper: full fine-tuning at or below, LoRA above
PAPER_THRESHOLD_FLOP = 9.06e16
#: the budgets that the paper ran (section 4.1)
PAPER_RANGE_FLOP = (1.5e15, 1.5e18)
#: LoRA's rank: 32 or 128 was nearly always best (figure 5)
PAPER_RANKS = (32, 128)
#: a recipe of fewer steps is mostly warm-up: such a model is too large for the budget
MIN_STEPS = 30


class Candidate(Frozen):
    """One feasible recipe and what speaks against it."""

    recipe: Recipe
    tokens_per_param: float
    remarks: tuple[str, ...] = ()


class Recommendation(Frozen):
    """The recipe, what it rests on, and what else was considered."""

    budget: Budget
    recipe: Recipe
    basis: str = Field(description="which rule chose")
    known: tuple[str, ...]
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    bracket: tuple[str, ...] = Field(description="models that the rule cannot tell apart")
    runners_up: tuple[Candidate, ...]


def recommend(
    budget: Budget,
    family: Family | str = PYTHIA,
    *,
    data: DataStats | None = None,
    method: Method | None = None,
    model: str | None = None,
    batch_pairs: int | None = None,
    context_tokens: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Recommendation:
    """The recipe for `budget` on `family`.  Whatever the caller fixes (`method`, `model`, …) is kept and not judged.

    Raises InputError where the paper's rule would have to be extrapolated, or no model of the family is affordable.
    """
    family = family_named(family) if isinstance(family, str) else family
    context_tokens = family.context_tokens if context_tokens is None else context_tokens
    data = data or DataStats.assumed(context_tokens)
    known: list[str] = []
    assumed: list[str] = []
    warnings: list[str] = []

    # 1. the method
    if method is not None:
        basis = f"{method.label}, as asked"
    else:
        method, basis, why = _choose_method(budget, family)
        (known if family is PYTHIA else assumed).append(why)

    # 2. one candidate a model, at the FLOP that the budget buys for it
    candidates, refused, speed = _candidates(
        budget, family, data, method, model, batch_pairs, context_tokens, learning_rate, seed
    )
    if not candidates:
        raise InputError(refused[0])
    assumed += [f"speed: {speed}"] if speed else []

    # 3. the size
    target, low, high = family.tokens_per_param, family.tokens_per_param / 10, family.tokens_per_param * 10
    fresh = [candidate for candidate in candidates if (candidate.recipe.epochs or 0) <= 1]
    if not fresh:
        # more budget than data: at equal data the largest model is best (paper, appendix D)
        ranked = sorted(candidates, key=lambda candidate: -candidate.recipe.model.params)
        if model is None:
            known.append("fewer unique pairs than the budget pays for: the largest model (paper, appendix D)")
    else:
        ranked = sorted(fresh, key=lambda candidate: abs(math.log(candidate.tokens_per_param / target)))
    best, others = ranked[0], ranked[1:]
    if model is None and fresh:
        basis += f"; size by the provisional rule of {target:g} tokens a parameter"
        assumed.append(f"size: {family.size_rule}; unmeasured between {low:g} and {high:g} tokens a parameter")
    bracket = tuple(c.recipe.model.name for c in fresh if low <= c.tokens_per_param <= high) if model is None else ()
    warnings += best.remarks

    # 4. the rest of the recipe
    rate_why = _rate(family, best.recipe.model, method)[1] if learning_rate is None else "learning rate as asked"
    assumed.append(rate_why)
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
        budget=budget,
        recipe=best.recipe,
        basis=basis,
        known=tuple(known),
        assumed=tuple(assumed),
        warnings=tuple(warnings),
        bracket=bracket,
        runners_up=tuple(others[:2]),
    )


def _choose_method(budget: Budget, family: Family) -> tuple[Method, str, str]:
    """The method, the rule that chose it, and the sentence that says why."""
    if family is not PYTHIA:
        why = f"method: full; no law has been measured for the {family.name} family yet"
        return Full(), "full fine-tuning by default", why
    flop, _ = budget.flop_at()
    low, high = PAPER_RANGE_FLOP
    if not low <= flop <= high:
        raise InputError(
            f"The paper's rule holds for budgets of {low:.2g} to {high:.2g} FLOP and is not extrapolated; got "
            f"{flop:.3g}. Name `--method` (and `--model`) yourself, or run a pilot on your budget."
        )
    why = f"method: full up to {PAPER_THRESHOLD_FLOP:.3g} FLOP, LoRA above (paper, algorithm 1)"
    if flop <= PAPER_THRESHOLD_FLOP:
        return Full(), "the paper's rule", why
    return LoRA(rank=PAPER_RANKS[0], alpha=2.0 * PAPER_RANKS[0]), "the paper's rule", why


def _candidates(
    budget: Budget,
    family: Family,
    data: DataStats,
    method: Method,
    model: str | None,
    batch_pairs: int | None,
    context_tokens: int,
    learning_rate: float | None,
    seed: int,
) -> tuple[list[Candidate], list[str], str | None]:
    """Every affordable candidate, the refusals (largest step cost last), and the assumption about speed."""
    models: Sequence[ModelSpec] = family.models if model is None else (family.model(model),)
    flop, speed = budget.flop_at()
    candidates, refused = [], []
    for spec in models:
        try:
            recipe = solve(
                flop,
                family=family.name,
                model=spec,
                method=method,
                data=data,
                batch_pairs=family.batch_pairs if batch_pairs is None else batch_pairs,
                context_tokens=context_tokens,
                learning_rate=_rate(family, spec, method)[0] if learning_rate is None else learning_rate,
                seed=seed,
            )
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


def _rate(family: Family, model: ModelSpec, method: Method) -> tuple[float, str]:
    """Peak learning rate and where it comes from."""
    rule = family.rate_rule(method.name)
    if rule.of_pretraining is not None and model.pretraining_rate is not None:
        return rule.of_pretraining * model.pretraining_rate, f"learning rate: {rule.source}"
    if rule.fixed is not None:
        return rule.fixed, f"learning rate: {rule.source}"
    return 0.05 / model.hidden, (
        "learning rate: 0.05 / hidden width, read off Pythia's published pretraining rates / 10; unmeasured here"
    )


def training_memory_bytes(recipe: Recipe, *, chunk_tokens: int = 16384, bytes_per_value: int = 2) -> float:
    """Estimate of what training needs at least: state, and the activations of one chunk in the blocks that train.

    State: 4 bytes a weight, and 12 more (gradient, two AdamW moments) a trained parameter, in fp32.  Activations: 34
    bytes a token and hidden unit a block in 16-bit values (Korthikanti et al. 2022, arXiv 2205.05198, equation 1,
    without the attention matrix, which fused attention does not keep).  Measured figures come with every record.
    """
    cost = recipe.cost
    state = 4.0 * (recipe.model.total_params + cost.forward - recipe.model.params) + 12.0 * (cost.updated + cost.table)
    activations = 17.0 * bytes_per_value * chunk_tokens * recipe.model.hidden * cost.blocks_backward
    embeddings = 8.0 * 4 * recipe.batch_pairs * recipe.model.hidden + 12.0 * recipe.batch_pairs**2
    return state + activations + embeddings


def training_seconds(recipe: Recipe, device: Device, *, count: int, utilisation: float) -> float:
    """Wall time at a given share of the devices' peak."""
    return recipe.flop / (device.peak_flop_per_second * count * utilisation)
