"""Pooling and options as axes of a sweep: the best runs once more, with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from isoembed.core import Frozen, InputError
from isoembed.options import Options, dimensions_named, dims_named
from isoembed.recipe import TRAINED_POOLINGS, PoolingName, Recipe, Setup
from isoembed.records import FailedRun, RunRecord
from isoembed.sweep.folder import PlannedRun
from isoembed.sweep.stage import VARIATIONS


class Variation(Frozen):
    """Pooling and options that differ in one thing from the sweep's own."""

    pooling: PoolingName
    options: Options

    def of(self, setup: Setup) -> Setup:
        """`setup` with these in place of its own."""
        return setup.model_copy(update={"pooling": self.pooling, "options": self.options})


class Varied(Frozen):
    """What a variation came to beside the sweep's own setting: held-out losses in nats, means over the seeds."""

    variation: str
    method: str
    model: str
    loss: float
    plain_loss: float
    runs: int

    @property
    def difference(self) -> float:
        """Below zero where the variation is better."""
        return self.loss - self.plain_loss


def variation_named(text: str, setup: Setup) -> Variation:
    """`text` as `pooling=max`, `matryoshka=128,64`, `dimensions=64` or `bidirectional`, of a sweep with this setup.

    Raises InputError for anything else: the `last` pooling and prompts are other tokens, and so another sweep.
    """
    what, _, value = text.partition("=")
    pooling, changed = setup.pooling, setup.options.model_dump()
    if what == "pooling" and value in TRAINED_POOLINGS and "last" not in (value, pooling):
        pooling = cast(PoolingName, value)
    elif what == "matryoshka" and value:
        changed["matryoshka"] = dims_named(value)
    elif what == "dimensions" and value:
        changed["dimensions"] = dimensions_named(value)
    elif text == "bidirectional":
        changed["bidirectional"] = True
    else:
        raise InputError(
            f"`vary` must be pooling=NAME (of {', '.join(TRAINED_POOLINGS)}), matryoshka=DIMS, dimensions=D or "
            "bidirectional; the `last` pooling and prompts read other tokens and need a sweep of their own; "
            f"got {text!r} in a sweep of {setup.pooling} pooling."
        )
    varied = Variation(pooling=pooling, options=Options(**changed))
    if varied == Variation(pooling=setup.pooling, options=setup.options):
        raise InputError(f"`vary` must change something; {text!r} is what this sweep does anyway. Leave it out.")
    return varied


def compare(planned: Iterable[PlannedRun], outcomes: Mapping[str, RunRecord | FailedRun]) -> tuple[Varied, ...]:
    """Every variation that has run beside the same recipe without it, in the order of method, model and variation."""
    plain: dict[str, list[RunRecord]] = {}
    varied: dict[str, dict[tuple[PoolingName, Options], list[RunRecord]]] = {}
    for each in planned:
        outcome = outcomes.get(each.key)
        if isinstance(outcome, RunRecord) and outcome.heldout is not None:
            recipe = each.recipe
            same = recipe.key_without("seed", "pooling", "options")
            if each.part == VARIATIONS:
                varied.setdefault(same, {}).setdefault((recipe.pooling, recipe.options), []).append(outcome)
            else:
                plain.setdefault(same, []).append(outcome)
    found = [
        Varied(
            variation=_difference(runs[0].recipe, plain[same][0].recipe),
            method=runs[0].recipe.method.label,
            model=runs[0].recipe.model.name,
            loss=mean_loss(runs),
            plain_loss=mean_loss(plain[same]),
            runs=len(runs),
        )
        for same, settings in varied.items()
        if same in plain
        for runs in settings.values()
    ]
    return tuple(sorted(found, key=lambda each: (each.method, each.model, each.variation)))


def _difference(recipe: Recipe, plain: Recipe) -> str:
    parts = [f"{recipe.pooling} pooling"] if recipe.pooling != plain.pooling else []
    parts += [str(recipe.options)] if recipe.options != plain.options else []
    return ", ".join(parts)


def mean_loss(runs: Sequence[RunRecord]) -> float:
    """Mean held-out loss, in nats."""
    return float(np.mean([run.heldout.loss for run in runs if run.heldout is not None]))
