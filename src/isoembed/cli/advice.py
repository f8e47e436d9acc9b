"""What a run should be told to do differently, before it or the next time, in a line or two."""

from __future__ import annotations

import math
from collections.abc import Iterator

from isoembed.fitting.repetition import MOST_EPOCHS
from isoembed.recipe import Options
from isoembed.records import RunRecord

#: fewer steps are few: under them most of a schedule is warm-up, and a study leaves such runs out
FEW_STEPS = 100
#: as many as advice aims at
ENOUGH_STEPS = 250


def advice(record: RunRecord) -> Iterator[str]:
    """That the run was too short, with the option that makes it longer."""
    steps, unique = record.steps, record.unique_pairs
    if steps >= FEW_STEPS or unique is None:
        return
    recipe, epochs = record.recipe, record.pairs / unique
    wanted = epochs * ENOUGH_STEPS / steps
    times = "1 step is" if steps == 1 else f"{steps} steps are"
    if wanted <= 1:
        yield f"{times} too few: --budget {recipe.total_flop * ENOUGH_STEPS / steps:.2g} takes {ENOUGH_STEPS}."
        return
    more = min(math.ceil(wanted), int(MOST_EPOCHS))
    if more <= epochs:
        return
    takes = round(more / epochs * steps)
    smaller = "" if takes >= FEW_STEPS else "; a smaller --batch-pairs more"
    how = "--extend of this model" if recipe.options.schedule == "wsd" else "--model and without --budget"
    longer = f"--epochs {more}, with {how}, takes {takes}{smaller}"
    yield f"{times} too few for {unique:,} pairs: {longer}."


def of_mixture(options: Options, sources: int) -> Iterator[str]:
    """That batches of one source each, which are not the default, scored higher at equal FLOP (docs/objectives.md)."""
    if sources > 1 and options.batch_by == "mixed":
        yield f"{sources} sources mixed: --batch-by source scored .03 to .08 higher in trials"
