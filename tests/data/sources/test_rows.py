"""Sources made of rows: formats, conventions, and every kind of bad input by name."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from isoembed.core import InputError
from isoembed.data.pair import Pair
from isoembed.data.sources import absolute, files, open_source, parquet
from isoembed.data.sources.csv import records
from isoembed.data.sources.files import lines_of
from tests.data.helpers import write_jsonl

ROWS = [{"query": f"question {n}", "pos": f"answer {n}"} for n in range(5)]
PAIRS = [Pair(row["query"], row["pos"]) for row in ROWS]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` in the format that the file's name asks for."""
    if ".csv" in file.name:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    else:
        write_jsonl(file.with_suffix("") if file.suffix in (".gz", ".zst") else file, rows)
        if file.suffix == ".gz":
            file.write_bytes(gzip.compress(file.with_suffix("").read_bytes()))
        elif file.suffix == ".zst":
            file.write_bytes(zstandard.compress(file.with_suffix("").read_bytes()))
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.parquet", "a,b.jsonl"])
def test_contract(tmp_path: Path, name: str) -> None:
    """Every format gives the same pairs, each time it is read, and a fingerprint that follows the content."""
    source = open_source(str(write(tmp_path / name, ROWS)))
    assert list(source) == PAIRS
    assert list(source) == PAIRS
    assert source.skipped == {}
    before = source.fingerprint()
    moved = (tmp_path / name).rename(tmp_path / f"moved {name}")
    assert open_source(str(moved)).fingerprint() == before
    write(moved, [*ROWS, {"query": "one", "pos": "more"}])
    assert open_source(str(moved)).fingerprint() != before


@pytest.mark.parametrize(
    ("row", "pairs"),
    [
        (
            {"query": "q", "pos": ["a", "b"], "neg": ["c", "d"]},
            [Pair("q", "a", ("c", "d")), Pair("q", "b", ("c", "d"))],
        ),
        ({"query": ["q"], "positive": "a", "negative": "c"}, [Pair("q", "a", ("c",))]),
        ({"anchor": " q\n", "positive": "\ta", "score": 3}, [Pair("q", "a")]),
        ({"query": "q", "pos": "a", "neg": None}, [Pair("q", "a")]),
        (
            {
                "anchor": "q",
                "positive": "a",
                "negative_9": "z",
                "negative_2": "d",
                "negative_1": "",
                "negative_x": "y",
            },
            [Pair("q", "a", ("d", "z"))],
        ),
    ],
)
def test_conventions(tmp_path: Path, row: dict[str, Any], pairs: list[Pair]) -> None:
    assert list(open_source(str(write_jsonl(tmp_path / "a.jsonl", [row])))) == pairs


def test_keys_by_name(tmp_path: Path) -> None:
    """Named keys win over a convention that would also fit."""
    file = write_jsonl(tmp_path / "a.jsonl", [{"query": "no", "pos": "no", "title": "t", "text": "x", "bad": ["n"]}])
    named = open_source(str(file), query_key="title", positive_key="text", negatives_key="bad")
    assert list(named) == [Pair("t", "x", ("n",))]
    assert named.fingerprint() != open_source(str(file)).fingerprint()
    with pytest.raises(InputError, match="given together"):
        open_source(str(file), query_key="title")
    with pytest.raises(InputError, match=r"`negative_key`.*no row.*'worse'"):
        list(open_source(str(file), query_key="title", positive_key="text", negatives_key="worse"))


def test_so_many_negatives_at_most(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "a.jsonl", [{"query": "q", "pos": "a", "neg": ["x", "y", "z"]}]))
    found = {limit: open_source(file, max_negatives=limit) for limit in (None, 2, 0)}
    assert [len(next(iter(source)).negatives) for source in found.values()] == [3, 2, 0]
    assert len({source.fingerprint() for source in found.values()}) == 3
    with pytest.raises(InputError, match="negatives"):
        open_source(file, max_negatives=-1)


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"title": "t", "text": "x", "more": "y"}])
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: .*found title, text, more.*`query_key`") as caught:
        list(open_source(str(file)))
    assert "`on_bad_rows=skip`" in str(caught.value)


GOOD = b'{"query": "q", "pos": "a"}\n'
BAD_LINES = {
    "malformed line": b'{"query": "q", "pos": \n',
    "missing key": b'{"query": "q"}\n',
    "wrong type": b'{"query": 3, "pos": "a"}\n',
    "wrong number of texts": b'{"query": "q", "pos": []}\n',
    "empty text": b'{"query": "q", "pos": "  "}\n',
    "not UTF-8": b'{"query": "q", "pos": "caf\xe9"}\n',
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_line(tmp_path: Path, reason: str) -> None:
    """The third line (a blank one counts) is named, or counted under its reason; the good one after it is read."""
    file = tmp_path / "bad.jsonl"
    file.write_bytes(GOOD + b"\n" + BAD_LINES[reason] + GOOD)
    with pytest.raises(InputError, match=r"bad\.jsonl, line 3: .*must.*[;:].*\. .*`on_bad_rows=skip`"):
        list(open_source(str(file)))
    source = open_source(str(file), on_bad_rows="skip")
    assert len(list(source)) == 2
    assert source.skipped == {reason: 1}
    list(source)
    assert source.skipped == {reason: 1}  # not added up over passes


@pytest.mark.parametrize(
    "line", [b"[1, 2]\n", b"null\n", b'{"query": "q", "pos": "\\ud800"}\n', b"[" * 100_000 + b"\n", b"\x00\n"]
)
def test_hostile_line(tmp_path: Path, line: bytes) -> None:
    """Lines that crash a careless reader: no object, a lone surrogate, nesting beyond the stack, a nul byte."""
    file = tmp_path / "bad.jsonl"
    file.write_bytes(GOOD + line + GOOD)
    with pytest.raises(InputError, match="line 2"):
        list(open_source(str(file)))
    assert len(list(open_source(str(file), on_bad_rows="skip"))) == 2


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_archive(tmp_path: Path, suffix: str) -> None:
    """A cut archive is an error (zstandard's own stream ends silently), or gives what could be read."""
    rows = [{"query": f"q {n * 7919 % 10007}", "pos": f"a {n * 104729 % 10007}"} for n in range(50_000)]
    file = write(tmp_path / f"a.jsonl{suffix}", rows)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"line \d+: the file must be whole"):
        list(open_source(str(file)))
    source = open_source(str(file), on_bad_rows="skip")
    assert 0 < len(list(source)) < 50_000
    assert source.skipped["truncated file"] == 1


def test_not_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(GOOD)
    with pytest.raises(InputError, match="the file must be whole"):
        list(open_source(str(file)))


def test_csv(tmp_path: Path) -> None:
    """Quoted line ends stay in the text, the line number is the file's, a ragged row is bad."""
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfquery,pos\r\n"two\r\nlines",a\r\nq,b,c\r\n\r\nq,caf\xe9\r\nq,d\r\n')
    with pytest.raises(InputError, match=r"a\.csv, line 4: .*2 columns.*got 3"):
        list(open_source(str(file)))
    source = open_source(str(file), on_bad_rows="skip")
    assert list(source) == [Pair("two\r\nlines", "a"), Pair("q", "d")]
    assert source.skipped == {"malformed line": 1, "not UTF-8": 1}


def test_parquet_bad_rows(tmp_path: Path) -> None:
    """Nulls, and strings whose bytes are no UTF-8 (Arrow does not check), are found row by row."""
    binary = pa.array([b"a", b"caf\xe9", b"c", b"d"])
    positive = pa.Array.from_buffers(pa.string(), 4, binary.buffers())
    query = pa.array(["q", "q", None, "q"])
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"query": query, "pos": positive, "unread": [1, 2, 3, 4]}), file)
    with pytest.raises(InputError, match=r"a\.parquet, row 2: .*UTF-8"):
        list(open_source(str(file)))
    source = open_source(str(file), on_bad_rows="skip")
    assert list(source) == [Pair("q", "a"), Pair("q", "d")]
    assert source.skipped == {"not UTF-8": 1, "wrong type": 1}
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="the file must be whole"):
        list(open_source(str(file)))


def test_no_good_pair(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(BAD_LINES["empty text"] * 3)
    with pytest.raises(InputError, match=r"at least one good pair.*empty text: 3"):
        list(open_source(str(file), on_bad_rows="skip"))
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"at least one good pair; .*a\.jsonl is empty\. Name another\.$"):
        list(open_source(str(file)))  # no fault to name


def test_no_such_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        open_source(str(tmp_path / "none.jsonl"))
    (tmp_path / "a.pickle").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.jsonl.*\.parquet.*got"):
        open_source(str(tmp_path / "a.pickle"))


def test_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert absolute("docstrings") == "docstrings"
    assert absolute("hub:org/name:test") == "hub:org/name:test"
    assert absolute("hub:folder:test") == f"hub:{tmp_path}/folder:test"
    assert absolute("a.jsonl:3, docstrings:1,b.csv") == f"{tmp_path}/a.jsonl:3,docstrings:1,{tmp_path}/b.csv"
    assert absolute(f"{tmp_path}/a.jsonl") == f"{tmp_path}/a.jsonl"


def test_streaming(tmp_path: Path) -> None:
    """The first pairs come without reading to the end: a fault behind them does not matter yet."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD + BAD_LINES["malformed line"])
    assert next(iter(open_source(str(file)))) == Pair("q", "a")


def test_mixture(tmp_path: Path) -> None:
    """Weights are rates throughout; it ends when the source whose turn it is has no more."""
    a = write_jsonl(tmp_path / "a.jsonl", [{"query": f"a{n}", "pos": "x"} for n in range(9)])
    b = write_jsonl(tmp_path / "b.jsonl", [{"query": f"b{n}", "pos": "x"} for n in range(100)])
    mixture = open_source(f"{a}:3,{b}:1")
    names = [pair.query for pair in mixture]
    assert names == [pair.query for pair in mixture]
    assert [name for name in names if name[0] == "a"] == [f"a{n}" for n in range(9)]
    for start in range(0, 12, 4):
        assert sum(name[0] == "b" for name in names[start : start + 4]) == 1
    assert len(names) == 12
    assert mixture.fingerprint() != open_source(f"{a}:2,{b}:1").fingerprint()
    assert len(list(open_source(f"{a},{b}"))) in (18, 19)  # no weight: 1 each
    with pytest.raises(InputError, match="above 0"):
        open_source(f"{a}:0,{b}:1")
    with pytest.raises(InputError, match="finite"):  # the other file was never read
        open_source(f"{a}:1e400,{b}:1")
    with pytest.raises(InputError, match="must be a number"):
        open_source(f"{a}:1.2.3,{b}:1")


def test_mixture_counts_skipped(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_bytes(BAD_LINES["empty text"] + GOOD * 3)
    b.write_bytes(GOOD + BAD_LINES["empty text"] + BAD_LINES["missing key"] + GOOD * 2)
    mixture = open_source(f"{a}:1,{b}:1", on_bad_rows="skip")
    assert len(list(mixture)) == 6
    assert mixture.skipped == {"empty text": 2, "missing key": 1}


def test_hub_folder(tmp_path: Path) -> None:
    """The hub's code on a local folder of data files."""
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", ROWS)
    write_jsonl(folder / "test.jsonl", ROWS[:2])
    assert list(open_source(f"hub:{folder}")) == PAIRS
    test = open_source(f"hub:{folder}:test")
    assert list(test) == PAIRS[:2]
    before = test.fingerprint()
    assert before != open_source(f"hub:{folder}").fingerprint()
    with (folder / "test.jsonl").open("a") as stream:
        stream.write(json.dumps(ROWS[4]) + "\n")
    assert test.fingerprint() != before
    with pytest.raises(InputError, match="configurations are default; the splits of default are train, test"):
        list(open_source(f"hub:{folder}:nosuch"))


def test_hub_configuration_and_split(tmp_path: Path) -> None:
    """A dataset of several configurations could not be named at all."""
    files = {"en": {"train": ROWS}, "de": {"train": ROWS[1:], "dev": ROWS[2:]}}
    said: list[dict[str, Any]] = []
    for config, splits in files.items():
        (tmp_path / config).mkdir()
        for split, rows in splits.items():
            write_jsonl(tmp_path / config / f"{split}.jsonl", rows)
        paths = [{"split": split, "path": f"{config}/{split}.jsonl"} for split in splits]
        said.append({"config_name": config, "data_files": paths})
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': said})}\n---\n")
    for spec, pairs in {"en": PAIRS, "en:train": PAIRS, "de": PAIRS[1:], "de:": PAIRS[1:], "de:dev": PAIRS[2:]}.items():
        assert list(open_source(f"hub:{tmp_path}:{spec}")) == pairs, spec
    assert PAIRS[0] in list(open_source(f"hub:{tmp_path}:de:dev:2,hub:{tmp_path}:en:1"))
    assert open_source(f"hub:{tmp_path}:de:dev").fingerprint() != open_source(f"hub:{tmp_path}:de").fingerprint()
    for spec, fault in {"": "its configurations are en, de. Name", ":dev": "are en, de. Name",
                        ":de:test": "the splits of de are train, dev", ":fr:dev": "are en, de. Name",
                        ":de:dev:3": r"must be hub:ORG/NAME\[:CONFIG\]\[:SPLIT\]"}.items():  # fmt: skip
        with pytest.raises(InputError, match=fault):
            list(open_source(f"hub:{tmp_path}{spec}"))
    said[1]["default"] = True
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': said})}\n---\n")
    for spec, pairs in {"": PAIRS[1:], ":dev": PAIRS[2:], "::dev": PAIRS[2:], ":en": PAIRS}.items():
        assert list(open_source(f"hub:{tmp_path}{spec}")) == pairs, spec


def test_hub_folder_with_files_about_its_data(tmp_path: Path) -> None:
    """They end in .json, as data may."""
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert list(open_source(f"hub:{tmp_path}")) == PAIRS


def test_hub_names_the_commit_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that moves on the hub between fingerprint and reading must not be read at its newer state."""
    import datasets
    import huggingface_hub

    asked: dict[str, Any] = {}

    class Info:
        sha = "abc"

    class Builder:
        config = SimpleNamespace(data_files={"validation": []})

        def as_streaming_dataset(self, split: str) -> list[dict[str, str]]:
            asked["split"] = split
            return [{"anchor": "q", "positive": "p"}]

    Builder.__module__ = "datasets.packaged_modules.parquet.parquet"

    def builder(name: str, config: str, revision: str | None) -> Builder:
        asked.update(name=name, config=config, revision=revision)
        return Builder()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: Info())
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision: ["default"])
    monkeypatch.setattr(datasets, "get_dataset_default_config_name", lambda name, revision: "default")
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    source = open_source("hub:org/name:validation")
    source.fingerprint()
    Info.sha = "def"
    assert list(source) == [Pair("q", "p")]
    assert asked == {"name": "org/name", "config": "default", "revision": "abc", "split": "validation"}
    Builder.__module__ = "datasets.packaged_modules.webdataset.webdataset"
    with pytest.raises(InputError, match="not one of json"):
        list(source)


def many(count: int, first: int = 0) -> bytes:
    return b"".join(b"q %d,p %d\n" % (n, n) for n in range(first, first + count))


def read_csv(file: Path, content: bytes, **options: Any) -> tuple[list[Pair], dict[str, int]]:
    """(pairs, what was left out) with bad rows skipped."""
    file.write_bytes(content)
    source = open_source(str(file), on_bad_rows="skip", **options)
    return list(source), dict(source.skipped)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_fields_of_any_length(tmp_path: Path, name: str) -> None:
    """Python's csv stops at 131,072 characters a field; the pieces of a longer one came out as pairs."""
    text = "this sentence, of the same long text\n" * 8000
    content = b"query,positive\n" + many(20) + f'long,"{text}"\n'.encode() + many(20, 20)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    pairs = list(open_source(str(tmp_path / name)))
    assert len(pairs) == 41
    assert pairs[20] == Pair("long", text.strip())


def test_csv_a_row_beyond_the_limit_gives_no_pairs(tmp_path: Path) -> None:
    """Nor do its lines, though each could be a row; what is behind it is read."""
    text = "one sentence,of the text\n" * 50
    content = b"query,positive\n" + many(20) + f'long,"{text}"\n'.encode() + many(20, 20)
    pairs, skipped = read_csv(tmp_path / "a.csv", content, max_row_bytes=500)
    assert [pair.query for pair in pairs] == [f"q {n}" for n in range(40)]
    assert skipped["row too long"] == 1
    with pytest.raises(InputError, match=r"line 22: .*at most 500 bytes.*`max_row_bytes`"):
        list(open_source(str(tmp_path / "a.csv"), max_row_bytes=500))


@pytest.mark.parametrize("end", [b"", b'q,"two\nlines"\n'], ids=["to the end", "to the next quote"])
def test_csv_an_unclosed_quote_takes_no_good_rows_with_it(tmp_path: Path, end: bytes) -> None:
    content = b"query,positive\n" + many(5) + b'"never closed,p\n' + many(50, 5) + end
    pairs, skipped = read_csv(tmp_path / "a.csv", content)
    assert len(pairs) == 55 + bool(end)
    assert skipped == {"malformed line": 1}
    with pytest.raises(InputError, match=r"line 7: .*stays open over 5\d further lines"):
        list(open_source(str(tmp_path / "a.csv")))


def test_csv_no_pairs_are_made_of_a_broken_text(tmp_path: Path) -> None:
    """A quote inside a text of several lines: its other lines look like rows, but for the space behind the comma."""
    broken = b'long,"first line\nsays "hello", friend\nand more, of it\nend"\n'
    pairs, skipped = read_csv(tmp_path / "a.csv", b"query,positive\n" + many(5) + broken + many(5, 5))
    assert [pair.query for pair in pairs] == [f"q {n}" for n in range(10)]
    assert sum(skipped.values()) == 4
    cut = b'long,"first line\nsecond line, of it\nthird li'  # a cut file ends in the midst of a line
    pairs, skipped = read_csv(tmp_path / "a.csv", b"query,positive\n" + many(5) + cut)
    assert len(pairs) == 5
    assert skipped == {"malformed line": 1, "lines taken in by the bad row before them": 2}


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=8))
def test_csv_is_read_as_it_was_written(rows: list[tuple[str, str]]) -> None:
    """Whatever a text holds: quotes, line ends, delimiters."""
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("query", "positive"), *rows])
    content = io.BytesIO(stream.getvalue().encode("utf-8", "surrogatepass"))
    with io.TextIOWrapper(content, encoding="utf-8", errors="surrogatepass", newline="") as text:
        found = [cells for _, cells in records(lines_of(text, 1 << 20), lambda _: ",", 1 << 20)]
    assert found == [["query", "positive"], *map(list, rows)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"query;positive\nq,1;p\n"),
        ("a.csv", b"query\tpositive\nq,1\tp\n"),
        ("a.tsv", b"query\tpositive\nq,1\tp\n"),
        ("a.CSV", 'query;positive\n"q,1";p\n'.encode("utf-16")),
        ("a.csv", 'query,positive\n"q,1",p\n'.encode("utf-32")),
        ("a.csv", b'query, positive,,\n"q,1",p,,\n'),
        ("a.jsonl", '{"query": "q,1", "pos": "p"}\n'.encode("utf-16")),
        ("a.ndjson", b'\xef\xbb\xbf{"query": "q,1", "pos": "p"}\r\n'),
    ],
)
def test_tables_and_encodings(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(open_source(str(tmp_path / name))) == [Pair("q,1", "p")]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "query,positive\nq,p\n".encode("utf-16-le"), "looks like UTF-16 without one"),
        ("a.jsonl", '{"query": "q", "pos": "p"}\n'.encode("utf-16-be"), "looks like UTF-16 without one"),
        ("a.csv", "query,positive\nq,p\n".encode("utf-16")[:-1], "the file must be whole"),
        ("a.csv", b"query,positive\nq,caf\xe9\n", "must be UTF-8"),
        ("a.parquet.gz", b"", "a file ending in"),
        ("a.csv.gz.zst", b"", "a file ending in"),
        ("a.jsonl", gzip.compress(GOOD, mtime=0), "holds a gzip archive"),
        ("a.csv", b"PK\x03\x04\x14\0\0\0a.csvquery,positive\nq,p\n", "zip archive or a spreadsheet"),
        ("a.csv", b"PAR1\x15\x04\nquery,positive\nq,p\n", "holds Parquet"),
        # one of the lines of such a file may be an object of its own: with bad rows skipped it was all that was read
        ("a.jsonl", b"{\n" + GOOD[1:] + GOOD, "object over all"),
        (
            "a.json",
            b"[" + GOOD + b"," + GOOD + b" 4]",
            "must be one list of rows, or have one row per line; behind row 2",
        ),
        ("a.json", b"[" + GOOD + GOOD + b"]", "behind row 1: a comma must stand between two rows"),
        ("a.json", b"[" + GOOD + b",\n" + GOOD, "behind row 2: it does not end"),
        ("a.json", b"[" + GOOD + b"]\n[" + GOOD + b"]", "behind row 1: more stands behind its end"),
        ("a.json", b'[{"query": "a", "pos": ["b' + b"x" * 99 + b'"]', "behind row 0: Expecting ',' delimiter"),
        ("a.json", b"[" + b"[" * 99_999 + b"]" * 99_999 + b"]", "behind row 0"),
    ],
)
def test_refused_for_what_is_wrong(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault):
        list(open_source(str(tmp_path / name)))
    if any(word in fault for word in ("all", "holds", "behind")):
        with pytest.raises(InputError, match=fault):
            list(open_source(str(tmp_path / name), on_bad_rows="skip"))


def test_a_table_without_a_header_is_not_cut_in_the_midst_of_its_texts(tmp_path: Path) -> None:
    """Commas in the texts of three columns apart by tabs: read as two columns they gave pairs that nobody wrote."""
    (tmp_path / "a.tsv").write_text("what, now?\tthis\tno\n" * 3)
    with pytest.raises(InputError, match="two fields of text"):
        list(open_source(str(tmp_path / "a.tsv")))


def test_tsv_quotes_of_two_rows_make_no_pair_of_all_between(tmp_path: Path) -> None:
    """Texts apart by tabs are seldom quoted, as MS MARCO's: rows 2 to 4 were one pair of three queries."""
    rows = ["query\tpositive", "q1\tp1", '"Open q2\tp2', "q3\tp3", 'q4 closes"\tp4', '"a\nb"\tp5']
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"line 3: a quote that one row opens.*stays open over 2 further lines"):
        list(open_source(str(tmp_path / "a.tsv")))
    source = open_source(str(tmp_path / "a.tsv"), on_bad_rows="skip")
    assert [pair.query for pair in source] == ["q1", "q3", 'q4 closes"', "a\nb"]
    assert source.skipped == {"malformed line": 1}


def test_a_folder_of_two_kinds_of_files_is_not_half_read(tmp_path: Path) -> None:
    """`datasets` takes the files of one kind and says nothing."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.csv").write_text("query,positive\nq,p\n")
    with pytest.raises(InputError, match=r"leave out (a\.jsonl|b\.csv)"):
        list(open_source(f"hub:{tmp_path}"))
    with pytest.raises(InputError, match="hub:FOLDER"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.csv.zst"])
def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    """30 MB of one line, packed into some kilobytes; the lines behind it are read."""
    line = b"x" * 30_000_000 + b"\n"
    content = b"query,pos\nq,a\n" + line + b"q,a\n" if "csv" in name else GOOD + line + GOOD
    content = gzip.compress(content) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(zstandard.compress(content) if name.endswith(".zst") else content)
    tracemalloc.start()
    source = open_source(str(tmp_path / name), on_bad_rows="skip", max_row_bytes=1 << 20)
    assert len(list(source)) == 2
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert source.skipped == {"row too long": 1}


class _Failing:
    """A disk that fails at the second read."""

    def __init__(self, file: Path) -> None:
        self.stream, self.mode, self.closed = file.open("rb"), "rb", False
        self.seekable = self.readable = lambda: True
        self.seek, self.tell = self.stream.seek, self.stream.tell
        self.left = 1

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return self.stream.read(size)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_what_the_system_cannot_read_is_no_bad_row(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk's failure, passed over with the bad rows, would publish half of the pairs as all of them."""
    file = write(tmp_path / name, [{"query": f"q {n * 7919}", "pos": f"p {n * 104729}"} for n in range(20_000)])
    for module in (files, parquet):
        monkeypatch.setattr(module, "open_file", lambda file: pa.PythonFile(_Failing(file), "r"))
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(open_source(str(file), on_bad_rows="skip"))
    assert caught.value.errno == errno.EIO


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    for name in (b"bad\xff.jsonl", b"bad\xff.csv", b"bad\xff.parquet"):
        written = write(tmp_path / f"a{Path(os.fsdecode(name)).suffix}", ROWS)
        source = open_source(str(written.rename(tmp_path / os.fsdecode(name))))
        assert list(source) == PAIRS
        assert "bad\\xff" in source.label
        source.fingerprint()
    with pytest.raises(InputError, match=r"none at .*bad\\xfe"):
        open_source(str(tmp_path / os.fsdecode(b"bad\xfe.jsonl")))


def hub_folder(folder: Path, *patterns: str) -> str:
    """A folder whose README.md says that these are its files."""
    folder.mkdir(exist_ok=True)
    said = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": list(patterns)}]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(said)}\n---\n")
    return f"hub:{folder}"


@pytest.mark.parametrize(
    "pattern",
    ["../out/*.jsonl", "/{tmp}/out/a.jsonl", "data/../../out/a.jsonl", "https://127.0.0.1/a.jsonl", "link.jsonl"],
)
def test_hub_folder_reads_nothing_outside(tmp_path: Path, pattern: str) -> None:
    """What lies outside is not in its fingerprint, and nobody asked for it."""
    (tmp_path / "out").mkdir()
    target = write_jsonl(tmp_path / "out" / "a.jsonl", ROWS)
    name = hub_folder(tmp_path / "in", pattern.replace("{tmp}", str(tmp_path)[1:]))
    (tmp_path / "in" / "link.jsonl").symlink_to(target)
    with pytest.raises(InputError, match="lies outside"):
        list(open_source(name))


def test_hub_folder_reads_what_its_readme_names(tmp_path: Path) -> None:
    name = hub_folder(tmp_path / "in", "data/one.jsonl", "data/two.jsonl.gz")
    (tmp_path / "in" / "data").mkdir()
    for file in ("one.jsonl", "two.jsonl.gz", "three.jsonl"):
        write_jsonl(tmp_path / "in" / "data" / file, ROWS)
    assert list(open_source(name)) == PAIRS * 2


def test_hub_cache_keeps_its_files_by_links(tmp_path: Path) -> None:
    """As the hub's client lays a dataset out: files are links into `blobs`, two folders up."""
    snapshot = tmp_path / "datasets--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    (snapshot / "train.jsonl").symlink_to(write_jsonl(blobs / "123", ROWS))
    assert list(open_source(f"hub:{snapshot}")) == PAIRS


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten gigabytes of one line need not be unpacked to know that they are too many."""
    (tmp_path / "a.jsonl").write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(files.LongLine, "pass_over", None)
    with pytest.raises(InputError, match="line 1: a row must have at most 1,000 bytes"):
        list(open_source(str(tmp_path / "a.jsonl"), max_row_bytes=1000))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.json.zst"])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_a_list_over_all_of_a_file_is_read_row_by_row(tmp_path: Path, name: str, indent: int | None) -> None:
    """Refused once, or, under `--on-bad-rows skip`, read as its last line alone."""
    content = ("\n" + json.dumps(ROWS, indent=indent) + "\n").encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(zstandard.compress(content) if name.endswith(".zst") else content)
    assert list(open_source(str(tmp_path / name))) == PAIRS


def test_rows_of_a_list_have_numbers_faults_and_a_bound(tmp_path: Path) -> None:
    rows = ['{"query": "q", "pos": "p"}', '["a", "b"]', '{"query": "q", "pos": ""}', '{"pos": "p", "pos": "r"}', "7"]
    file = tmp_path / "a.json"
    file.write_text(f"[{','.join(rows[:1] + rows[2:] + rows[:1])}]")
    with pytest.raises(InputError, match="row 2: `pos` must hold text"):
        list(open_source(str(file)))
    source = open_source(str(file), on_bad_rows="skip")
    assert list(source) == [Pair("q", "p")] * 2
    assert source.skipped == {"empty text": 1, "duplicate key": 1, "malformed line": 1}
    file.write_text(f'[["a", "b"], {rows[1]}]')
    assert list(open_source(str(file))) == [Pair("a", "b")] * 2
    tracemalloc.start()
    file.write_text("[" + ",".join([rows[0]] * 9_000 + ['{"query": "' + "x" * 5_000_000 + '", "pos": "p"}']) + "]")
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    with pytest.raises(InputError, match="behind row 9000: a row must have at most 100,000 bytes"):
        assert sum(1 for _ in open_source(str(file), on_bad_rows="skip", max_row_bytes=100_000)) == 0
    assert tracemalloc.get_traced_memory()[1] - before < 2_000_000
    tracemalloc.stop()
