"""What a recommendation rests on, assumes and warns of, as facts; their sentences stand here alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from isoembed.fitting.notes import UNSEALED
from isoembed.notes import Note

#: which rule or law chose; what was measured or published; what nobody measured; what may make the recipe a bad one;
#: why a law gives an order and no loss
Kind = Literal["basis", "known", "assumed", "warning", "no-forecast"]

_SENTENCES: dict[str, tuple[str, ...]] = {
    # which rule or law chose
    "as-asked": ("{method}, as asked",),
    "only-method": ("the only method allowed",),
    "default-method": ("full fine-tuning by default",),
    "published-rule": ("the paper's rule",),
    "by-data": ("size by the data", "at equal data the largest model is best (paper, appendix D)"),
    "at-end": ("size a guess", "the {end} affordable, {tokens_per_param:~} tokens per parameter"),
    "provisional": (
        "size a guess by the provisional rule of {tokens_per_param:~} tokens per parameter",
        "run a pilot first (`isoembed run` with `pilot`)",
    ),
    "by-law": ("the {law} law measured on {family}", "least expected loss of {candidates:@candidate}"),
    "along-depth": ("{family} along its depth",),
    "given": ("the recipe given",),
    "extended": ("a finished run extended to a larger budget",),
    "epochs-as-asked": ("{epochs:g} epochs, as asked",),
    "given-elsewhere": ("the recipe given, on other pairs than it was made for",),
    "by-rule-beyond": ("a guess by rule, where the law that ships does not reach",),
    # method and size
    "method-allowed": ("method", "{method}, at its default hyperparameter"),
    "method-default": ("method", "full; no law measured on the {family} family speaks of this request"),
    "method-published": ("method", "full up to {flop:.3g} FLOP, LoRA above ({source})"),
    "method-unnamed": ("the law's table names no method", "taken for {method}"),
    "lora-ranks": ("LoRA rank {ranks:or} nearly always best (figure 5)",),
    "high-rank": ("{method}", "where the data end, full or high-rank LoRA is best (paper, appendix D)"),
    "lora-alpha": ("LoRA alpha {alpha:g}", "the paper states none"),
    "size-by-data": (
        "size",
        "the data end before {tokens_per_param:~} tokens per parameter; the largest model that the budget takes "
        "through all of them, unmeasured here",
    ),
    "size-at-end": (
        "size, a guess",
        "the provisional rule of {tokens_per_param:~} tokens per parameter asks for a {wanted} model than there is; "
        "take another family",
    ),
    "size-limited": (
        "size, a guess",
        "the provisional rule of {tokens_per_param:~} tokens per parameter asks for a {wanted} model than its limits "
        "(memory, size) leave; raise them",
    ),
    "size-provisional": (
        "size, a guess",
        "{rule}; {either:and|no other size} may be as good or better: unmeasured between {low:~} and {high:~} tokens "
        "per parameter",
    ),
    # cost and settings
    "cost": ("C = 2 N_F D + 2 N_B D + 2 N_U D, non-embedding parameters, real tokens (paper, section 3.5)",),
    "speed-given": ("speed", "{share:.0%} of the {device}'s peak (as given)"),
    "speed-assumed": ("speed", "{share:.0%} of the {device}'s peak (assumed, not measured)"),
    "teacher": (
        "teacher",
        "{name} reads each unique pair once, {flop:.3g} FLOP = 2 N T, {share:.1%} of the budget; the rest trains",
    ),
    "objective": (
        "what the loss does not show",
        "{options:and} gained {gain:.3f} ± {half:.3f} of the mean of {tasks} task scores at equal FLOP ({method} on "
        "{model}, {flop:.2g} FLOP, {seeds:@seed})",
    ),
    "objective-of-sources": (
        "what the loss does not show",
        "where data are of several sources, {options:and} gained {gain:.3f} ± {half:.3f} of the mean of {tasks} task "
        "scores at equal FLOP ({method} on {model}, {flop:.2g} FLOP, {seeds:@seed})",
    ),
    "limited": ("limits", "{limits:and}: {left} of {sizes} sizes are left, up to {largest}"),
    "projected": (
        "{dimensions} dimensions by a learned projection",
        "measured: {cost}, on {model} at {flop:.3g} FLOP, {runs:@run}",
    ),
    "projected-alone": ("only {models} considered", "of no other model a law knows what {dimensions} dimensions cost"),
    "projected-elsewhere": ("fewer dimensions cost the same share of the loss here as at {flop:.3g} FLOP",),
    "serving": (
        "serving",
        "{tokens:.3g} tokens cost {flop:.3g} FLOP = 2 N T, {share:.1%} of the budget (Sardana et al. 2023); attention "
        "and the token lookup are left out",
    ),
    "rate-asked": ("learning rate as asked",),
    "rate": ("learning rate", "{source}"),
    "rate-of-runs": (
        "learning rate: {factor:.3g} times that, as the law's own {runs:,} runs had, typically {off:.0%} off",
    ),
    "rate-like": ("learning rate", "as {like}, unmeasured", "{source}"),
    "rate-carried": ("learning rate", "stated for whole models, carried over to first blocks"),
    "setup": (
        "batch {batch_pairs} and context {context_tokens}",
        "losses and rules measured at 1024 pairs and 75 tokens do not carry over",
    ),
    "pilot-none": ("no pilot was run", "{why:;} Falling back on what is known without it."),
    "pilot-in-vain": (
        "{runs} pilot runs, {flop:.3g} FLOP ({share:.1%} of the budget)",
        "no basis for a choice ({why:;}); falling back on what is known without it",
    ),
    "pilot-ended": ("{runs} pilot runs, {flop:.3g} FLOP ({share:.1%} of the budget); ended", "{why:;}"),
    "law-of-the-end": ("the law forecasts the loss after the last step of all tokens", "{rule}"),
    "few-steps": ("only {steps} steps; under {least} the schedule is mostly warm-up{remedy:?; lower {remedy}}",),
    # data
    "data-assumed": ("data", "{source}"),
    "data": ("data", "{pairs:,} unique pairs, {tokens_per_pair:.1f} tokens per pair ({source})"),
    "data-end": (
        "the data end first",
        "{epochs:@epoch} of {tokens:,} tokens, {unspent:.3g}% of the training budget stays unspent"
        "{remedy:? (`epochs={remedy}` would repeat them)}",
    ),
    "budget-end": ("the budget ends first", "it pays for {epochs:.2f} of {asked:@epoch}"),
    # docs/lab-notes/laws.md, 2026-11-26: full fine-tuning at 6e10 FLOP, the same tokens over fewer pairs
    "repeats-harmed": (
        "repeats often raised held-out losses in trials, no ranking fell",
        "nano-28k on dictionary pairs, held-out loss 5.98 on fresh ones, 8.54 in 4 epochs, 15.6 in 8",
    ),
    "repeats-borrowed": ("{source}",),
    "repeats-measured": ("repeated pairs count as fewer unique ones", "{r_star}"),
    "repeats-harm": ("repeats were worth nothing, or did harm, in the law's runs",),
    "repeats-worthless": ("one epoch at most", "repeats were worth nothing, or did harm, in the law's runs"),
    "repeated": (
        "the pairs are gone through {epochs:.3g} times",
        "that is worth {fresh:.3g} epochs of unique pairs, where R* is {r_star:.3g}, as {origin}",
    ),
    "of-pretraining": ("in pretraining (Muennighoff et al. 2023)",),
    "of-the-law": ("in the law's runs",),
    "repeats-unmeasured": ("not considered, for want of a measured R*", "{laws}"),
    "repeats-uncertain": ("{r_star}", "the loss forecast may be far too low"),
    "made-without-end": ("the recipe was made for data without end; these are gone through {epochs:.3g} times",),
    "many-epochs": ("{epochs:.1f} epochs of the data, {measured:.1f} are the most that were measured",),
    # the law and its settings
    "fitted": ("law", "{about}, fitted to {runs} {method} runs ({source})"),
    "form": (
        "uncertainty is of the law's form too",
        "{forms:and} forecasts what was held out about as well and has an equal share of the bootstrap samples",
    ),
    "forms": (
        "uncertainty is of the law's form too",
        "{forms:and} forecast what was held out about as well and have an equal share of the bootstrap samples",
    ),
    "unsealed": (UNSEALED.title, UNSEALED.reason),
    "not-good": ("the {law} law is not good", "{status}"),
    "not-considered": (
        "not considered, more than {farthest:g}x beyond the law's runs in C, N or D, or without a forecast",
        "{candidates}",
    ),
    "and-more": ("{last} and {more:,} more",),
    "out-of-reach": ("{error}",),
    "settings-unknown": ("the law's table does not say at which batch, context and temperature its runs were made",),
    "law-apart": (
        "the law that ships is of other settings",
        "{differences:;}; its order of recipes can be had by `other_settings`",
    ),
    "other-settings": ("law used at settings of no run", "{differences:;}"),
    "steps": ("D counts steps", "a token at this batch and context is {worth:.3g} of the law's (paper, appendix G)"),
    "checked": ("checked at this batch and context, {law} holds", "{seen}"),
    "left-out": ("{law} left out", "{why:;}"),
    "other-weights": ("law", "the one of {family} that ships was measured on other weights than these"),
    "other-data": ("the law was measured on other training data",),
    "other-tokenizer": ("the law was measured under another tokenizer", "its tokens are not these"),
    # where a recipe lies beside a law's runs
    "beyond": ("{ratio:.2g}x beyond the largest fitted {what}",),
    "below": ("{ratio:.2g}x below the smallest fitted {what}",),
    "within": ("within the fitted budgets, sizes and tokens",),
    # why no loss
    "order-alone": ("a guess by the law's order, no forecast", "{error}"),
    "ranking-other-data": ("ranking only", "the law was measured on other training data"),
    "ranking-other-tokenizer": ("ranking only", "the law was measured under another tokenizer"),
    "ranking-other-heldout": ("ranking only", "the law's losses are on another held-out set"),
    "ranking-repeats": ("ranking only", "what repeats cost is borrowed from pretraining, and here they did harm"),
    # read from JSON of before there were notes, or these
    "text": ("{text}",),
    "learning-rate": ("{source}",),
    "pilot": ("{found}",),
    "speed": ("speed", "{source}"),
}


class RecipeNote(Note):
    """One fact that speaks for a recipe or against it, or that was assumed of it."""

    kind: Kind

    sentences: ClassVar = _SENTENCES


def note(kind: Kind, code: str, **fields: Any) -> RecipeNote:
    """A note with its fields by name."""
    return RecipeNote(kind=kind, code=code, fields=fields)
