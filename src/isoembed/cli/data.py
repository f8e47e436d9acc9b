"""`isoembed data inspect` and `data mine`: data looked at before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.cli import terminal
from isoembed.cli.options import AsJson, ContextTokens, ModelOptions, NegativeOptions, PromptOptions, RowReadingOptions
from isoembed.methods import method_named


def inspect(
    source: Annotated[str, typer.Argument(help="as --data of run: docstrings, a file, hub:ORG/NAME, a mixture")],
    asked: ModelOptions,
    rows: NegativeOptions,
    prompts: PromptOptions,
    context_tokens: ContextTokens = None,
    cache: Annotated[
        Path | None, typer.Option(help="folder for tokenised data; default: a temporary one", rich_help_panel="Data")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count pairs, tokens, duplicates and truncation, and say how many FLOP one epoch buys on each model."""
    from isoembed.data.inspect import inspect as inspect_source
    from isoembed.encoder.tokenizer import load_tokenizer
    from isoembed.report.terminal.recommendation import inspection_text
    from isoembed.scratch import own_folder, scratch

    family, _, grown = asked.chosen_and_grown()
    texts = prompts.value(pooled=True)
    with scratch(own_folder(), "inspect-") as place:
        inspection = inspect_source(
            rows.of(source).source(source, texts),
            load_tokenizer(family.models[0].source, rows=family.models[0].vocab if grown else None),
            context_tokens=context_tokens or family.context_tokens,
            folder=cache or place,
            family=family,
            method=asked.chosen_method() or method_named("full"),
            prompts=texts,
        )
    terminal.answer(inspection, inspection_text, as_json=as_json)


def mine(
    model: Annotated[Path, typer.Argument(help="folder of an exported model")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="pairs, as --data of run")],
    rows: RowReadingOptions,
    out: Annotated[
        Path, typer.Option(help="JSONL file for the pairs with their hard negatives", rich_help_panel="Output")
    ],
    negatives: Annotated[int, typer.Option(help="hard negatives per query at most", rich_help_panel="Data")] = 3,
    margin: Annotated[
        float,
        typer.Option(help="cosine by which a negative must stay under the query's positives", rich_help_panel="Data"),
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Find hard negatives with a model: other queries' positives that it finds near, but not too near."""
    from isoembed.workflows.mine import mine as mine_negatives

    terminal.no_library_bars()
    mined = mine_negatives(model, rows.of(source).source(source), out, negatives=negatives, margin=margin)
    if as_json:
        terminal.print_json(mined.model_dump(mode="json"))
    else:
        terminal.say(
            f"{mined.negatives:,} hard negatives for {mined.queries:,} queries ({mined.bare:,} have none) in {out}"
        )
