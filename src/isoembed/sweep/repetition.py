"""Scarce data as an axis of a sweep: each method's best recipes once more on so many unique pairs alone, which repeat
for as many passes as the budget pays for (paper, appendix D; Muennighoff et al. 2023, arXiv 2305.16264)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from isoembed.core import Frozen, InputError
from isoembed.fitting.repetition import MOST_EPOCHS
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, RunRecord
from isoembed.sweep.folder import Cell
from isoembed.sweep.stage import Why

#: passes beyond which a cell is not planned, unless told otherwise
MAX_PASSES = MOST_EPOCHS


class Repeated(Frozen):
    """A recipe on scarce pairs beside the same one on data that do not repeat: held-out losses in nats, means over the
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
        """What scarcity costs, in nats."""
        return self.loss - self.fresh_loss


def pairs_named(text: str) -> tuple[int, ...]:
    """Numbers of unique pairs as a user writes them: `8000,2000` -> (2000, 8000).  Raises InputError for others."""
    if not all(part.strip().isdecimal() and int(part) > 1 for part in text.split(",")):
        raise InputError(f"`pairs` must be numbers of unique pairs, 2 or more, as 2000,8000; got {text!r}.")
    return tuple(sorted({int(part) for part in text.split(",")}))


def unfit(recipe: Recipe, pairs: int, max_passes: float) -> Why | None:
    """Why `recipe` is not run on `pairs` unique pairs: a kind of reason, and the reason with its numbers; None where it
    is."""
    passes = recipe.pairs / pairs
    if recipe.data.pairs is not None and pairs >= recipe.data.pairs:
        return "all-pairs", f"{pairs:,} pairs are no fewer than the data's {recipe.data.pairs:,}"
    if pairs < recipe.batch_pairs:
        return "below-a-batch", f"{pairs:,} pairs do not fill a batch of {recipe.batch_pairs}"
    if passes <= 1:
        return "single-epoch", f"the budget pays for {passes:.2f} passes over {pairs:,} pairs"
    if passes > max_passes:
        return "many-epochs", f"{passes:.0f} passes over {pairs:,} pairs, {max_passes:g} are the most"
    return None


def compare(cells: Iterable[Cell], outcomes: Mapping[str, RunRecord | FailedRun]) -> tuple[Repeated, ...]:
    """Every recipe that has run on scarce pairs beside the same one on fresh data, by method, model and pairs."""
    fresh: dict[str, list[RunRecord]] = {}
    scarce: dict[tuple[str, int], list[RunRecord]] = {}
    for cell in cells:
        outcome = outcomes.get(cell.key)
        if isinstance(outcome, RunRecord) and outcome.heldout is not None:
            same = cell.recipe.key_without("seed", "unique_pairs")
            if cell.recipe.unique_pairs is None:
                fresh.setdefault(same, []).append(outcome)
            else:
                scarce.setdefault((same, cell.recipe.unique_pairs), []).append(outcome)
    found = [
        Repeated(
            method=runs[0].recipe.method.label,
            model=runs[0].recipe.model.name,
            unique_pairs=pairs,
            epochs=float(np.mean([run.pairs for run in runs])) / pairs,
            loss=_mean_loss(runs),
            fresh_loss=_mean_loss(fresh[same]),
            runs=len(runs),
        )
        for (same, pairs), runs in scarce.items()
        if same in fresh
    ]
    return tuple(sorted(found, key=lambda each: (each.method, each.model, each.unique_pairs)))


def _mean_loss(runs: list[RunRecord]) -> float:
    return float(np.mean([run.heldout.loss for run in runs if run.heldout is not None]))
