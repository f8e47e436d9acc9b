"""A base model with the part of its vocabulary that some data use: a smaller token table, the same vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer

from isoembed.core import Frozen, InputError, checked, expanded, write_atomically
from isoembed.data.pair import Pair
from isoembed.encoder.load import load_model, special_ids, trim_table, weights_hash
from isoembed.encoder.quiet import quiet
from isoembed.encoder.tokenizer import load_tokenizer, plain
from isoembed.encoder.vocabulary import trimmed
from isoembed.scratch import scratch

#: file beside the weights that says what was left out
FACTS = "trimmed.json"
#: texts that are encoded at a time
_TEXTS = 4096


class Trimmed(Frozen):
    """What trimming a vocabulary left."""

    source: str = Field(description="the model as it was named")
    base_hash: str = Field(description="of its weights before")
    tokens: int = Field(description="rows of the token table")
    tokens_before: int
    params: int = Field(description="of the whole model, the token table too")
    params_before: int
    texts: int = Field(description="whose tokens were kept, each checked to be split as before")


@checked
def trim_vocabulary(source: str, pairs: Iterable[Pair], out: str | Path) -> Trimmed:
    """Write the model at `source` to the folder `out` with the tokens alone that `pairs` use and those that these need:
    every text of tokens that were kept has the vector it had.  Other texts are spelled by shorter tokens.

    Raises InputError for a tokenizer or a token table that cannot be trimmed (`isoembed.encoder.vocabulary`), for a
    folder that is there already, and where a text would be split otherwise than before.
    """
    out = expanded(out)
    if out.exists():
        raise InputError(f"{out} is there already; give another `out`.")
    tokenizer = load_tokenizer(source)
    model: Any = load_model(source)
    backend, texts = tokenizer.backend_tokenizer, list(dict.fromkeys(_texts(pairs)))
    backend.no_truncation()
    backend.no_padding()
    before = _counts(model)
    named = [each for ids in special_ids(model.config).values() for each in ids if backend.id_to_token(each)]
    used = {index for ids in _encoded(backend, texts) for index in ids}
    smaller, kept = trimmed(backend, used.union(named))
    for text, was, now in zip(texts, _encoded(backend, texts), _encoded(smaller, texts), strict=True):
        if [kept[index] for index in now] != was:
            raise InputError(
                f"The tokenizer of {source!r} would split {text[:40]!r} otherwise with fewer tokens. Leave it whole."
            )
    base_hash = weights_hash(model)
    trim_table(model, kept)
    rows, params = _counts(model)
    facts = Trimmed(
        source=source,
        base_hash=base_hash,
        tokens=rows,
        tokens_before=before[0],
        params=params,
        params_before=before[1],
        texts=len(texts),
    )
    with scratch(out.parent) as stage, quiet():
        model.save_pretrained(stage)
        plain(tokenizer, smaller).save_pretrained(stage)
        write_atomically(stage / FACTS, facts.model_dump_json(indent=1) + "\n")
        stage.rename(out)
    return facts


def _texts(pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        yield from (pair.query, pair.positive, *pair.negatives)


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _TEXTS):
        yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(texts[start : start + _TEXTS]))


def _counts(model: Any) -> tuple[int, int]:
    """Rows of the token table, and all parameters."""
    return model.config.vocab_size, sum(value.numel() for value in model.parameters())
