"""Families and their models as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from isoembed.families import Family
from isoembed.recommendation.catalogue import MethodFacts, ModelFacts
from isoembed.report.terminal.layout import columns_table, si


def families_text(families: Sequence[Family]) -> RenderableType:
    """One line per family."""
    rows = [
        (
            family.name,
            str(len(family.models)),
            f"{si(family.models[0].params)} to {si(family.models[-1].params)}",
            family.models[0].source,
        )
        for family in families
    ]
    return Group(
        columns_table(("family", "models", "non-embedding parameters", "the smallest"), rows),
        Text("\nName a family and it is listed; a model may be any other hub id or folder."),
    )


def models_text(family: Family, models: Sequence[ModelFacts]) -> RenderableType:
    """Counts, FLOP a token and memory of each model, method by method at its defaults."""
    labels = [method.label for method in models[0].methods]
    experts = any(model.idle_params for model in models)
    counts = [
        (
            model.name,
            si(model.params),
            *([si(model.idle_params)] if experts else []),
            si(model.embedding_params),
            si(model.total_params),
            str(model.hidden),
            str(model.blocks),
            f"{model.context:,}",
            "unknown" if model.pretraining_rate is None else f"{model.pretraining_rate:.2g}",
        )
        for model in models
    ]
    flop = [(model.name, *(_flop(method) for method in model.methods)) for model in models]
    memory = [(model.name, *(_memory(method) for method in model.methods)) for model in models]
    header = ("model", "N", *(["other experts"] if experts else []), "embedding", "total", "hidden", "blocks")
    reasons = {method.label: method.why_not for model in reversed(models) for method in model.methods if method.why_not}
    return Group(
        Text(f"{family.name}: {family.about}\n"),
        columns_table((*header, "context", "pretraining peak"), counts),
        *(
            [Text("\nN and FLOP count the experts that a token is sent to, memory and total all of them")]
            if experts
            else []
        ),
        Text("\nmodel FLOP a training token (2 x forward + 2 x backward + 2 x updated parameters)", style="bold"),
        columns_table(("model", *labels), flop),
        Text(
            f"\nmemory to train, at least (estimate: the process, fp32 weights, gradients, AdamW, batches of "
            f"{family.batch_pairs} pairs in mini-batches of one text; more is faster)",
            style="bold",
        ),
        columns_table(("model", *labels), memory),
        *(Text(f"\n-: {reason}") for reason in reasons.values()),
    )


def _flop(method: MethodFacts) -> str:
    return "-" if method.flop_per_token is None else si(method.flop_per_token)


def _memory(method: MethodFacts) -> str:
    return "-" if method.memory_bytes is None else f"{method.memory_bytes / 1e9:.3g} GB"
