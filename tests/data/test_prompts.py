"""Prompts per source: every text behind its own source's, nothing mixed up with texts behind others, old keys kept."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data.batches import batches, heldout_batch
from isoembed.data.dataset import PairData, prepare
from isoembed.data.order import ordered
from isoembed.data.sources import open_source
from isoembed.data.store import StoreFacts
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.options import NO_PROMPTS, Options, Prompts, SourcePrompts
from isoembed.recipe import DataStats, Setup, solve
from tests.data.helpers import WORDS, tiny_tokenizer, write_jsonl

#: tokens of the prompts below: w9 is 11, w8 10, w7 9
OWN = SourcePrompts(source="a", query="w9 w9 ", positive="w8 ")
PROMPTS = Prompts(query="w7 ", sources=(OWN,))
#: first tokens of a query and of another text of each file, and their prompts' tokens
BEFORE = {"a": ([11, 11], [10]), "b": ([9], [])}


def files(folder: Path) -> str:
    """Two files; the words of a text say which it is of."""
    for name, first in (("a", 100), ("b", 300)):
        texts = [(WORDS[first + n], WORDS[first + 100 + n]) for n in range(60)]
        rows = [
            {"query": query, "pos": positive, "neg": ["w1", "w2"][: n % 3]} for n, (query, positive) in enumerate(texts)
        ]
        write_jsonl(folder / f"{name}.jsonl.gz", rows)
    return f"{folder}/a.jsonl.gz,{folder}/b.jsonl.gz"


def pairs(folder: Path, prompts: Prompts, spec: str = "", **options: object) -> PairData:
    spec = spec or files(folder)
    given = {"context_tokens": 8, "folder": folder / "tokens", "heldout_pairs": 16, **options}
    return prepare(open_source(spec, prompts=prompts), tiny_tokenizer(), prompts=prompts, **given)  # type: ignore[arg-type]


def file_of(text: str) -> str:
    return "a" if int(text[1:]) < 300 else "b"


@pytest.mark.parametrize("options", [Options(), Options(batch_by="source")], ids=["mixed", "source"])
def test_every_text_is_behind_its_own_sources_prompt(tmp_path: Path, options: Options) -> None:
    """Fails where a batch, its hard negatives or the held-out pairs are tokenised behind another one's, or their tokens
    are counted wrongly, by which prompts are left out of the pooling."""
    data = pairs(tmp_path, PROMPTS)
    of_batches = [batch for _, batch in islice(batches(data, batch_pairs=12, seed=0, options=options), 7)]
    assert any(len({file_of(text) for text in data.store.texts("query", batch.rows)}) == 2 for batch in of_batches) == (
        options.batch_by == "mixed"
    )
    negatives = 0
    for batch in [*of_batches, heldout_batch(data, 0, 16)]:
        names = [file_of(text) for text in data.store.texts("query", batch.rows)]
        assert set(names) <= {"a", "b"}
        assert batch.prompt_tokens is not None
        before, behind, of_negatives = batch.prompt_tokens
        for name, query, positive, *counts in zip(
            names, batch.query_ids, batch.positive_ids, before, behind, strict=True
        ):
            expected = BEFORE[name]
            assert [query[:-2].tolist(), positive[:-2].tolist()] == [*expected]  # then the text, then the end token
            assert counts == [*map(len, expected)]
        assert [text[:-2].tolist() for text in batch.negative_ids] == [[10] * count for count in of_negatives]
        negatives += len(batch.negative_ids)
    assert negatives > 40
    assert {file_of(text) for text in data.heldout_texts()[0]} == {"a", "b"}


def test_texts_behind_other_prompts_are_others(tmp_path: Path) -> None:
    """Fails where a store is found again though a source's texts stood behind another prompt, or the data of a run do
    not say so; the order of the files changes neither."""
    spec = files(tmp_path)
    other = Prompts(query="w7 ", sources=(OWN.model_copy(update={"positive": "w6 "}),))
    swapped = Prompts(query="w7 ", sources=(OWN.model_copy(update={"source": "b"}),))
    found = [pairs(tmp_path, prompts, spec) for prompts in (NO_PROMPTS, Prompts(query="w7 "), PROMPTS, other, swapped)]
    assert len({each.store.folder for each in found}) == len({each.stats.fingerprint for each in found}) == 5
    assert len({tuple(each.heldout_texts()[0]) for each in found}) == 1  # one split
    turned = ",".join(reversed(spec.split(",")))
    assert pairs(tmp_path, PROMPTS, turned).stats.fingerprint == found[2].stats.fingerprint
    whole = Prompts(query="w7 ", sources=(OWN.model_copy(update={"source": "a.jsonl.gz"}),))
    assert pairs(tmp_path, whole, spec).store.folder == found[2].store.folder
    same = Prompts(query="w7 ", sources=(SourcePrompts(source="a", query="w7 "),))
    assert pairs(tmp_path, same, spec).store.folder == found[1].store.folder


def test_mixed_batches_behind_them_are_warned_of(tmp_path: Path) -> None:
    for prompts, options in (
        (PROMPTS, Options()),
        (PROMPTS, Options(batch_by="source")),
        (Prompts(query="w7 "), Options()),
    ):
        setup = Setup(batch_pairs=8, context_tokens=8, options=options)
        told = any(
            "tell the texts of a mixed batch apart" in note for note in ordered(pairs(tmp_path, prompts), setup).notes
        )
        assert told == (prompts == PROMPTS and options.batch_by == "mixed")


def test_heldout_pairs_of_their_own_source_go_by_its_name(tmp_path: Path) -> None:
    spec, apart = files(tmp_path), tmp_path / "apart"
    apart.mkdir()
    for name, first in (("a", 450), ("other", 470)):
        write_jsonl(
            apart / f"{name}.jsonl", [{"query": f"w{first + n}", "pos": f"w{first - 40 + n}"} for n in range(9)]
        )
    for name, expected in (("a", [11, 11]), ("other", [9])):
        heldout = open_source(f"{apart}/{name}.jsonl", prompts=PROMPTS)
        batch = heldout_batch(pairs(tmp_path, PROMPTS, spec, heldout=heldout, heldout_pairs=4), 0, 4)
        assert {tuple(query[:-2].tolist()) for query in batch.query_ids} == {tuple(expected)}


def test_what_runs_and_stores_were_they_still_are(tmp_path: Path) -> None:
    """Without prompts of sources a key, a recipe's JSON and a store's seal are those of before there were any."""
    assert Prompts(query="q: ").model_dump() == {"query": "q: ", "positive": "", "pooled": True}
    facts = pairs(tmp_path, Prompts(query="w7 ")).store.facts
    assert "source_prompt_tokens" not in facts.model_dump(mode="json")
    assert StoreFacts.model_validate_json(facts.model_dump_json()) == facts
    with_own = pairs(tmp_path, PROMPTS).store
    assert with_own.facts.source_prompt_tokens == ((2, 1), (1, 0))
    assert type(with_own).open(with_own.folder).facts == with_own.facts

    def key(prompts: Prompts) -> str:
        setup = Setup(batch_pairs=8, context_tokens=8, options=Options(prompts=prompts))
        recipe = solve(1e9, NANO.models[0], Full(), 1e-3, setup, DataStats(), family="nano")
        assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe
        return recipe.key

    assert len({key(Prompts()), key(Prompts(query="w7 ")), key(PROMPTS)}) == 3
    two = (OWN, SourcePrompts(source="b"))
    assert key(Prompts(sources=two)) == key(Prompts(sources=two[::-1])) != key(Prompts(sources=two[:1]))


def test_a_rows_own_prompt_is_that_of_its_source(tmp_path: Path) -> None:
    spec = files(tmp_path)
    write_jsonl(
        tmp_path / "a.jsonl.gz", [{"query": f"w{n}", "pos": f"w{200 + n}", "prompt": "w9 w9 "} for n in range(60)]
    )
    assert len(pairs(tmp_path, PROMPTS, spec).train) > 80
    with pytest.raises(InputError, match="has 'w9 w9 '"):
        pairs(tmp_path, Prompts(query="w7 "), spec)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    unknown = Prompts(sources=(SourcePrompts(source="c", query="w9 "),))
    with pytest.raises(InputError, match=r"one of the data's, a\.jsonl\.gz, b\.jsonl\.gz; got c\."):
        pairs(tmp_path, unknown)
    with pytest.raises(InputError, match=r"a and a\.jsonl\.gz are one"):
        pairs(tmp_path, Prompts(sources=(OWN, SourcePrompts(source="a.jsonl.gz"))))
    with pytest.raises(InputError, match="has prompts once; got a, a"):
        Prompts(sources=(OWN, OWN))
    long = Prompts(sources=(SourcePrompts(source="a", query="w9 " * 5),))
    with pytest.raises(InputError, match="half of the context"):
        pairs(tmp_path, long)
    with pytest.raises(InputError, match="only where there is one"):
        Prompts.of("", "", pooled=False)
    given = Prompts.of("", "p: ", pooled=False, sources={"a": {"query": "q: "}, "b": {"positive": ""}})
    assert given.sources == (SourcePrompts(source="a", query="q: ", positive="p: "), SourcePrompts(source="b"))
    assert np.array_equal(sorted(given.named), ["a-document", "a-query", "b-document", "b-query", "document", "query"])
