"""What there is to know of a source before training on it, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, computed_field

from isoembed.core import Frozen
from isoembed.data.dataset import remarks, sameness, unique_rows
from isoembed.data.notes import DataNote
from isoembed.data.prompts import check_sources
from isoembed.data.sources import Source, open_source
from isoembed.data.sources.names import Fields
from isoembed.data.store import TokenStore
from isoembed.families import Family
from isoembed.methods import Method
from isoembed.options import NO_PROMPTS, Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)


class SideLengths(Frozen):
    """The lengths of one side's texts."""

    mean_tokens: float = Field(description="before truncation")
    percentiles: dict[int, int] = Field(description="tokens before truncation; 100 is the longest")
    kept_tokens: float = Field(description="mean after truncation")
    truncated: float = Field(description="share of texts cut at the context")


class EpochFlop(Frozen):
    """Model FLOP of one epoch of the unique pairs."""

    model: str
    params: int
    flop: float


class Inspection(Frozen):
    """A source under one tokenizer and one context length."""

    source: str
    fingerprint: str
    context_tokens: int
    pairs: int
    skipped: dict[str, int] = Field(description="rows left out, by reason; empty sides are among them")
    duplicates: int = Field(description="pairs that repeat another one, once normalised")
    negatives: int = Field(description="pairs that bring hard negatives")
    hard_negatives: int = Field(description="hard negatives of all pairs")
    fields: tuple[Fields, ...] = Field(description="which fields of the rows are read and which are not")
    wordless: int = Field(description="pairs of which a text has no letter and no digit")
    facts: tuple[DataNote, ...] = Field(description="what to look at before training")
    groups: int = Field(description="groups that must not straddle a split; 0 where the source has none")
    query: SideLengths
    positive: SideLengths
    tokens_per_pair: float = Field(description="both sides and hard negatives, after truncation")
    epoch_tokens: int = Field(description="tokens of the unique pairs, after truncation")
    method: str
    epoch_flop: tuple[EpochFlop, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def remarks(self) -> tuple[str, ...]:
        """What to look at before training, in words."""
        return tuple(each.describe() for each in self.facts)


def inspect(
    source: str | Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    folder: Path,
    family: Family,
    method: Method,
    prompts: Prompts = NO_PROMPTS,
) -> Inspection:
    """Tokenise `source` behind `prompts` into `folder` (or find it there) and count."""
    source = open_source(source, prompts=prompts) if isinstance(source, str) else source
    check_sources(prompts, source.sources)
    store = TokenStore.build(source, tokenizer, context_tokens=context_tokens, folder=folder, prompts=prompts)
    unique = unique_rows(store)
    kept = store.kept_tokens("query") + store.kept_tokens("positive") + store.column("negative_tokens")
    epoch_tokens = int(kept[unique].sum())
    return Inspection(
        source=store.facts.source,
        fingerprint=store.facts.source_fingerprint,
        context_tokens=context_tokens,
        pairs=len(store),
        skipped=store.facts.skipped,
        duplicates=len(store) - len(unique),
        negatives=store.facts.negatives,
        hard_negatives=int(store.column("negative_count").sum()),
        fields=store.facts.fields,
        wordless=store.facts.wordless,
        facts=(*sameness(store, unique), *remarks(store)),
        groups=sum(name is not None for name in store.facts.groups),
        query=_side(store, "query"),
        positive=_side(store, "positive"),
        tokens_per_pair=float(kept.mean()),
        epoch_tokens=epoch_tokens,
        method=method.label,
        epoch_flop=tuple(
            EpochFlop(
                model=model.name, params=model.params, flop=float(method.cost(model).flop_per_token) * epoch_tokens
            )
            for model in family.models
        ),
    )


def _side(store: TokenStore, side: str) -> SideLengths:
    lengths, kept = store.column(f"{side}_length"), store.kept_tokens(side)
    values = np.percentile(lengths, PERCENTILES, method="nearest")
    return SideLengths(
        mean_tokens=float(lengths.mean()),
        percentiles={percent: int(value) for percent, value in zip(PERCENTILES, values, strict=True)},
        kept_tokens=float(kept.mean()),
        truncated=float((kept < lengths).mean()),
    )
