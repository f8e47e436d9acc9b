"""What every family offers, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.recommendation.across import ALONG_DEPTH, BENCHMARK, WEAK, FamilyChoice
from isoembed.report.terminal.layout import columns_table, si

#: what each ground means
_WORDS = {
    "law": "a law measured on it",
    "published rule": "method published, size a guess",
    "guess": "a guess",
    "too small": "its largest is too small",
    "too large": "its smallest is too large",
}


def across_text(choices: Sequence[FamilyChoice]) -> RenderableType:
    """One line per family, and how weak the comparison is."""
    rows = []
    for each in choices:
        if each.recommendation is not None:
            recipe, loss = each.recommendation.recipe, each.recommendation.loss
            sizes = (si(recipe.model.params), si(recipe.train_tokens), f"{recipe.steps:,}")
            forecast = "-" if loss is None or loss.value is None else f"{loss.value:.3g}"
            offer = (recipe.model.name, recipe.method.label, *sizes, forecast)
            rows.append((each.family, *offer, each.published or "-", _WORDS[each.ground]))
    head = ("family", "model", "method", "params", "tokens", "steps", "loss", f"others' {BENCHMARK}", "rests on")
    names = [each.family for each in choices if each.refused is not None]
    others = (
        f"not for this budget, or these limits: {', '.join(names)}; asked for one of them, `isoembed recipe` says why."
    )
    first = choices[0].family
    more = f"`isoembed recipe` for {first} says more of the first."
    return Group(
        columns_table(head, rows),
        Text(""),
        *([Text(others)] if names else []),
        Text(WEAK),
        Text(ALONG_DEPTH),
        Text(more),
    )
