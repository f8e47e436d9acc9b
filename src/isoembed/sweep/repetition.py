"""Repeated data as an axis of a sweep: each method's best recipes once more on so many unique pairs alone, which repeat
for as many epochs as the budget pays for (paper, appendix D; Muennighoff et al. 2023, arXiv 2305.16264)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from isoembed.core import Frozen, InputError
from isoembed.fitting.repetition import MOST_EPOCHS
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.stage import SkipNote, skip
from isoembed.sweep.variations import mean_loss

#: epochs beyond which a run is not planned, unless told otherwise
MAX_PAIR_EPOCHS = MOST_EPOCHS


class Repeated(Frozen):
    """A recipe on few pairs, repeated, beside the same one on a single epoch: held-out losses in nats, means over the
    seeds."""

    method: str
    model: str
    unique_pairs: int
    epochs: float
    loss: float
    fresh_loss: float
    runs: int

    @property
    def difference(self) -> float:
        """What repetition costs, in nats."""
        return self.loss - self.fresh_loss


def pairs_named(text: str) -> tuple[int, ...]:
    """Numbers of unique pairs as a user writes them: `8000,2000` -> (2000, 8000).  Raises InputError for others."""
    if not all(part.strip().isdecimal() and int(part) > 1 for part in text.split(",")):
        raise InputError(f"`pairs` must be numbers of unique pairs, 2 or more, as 2000,8000; got {text!r}.")
    return tuple(sorted({int(part) for part in text.split(",")}))


def unfit(recipe: Recipe, pairs: int, max_pair_epochs: float) -> SkipNote | None:
    """Why `recipe` is not run on `pairs` unique pairs; None where it is."""
    epochs = recipe.pairs / pairs
    if recipe.data.pairs is not None and pairs >= recipe.data.pairs:
        return skip("all-pairs", pairs=pairs, all_pairs=recipe.data.pairs)
    if pairs < recipe.batch_pairs:
        return skip("below-a-batch", pairs=pairs, batch_pairs=recipe.batch_pairs)
    if epochs <= 1:
        return skip("single-epoch", epochs=epochs, pairs=pairs)
    if epochs > max_pair_epochs:
        return skip("many-epochs", epochs=epochs, pairs=pairs, most=max_pair_epochs)
    return None


def compare(planned: Iterable[PlannedRun], outcomes: Mapping[str, RunRecord | FailedRun]) -> tuple[Repeated, ...]:
    """Every recipe that has run on repeated pairs beside the same one on a single epoch, by method, model and pairs."""
    single_epoch: dict[str, list[RunRecord]] = {}
    repeated: dict[tuple[str, int], list[RunRecord]] = {}
    for each in planned:
        outcome = outcomes.get(each.key)
        if isinstance(outcome, RunRecord) and outcome.heldout is not None:
            same = each.recipe.key_without("seed", "unique_pairs")
            if each.recipe.unique_pairs is None:
                single_epoch.setdefault(same, []).append(outcome)
            else:
                repeated.setdefault((same, each.recipe.unique_pairs), []).append(outcome)
    found = [
        Repeated(
            method=runs[0].recipe.method.label,
            model=runs[0].recipe.model.name,
            unique_pairs=pairs,
            epochs=float(np.mean([run.pairs for run in runs])) / pairs,
            loss=mean_loss(runs),
            fresh_loss=mean_loss(single_epoch[same]),
            runs=len(runs),
        )
        for (same, pairs), runs in repeated.items()
        if same in single_epoch
    ]
    return tuple(sorted(found, key=lambda each: (each.method, each.model, each.unique_pairs)))
