"""One rule of names: every source reads the same fields of the same rows, or refuses them for the same reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isoembed.core import InputError
from isoembed.data.pair import Pair
from isoembed.data.sources import open_source
from isoembed.data.sources.mixture import Mixture
from isoembed.options import Prompts

Row = dict[str, Any]


def as_file(folder: Path, kind: str, rows: list[Row]) -> str:
    """`rows` as a source of that kind."""
    if kind.startswith("hub"):
        (folder / "data").mkdir()
        as_file(folder / "data", kind.partition(" ")[2], rows)
        return f"hub:{folder / 'data'}"
    file = folder / f"train.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind in ("parquet", "PQ"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "TSV" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(file)


KINDS = ["jsonl", "csv", "TSV", "parquet", "PQ", "hub jsonl", "hub csv", "hub parquet"]
FLAT: list[tuple[Row, Pair]] = [
    (
        {"anchor": "q", "positive": "p", "negative_10": "c", "negative_2": "b", "negative_1": "a"},
        Pair("q", "p", ("a", "b", "c")),
    ),
    ({"query": "q", "pos": "p", "neg1": "a", "neg2": "b", "type": "normal"}, Pair("q", "p", ("a", "b"))),
    ({"question": "q", "answer": "p"}, Pair("q", "p")),
    ({"Question": "q", "Answer": "p", "id": "7"}, Pair("q", "p")),
    ({"sentence1": "q", "sentence2": "p"}, Pair("q", "p")),
    ({"text1": "q", "text2": "p"}, Pair("q", "p")),
    ({"query": "q", "document": "p", "negative": "n"}, Pair("q", "p", ("n",))),
    ({"query": "q", "positives": "p", "negatives": "n"}, Pair("q", "p", ("n",))),
    ({"query": "q", "response": "p", "rejected_response": "n"}, Pair("q", "p", ("n",))),
    ({"query": "q", "positive": "p", "hard_negative-0": "n", "hard_negative-1": "m"}, Pair("q", "p", ("n", "m"))),
    ({"id": "3", "title": "q", "body": "p"}, Pair("q", "p")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_reads_the_same_fields(tmp_path: Path, kind: str) -> None:
    for number, (row, pair) in enumerate(FLAT[:2] if kind.startswith("hub") else FLAT):
        (tmp_path / str(number)).mkdir()
        assert list(open_source(as_file(tmp_path / str(number), kind, [row]))) == [pair], row


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "hub parquet"])
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"a": "x", "b": "y", "c": "z"}, "found a, b, c"),
        ({"sentence1": "q", "sentence2": "p", "label": "0"}, "`label` says how far"),
        ({"a": "x", "b": "y", "score": "0.2"}, "`score` says how far"),
        ({"question1": "q", "question2": "p", "is_duplicate": "0"}, "`is_duplicate` says how far"),
        ({"query": "q", "passage": "p", "label": "0"}, "`label` says how far"),
        ({"query": "q", "pos": "p", "prompt": "Represent: "}, "`query_prompt`"),
    ],
)
def test_refused_for_the_same_reason(tmp_path: Path, kind: str, row: Row, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        list(open_source(as_file(tmp_path, kind, [row])))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"set": ["a", "b", "c"]}, "does not say which is the query"),
        ({"texts": ["a", "b"]}, "does not say which is the query"),
        ({"messages": [{"role": "user", "content": "q"}], "id": "1"}, "what is asked as `query`"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "what is asked as `query`"),
        ({"data": [{"query": "q", "pos": "p"}]}, "one a line"),
    ],
)
def test_formats_of_other_tasks_are_refused_with_their_remedy(tmp_path: Path, kind: str, row: Row, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        list(open_source(as_file(tmp_path, kind, [row])))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hub jsonl"])
def test_nested_fields(tmp_path: Path, kind: str) -> None:
    """tevatron's passages, a title before its text; lists; negatives that are null or empty are none."""
    passages = {
        "query_id": "1",
        "query": "q",
        "positive_passages": [{"docid": "d", "title": "T", "text": "p"}, {"docid": "e", "title": "", "text": "r"}],
        "negative_passages": [{"docid": "n", "title": "", "text": "n"}],
    }
    assert list(open_source(as_file(tmp_path, kind, [passages]))) == [Pair("q", "T p", ("n",)), Pair("q", "r", ("n",))]
    (tmp_path / "2").mkdir()
    lists: list[Row] = [
        {"query": "q", "pos": ["p"], "neg": [" ", None, "n"]},
        {"query": "r", "pos": ["s"], "neg": None},
    ]
    assert list(open_source(as_file(tmp_path / "2", kind, lists))) == [Pair("q", "p", ("n",)), Pair("r", "s")]


def test_lines_that_are_arrays(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('["q", "p"]\n["r", "s", "n", "m"]\n')
    assert list(open_source(str(file))) == [Pair("q", "p"), Pair("r", "s", ("n", "m"))]


def test_what_is_read_and_what_is_not_is_known(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": "p", "topic": "x", "query_id": "1"}, {"query": "r", "pos": "s", "neg_1": "n"}]
    source = open_source(as_file(tmp_path, "jsonl", rows))
    list(source)
    (fields,) = source.fields
    assert (fields.query, fields.positive, fields.negatives) == ("query", "pos", ("neg_1",))
    assert fields.ignored == ("topic", "query_id")
    assert fields.unexpected == ("topic",)
    assert not fields.in_order
    (tmp_path / "2").mkdir()
    other = open_source(as_file(tmp_path / "2", "parquet", [{"title": "q", "body": "p", "year": 1999}]))
    mixture = Mixture([(source, 1.0), (other, 1.0)])
    list(mixture)
    assert [each.in_order for each in mixture.fields] == [False, True]
    assert mixture.fields[1].ignored == ("year",)
    named = open_source(as_file(tmp_path, "jsonl", rows), query_key="query", positive_key="pos")
    list(named)
    assert named.fields[0].unexpected == ("topic", "neg_1")  # the user named two fields, and no other is read


def test_names_are_printed_as_text(tmp_path: Path) -> None:
    """Escapes for the terminal, and bytes that are no text, in the names of fields."""
    source = open_source(as_file(tmp_path, "jsonl", [{"query": "q", "pos": "p", "\x1b[2J\ud800": "x"}]))
    list(source)
    assert source.fields[0].ignored == (r"\x1b[2J\ud800",)
    source.fields[0].model_dump_json()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"query,positive,positive\nq,p,r\n"),
        ("a.jsonl", b'{"query": "q", "positive": "p", "positive": "r"}\n'),
    ],
)
def test_two_fields_of_one_name(tmp_path: Path, name: str, content: bytes) -> None:
    """The last one would win in silence."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="`positive` is there twice"):
        list(open_source(str(tmp_path / name)))


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    schema = pa.schema([("query", pa.string()), ("positive", pa.string()), ("positive", pa.string())])
    pq.write_table(pa.table([["q"], ["p"], ["r"]], schema=schema), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="`positive` is there twice"):
        list(open_source(str(tmp_path / "a.parquet"), on_bad_rows="skip"))


def test_a_rows_prompt_is_that_of_all_queries_or_refused(tmp_path: Path) -> None:
    file = as_file(tmp_path, "jsonl", [{"query": "q", "pos": "p", "prompt": "Ask: "}, {"query": "r", "pos": "s"}])
    assert len(list(open_source(file, prompts=Prompts(query="Ask: ")))) == 2
    with pytest.raises(InputError, match=r"line 1: `prompt`.*has 'Ask: '.*is 'Other: '"):
        list(open_source(file, prompts=Prompts(query="Other: ")))
    named = open_source(file, query_key="query", positive_key="pos")
    assert len(list(named)) == 2
    assert named.fields[0].unexpected == ("prompt",)


def test_fingerprints_of_before_stand(tmp_path: Path) -> None:
    """Stores of tokens and what `data inspect` printed go by these."""
    file = as_file(tmp_path, "jsonl", [{"query": "q", "pos": "p"}])
    assert open_source(file).fingerprint() == "8db96dbe04aa50b1"
    skipping = open_source(file, query_key="query", positive_key="pos", max_negatives=2, on_bad_rows="skip")
    assert skipping.fingerprint() == "da6ed30c08653b43"
    assert open_source(file, max_row_bytes=99).fingerprint() != open_source(file).fingerprint()


@pytest.mark.parametrize(
    ("rows", "keys", "said"),
    [
        ([{"title": "a", "body_text": "b", "more": "c"}], ("title", "body"), "say `positive_key=body_text`"),
        ([{"ask": "a", "answer": "b", "more": "c"}], ("ask", "reply"), "say `positive_key=answer`"),
        ([{"headline": "a", "abstract": "b", "id": 3}], ("headline", "x"), "say `positive_key=abstract`"),
        ([{"question": "a", "abstract": "b", "more": "c"}], ("x", "abstract"), "say `query_key=question`"),
        ([{"query": "a", "pos": "b", "answer": "c"}, {"query": "a", "answer": "c"}], (None, None),
         "say `query_key=query` and `positive_key=answer`"),
        ([{"query": "a", "pos": "b"}, {"query": "a", "answer": "c"}], (None, None), ""),  # which not all rows hold
        ([{"a": "a", "b": "b", "c": "c"}], ("a", "x"), ""),  # either might be meant
    ],
)  # fmt: skip
def test_a_missing_field_has_the_likely_one_named(
    tmp_path: Path, rows: list[Row], keys: tuple[str | None, str | None], said: str
) -> None:
    """Leaving out every row was the only remedy."""
    source = open_source(as_file(tmp_path, "jsonl", rows), query_key=keys[0], positive_key=keys[1])
    with pytest.raises(InputError) as refused:
        list(source)
    assert f"Add it{said and ', or '}{said}, or leave bad rows out" in str(refused.value)
