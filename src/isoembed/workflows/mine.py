"""Hard negatives for pairs that have none: texts that a model takes for the answer though they are another query's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from isoembed.core import Frozen, InputError, checked, expanded, write_atomically
from isoembed.data.pair import Pair
from isoembed.encoder.exported import open_sentence_transformer

if TYPE_CHECKING:
    from datasets import Dataset


class Mined(Frozen):
    """What mining came to, counted."""

    queries: int
    pairs: int
    negatives: int = Field(description="of all queries")
    bare: int = Field(description="queries for which no text stays under the margin")


@checked
def mine(
    model: str | Path,
    pairs: Iterable[Pair],
    out: str | Path,
    *,
    negatives: int = 3,
    margin: float = 0.0,
    batch_texts: int = 32,
) -> Mined:
    """Find up to `negatives` hard negatives for each query among all positives of `pairs`, and write them to `out`.

    model: an exported folder, or any sentence-transformers folder that `Embedder.load` reads.
    margin: a negative's cosine with the query is lower than that of each of the query's positives by at least this
    much; the nearest that are, are taken.  A larger margin leaves out more false negatives, and more hard ones.
    out: JSONL, a query a line: {"query", "pos": all its positives, "neg": its negatives, perhaps none}, whole or not at
    all.  Negatives that the pairs brought are not carried over, nor is the grouping of docstrings by package.

    The search is `sentence_transformers.util.mine_hard_negatives`, with the model's own prompts where it has some; a
    text that is a positive of the query anywhere in `pairs` is never its negative.  Raises InputError where there are
    too few pairs or the numbers make no sense.
    """
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    if negatives < 1:
        raise InputError(f"`negatives` must be at least 1 to mine; got {negatives}.")
    if not 0 <= margin <= 2:
        raise InputError(f"`margin` must be a difference of cosines, from 0 to 2; got {margin:g}. Try 0.05.")
    columns = list(dict.fromkeys((pair.query, pair.positive) for pair in pairs))
    if len({positive for _, positive in columns}) < 2:
        raise InputError("Mining needs at least two different positives: the negatives are other queries'. Bring more.")
    table: Dataset = mine_hard_negatives(
        Dataset.from_dict({"query": [query for query, _ in columns], "text": [text for _, text in columns]}),
        open_sentence_transformer(expanded(model)),
        anchor_column_name="query",
        positive_column_name="text",
        num_negatives=negatives,
        absolute_margin=margin,
        output_format="labeled-pair",
        batch_size=batch_texts,
        verbose=False,
    )
    rows: dict[str, dict[str, Any]] = {query: {"query": query, "pos": [], "neg": []} for query, _ in columns}
    for row in table:
        rows[row["query"]]["pos" if row["label"] else "neg"].append(row["text"])
    write_atomically(expanded(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()))
    return Mined(
        queries=len(rows),
        pairs=len(columns),
        negatives=sum(len(row["neg"]) for row in rows.values()),
        bare=sum(not row["neg"] for row in rows.values()),
    )
