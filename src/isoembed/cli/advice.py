"""What a run should be told to do differently the next time, in a line or two."""

from __future__ import annotations

import math
from collections.abc import Iterator

from isoembed.core import number_of
from isoembed.fitting.repetition import MOST_EPOCHS, ONE_EPOCH
from isoembed.records import RunRecord

#: fewer steps are few: under them most of a schedule is warm-up, and a study leaves such runs out
FEW_STEPS = 100
#: as many as advice aims at
ENOUGH_STEPS = 250


def advice(record: RunRecord, *, by_epochs: bool = False) -> Iterator[str]:
    """That the run was too short, with the option that makes it longer; no more epochs where they raised its loss, and
    none of either where early stopping ended it.

    by_epochs: `--epochs` alone makes it longer: its model was named, or given by its recipe.
    """
    steps, unique = record.steps, record.unique_pairs
    if steps >= FEW_STEPS or unique is None or record.ended_early:
        return
    recipe, epochs = record.recipe, record.pairs / unique
    wanted = epochs * ENOUGH_STEPS / steps
    short = f"You trained for {number_of(steps, 'step')}, which is little."
    if wanted <= 1:
        longer = f"--epochs {wanted:.2g}" if by_epochs else f"--budget {recipe.total_flop * ENOUGH_STEPS / steps:.2g}"
        yield f"{short} With {longer} it would be {ENOUGH_STEPS}."
        return
    more = min(math.ceil(wanted), int(MOST_EPOCHS))
    if more <= epochs or (epochs > ONE_EPOCH and _loss_rose(record)):
        return
    takes = round(more / epochs * steps)
    longer = f"--epochs {more}"
    if recipe.options.schedule == "wsd":
        longer = f"--extend of this model and {longer}"
    elif not by_epochs:
        longer = f"{longer} and the same --model, in place of --budget,"
    smaller = "" if takes >= FEW_STEPS else " A smaller --batch-pairs makes more."
    yield f"{short} With {longer} it would be {takes}.{smaller}"


def _loss_rose(record: RunRecord) -> bool:
    """Whether the held-out loss ended above where it began, or above the least that was seen on the way."""
    last = record.heldout_last or record.heldout
    if last is None:
        return False
    before = [record.heldout_before, record.heldout]
    seen = [each.loss for each in (*before, *record.evaluations) if each is not None]
    return last.loss > min(seen)
