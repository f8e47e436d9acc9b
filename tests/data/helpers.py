"""A tiny tokenizer and sources made of lists."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from isoembed.core import fingerprint
from isoembed.data.pair import Pair
from isoembed.data.sources.base import Source

WORDS = [f"w{number}" for number in range(500)]


def tiny_tokenizer(*, end: bool = True) -> PreTrainedTokenizerFast:
    """One token a word, an end token after each text."""
    backend = Tokenizer(
        WordLevel({"<unk>": 0, "<end>": 1} | {w: 2 + i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = WhitespaceSplit()
    if end:
        backend.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<end>")


class ListSource(Source):
    """Pairs from memory; counts how often they are read."""

    def __init__(self, pairs: Sequence[Pair], label: str = "list") -> None:
        super().__init__()
        self.items, self.label, self.reads = list(pairs), label, 0

    def fingerprint(self) -> str:
        return fingerprint([[pair.query, pair.positive, list(pair.negatives), pair.group] for pair in self.items])

    def pairs(self) -> Iterator[Pair]:
        self.reads += 1
        yield from self.items


def numbered(count: int, *, groups: int | None = None, first: int = 0) -> list[Pair]:
    """Distinct pairs of varying length; `groups` deals them out to that many groups."""
    return [
        Pair(
            f"q{number} " + " ".join(WORDS[: number % 7]),
            f"p{number} " + " ".join(WORDS[: number % 11]),
            group=None if groups is None else f"g{number % groups}",
        )
        for number in range(first, first + count)
    ]


def write_jsonl(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file
