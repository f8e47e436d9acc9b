"""A source of somebody's own is a file and a line: its class in the list of kinds, or of what reads files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from isoembed.core import InputError
from isoembed.data import sources
from isoembed.data.pair import Pair
from isoembed.data.sources import absolute, formats, open_source
from isoembed.data.sources.base import FileSource, RowOptions, Source
from tests.data.helpers import write_jsonl


class Numbers(Source):
    """`numbers`: three pairs."""

    label = "numbers"

    @classmethod
    def named(cls, spec: str, options: RowOptions) -> Self | None:
        return cls() if spec == cls.label else None

    @classmethod
    def absolute(cls, spec: str) -> str | None:
        return spec if spec == cls.label else None

    def fingerprint(self) -> str:
        return "3"

    def pairs(self) -> Iterator[Pair]:
        return (Pair(f"question {number}", f"answer {number}") for number in range(3))


class Lines(FileSource):
    """Query and positive on a line, with a bar between them."""

    endings = (".bars",)

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(self.file.read_text().splitlines(), 1):
            query, positive = line.split("|")
            yield f"line {number}", {"query": query, "pos": positive}


def test_a_kind_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "KINDS", [*sources.KINDS, Numbers])
    assert len(list(open_source("numbers"))) == 3
    assert absolute("numbers:3,x.csv") == f"numbers:3,{Path('x.csv').absolute()}"
    (tmp_path / "a.jsonl").write_text('{"query": "what is a", "pos": "it is a"}\n')
    mixed = list(open_source(f"numbers:3,{tmp_path / 'a.jsonl'}"))
    assert {pair.query for pair in mixed} >= {"question 0", "what is a"}


def test_a_file_format_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pairs.bars"
    file.write_text("what is a|it is a\n")
    with pytest.raises(InputError, match=r"ending in .jsonl, .ndjson, .json, .csv, .tsv \(these .* or .parquet, .pq;"):
        open_source(str(file))
    monkeypatch.setattr(formats, "READERS", [*formats.READERS, Lines])
    assert [(pair.query, pair.positive) for pair in open_source(str(file))] == [("what is a", "it is a")]
    with pytest.raises(InputError, match=r".tsv, .bars \(these"):
        open_source(str(tmp_path / "pairs.xyz"))


def test_a_source_knows_the_datasets_of_the_hub_in_it(tmp_path: Path) -> None:
    """A folder or a file of this machine is none, whatever it is called."""
    folder = tmp_path / "acme" / "pairs"
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", [{"query": "a", "positive": "b"}])
    mixed = f"hub:acme/pairs:2,hub:{folder}:1,hub:other/set:de:dev:1,hub:acme/pairs:test:1,{folder / 'train.jsonl'}:1"
    assert open_source(mixed).datasets == ("acme/pairs", "other/set")
    assert open_source(f"hub:{folder}").datasets == ()


def test_pairs_in_memory_are_asked_for_again() -> None:
    """Their recipe, given back, spoke of a file to be renamed."""
    with pytest.raises(InputError, match="given in memory are kept nowhere"):
        open_source(absolute("pairs in memory"))
