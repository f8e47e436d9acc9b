"""What is said of a recipe that goes through its pairs more than once."""

from __future__ import annotations

from isoembed.fitting.repetition import ONE_EPOCH, PRETRAINING_R_STAR, Repetition, effective_tokens
from isoembed.recipe import Recipe
from isoembed.recommendation.notes import RecipeNote, note

#: docs/lab-notes/laws.md, 2026-11-26: full fine-tuning at 6e10 FLOP, the same tokens over fewer pairs
MEASURED = "nano-28k on dictionary pairs, held-out loss 5.98 on fresh ones, 8.54 in 4 epochs, 15.6 in 8"


def repeated(recipe: Recipe, measured: Repetition | None = None) -> list[RecipeNote]:
    """How many epochs of unique pairs its epochs are worth, by the R* `measured` in a law's runs or else that of
    pretraining; empty where no pair repeats."""
    epochs = recipe.epochs or 0.0
    if epochs <= ONE_EPOCH:
        return []
    own = None if measured is None else measured.r_star.value
    r_star = PRETRAINING_R_STAR if own is None else own
    unique = float(effective_tokens(epochs, 1.0, r_star))
    origin = "in pretraining (Muennighoff et al. 2023)" if own is None else "in the law's runs"
    notes = [note("warning", "repeated", epochs=epochs, fresh=unique, r_star=r_star, origin=origin)]
    return notes if own is not None else [*notes, note("warning", "repeats-harmed", measured=MEASURED)]
