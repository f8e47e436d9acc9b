"""What is said of a recipe that goes through its pairs more than once."""

from __future__ import annotations

from isoembed.fitting.repetition import ONE_EPOCH, PRETRAINING_R_STAR, Repetition, effective_tokens
from isoembed.recipe import Recipe
from isoembed.recommendation.notes import RecipeNote, note


def repeated(recipe: Recipe, measured: Repetition | None = None) -> list[RecipeNote]:
    """How many epochs of unique pairs its epochs are worth, by the R* `measured` in a law's runs or else that of
    pretraining; empty where no pair repeats."""
    epochs = recipe.epochs or 0.0
    if epochs <= ONE_EPOCH:
        return []
    own = None if measured is None else measured.r_star.value
    r_star = PRETRAINING_R_STAR if own is None else own
    unique = float(effective_tokens(epochs, 1.0, r_star))
    origin = note("known", "of-pretraining" if own is None else "of-the-law")
    notes = [note("warning", "repeated", epochs=epochs, fresh=unique, r_star=r_star, origin=origin)]
    return notes if own is not None else [*notes, note("warning", "repeats-harmed")]
