"""The token store: equal to the tokenizer, whole or absent, built once, memory flat."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data import store as store_module
from isoembed.data.normalize import normalized, text_hash
from isoembed.data.pair import Pair
from isoembed.data.sources import open_source
from isoembed.data.store import DamagedStoreError, TokenStore, tokenizer_hash
from tests.data.helpers import ListSource, numbered, tiny_tokenizer


@pytest.fixture
def short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches so short that a few pairs fill several."""
    for name, rows in (("BATCH_PAIRS", 16), ("PAIRS_ROWS", 12), ("NUMBERS_ROWS", 20)):
        monkeypatch.setattr(store_module, name, rows)


def build(folder: Path, pairs: list[Pair], context_tokens: int = 8) -> TokenStore:
    return TokenStore.build(ListSource(pairs), tiny_tokenizer(), context_tokens=context_tokens, folder=folder)


@pytest.mark.usefixtures("short_batches")
def test_tokens_are_the_tokenizers(tmp_path: Path) -> None:
    """Row by row what the tokenizer gives, special tokens included, across batches of the files and in any order."""
    pairs, tokenizer = numbered(70), tiny_tokenizer()
    store = build(tmp_path, pairs)
    assert len(store) == 70
    rows = np.random.default_rng(0).permutation(70)
    for side in ("query", "positive"):
        texts = [str(getattr(pairs[row], side)) for row in rows]
        assert store.texts(side, rows) == texts
        expected = [tokenizer(text, truncation=True, max_length=8)["input_ids"] for text in texts]
        assert [ids.tolist() for ids in store.ids(side, rows)] == expected
        assert store.kept_tokens(side)[rows].tolist() == [len(ids) for ids in expected]
        assert store.hashes(side, rows).tolist() == [text_hash(normalized(text)) for text in texts]
        whole = [len(tokenizer(text)["input_ids"]) for text in texts]
        assert store.column(f"{side}_length")[rows].tolist() == whole
    assert store.ids("query", rows)[0].dtype == np.uint16
    assert max(store.column("positive_length")) > 8  # truncation did happen


def test_equal_texts_have_equal_hashes(tmp_path: Path) -> None:
    """Case, width, white space and composition do not make a new text; a letter does."""
    store = build(
        tmp_path,
        [Pair(text, "p") for text in ("Straße  x", "strasse X ", "\uff33trasse\tx", "strasse y", "é", "e\u0301")],
    )
    hashes = store.column("query_hash").tolist()
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert hashes[4] == hashes[5]
    assert len(set(store.column("pair_hash").tolist())) == 6


def test_reused_by_content(tmp_path: Path) -> None:
    pairs, tokenizer = numbered(10), tiny_tokenizer()
    source = ListSource(pairs)
    first = TokenStore.build(source, tokenizer, context_tokens=8, folder=tmp_path)
    tokenizer("w1 w2 w3", truncation=True, max_length=2)  # leaves its settings in the tokenizer
    again = TokenStore.build(source, tokenizer, context_tokens=8, folder=tmp_path)
    assert again.folder == first.folder
    assert source.reads == 1
    others = {
        TokenStore.build(ListSource(numbered(11)), tokenizer, context_tokens=8, folder=tmp_path).folder,
        TokenStore.build(source, tokenizer, context_tokens=9, folder=tmp_path).folder,
        TokenStore.build(source, tiny_tokenizer(end=False), context_tokens=8, folder=tmp_path).folder,
    }
    assert len(others | {first.folder}) == 4


def test_tokenizer_hash() -> None:
    assert tokenizer_hash(tiny_tokenizer()) == tokenizer_hash(tiny_tokenizer())
    assert tokenizer_hash(tiny_tokenizer()) != tokenizer_hash(tiny_tokenizer(end=False))


class Breaking(ListSource):
    """Fails half-way, as a kill would."""

    def pairs(self) -> Iterator[Pair]:
        yield from self.items
        if self.reads == 0:
            self.reads += 1
            raise KeyboardInterrupt


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    source = Breaking(numbered(3000))
    with pytest.raises(KeyboardInterrupt):
        TokenStore.build(source, tiny_tokenizer(), context_tokens=8, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(TokenStore.build(source, tiny_tokenizer(), context_tokens=8, folder=tmp_path)) == 3000


def test_concurrent_builds(tmp_path: Path) -> None:
    """Both builders get a whole store, whoever was first, and nothing else stays behind."""
    start, stores = threading.Barrier(3), list[TokenStore]()

    def one() -> None:
        start.wait()
        stores.append(build(tmp_path, numbered(2000)))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store) for store in stores] == [2000] * 3
    assert list(tmp_path.iterdir()) == [stores[0].folder]


@pytest.mark.usefixtures("short_batches")
def test_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches at most are drawn before they are written: what is held does not grow with the source."""
    drawn = written = lead = 0
    rows = store_module._rows

    class Counting(ListSource):
        def pairs(self) -> Iterator[Pair]:
            nonlocal drawn, lead
            for pair in self.items:
                drawn += 1
                lead = max(lead, drawn - written)
                yield pair

    def counting(pairs: list[Pair], *rest: object) -> object:
        nonlocal written
        written += len(pairs)
        return rows(pairs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "_rows", counting)
    TokenStore.build(Counting(numbered(200)), tiny_tokenizer(), context_tokens=8, folder=tmp_path)
    assert drawn == 200
    assert lead == 32


@pytest.mark.usefixtures("short_batches")
def test_pairs_without_tokens_are_left_out(tmp_path: Path) -> None:
    """A text of which the tokenizer leaves nothing has no mean to pool; rows after it keep their places."""
    pairs = numbered(59)
    source = ListSource([*pairs[:3], Pair("\u200b \u2028", " "), *pairs[3:], Pair(" ", "p")])
    store = TokenStore.build(source, tiny_tokenizer(end=False), context_tokens=8, folder=tmp_path)
    assert store.facts.skipped == {"no tokens": 1} or store.facts.skipped == {"no tokens": 2}
    assert store.texts("query", np.arange(len(store)))[-56:] == [pair.query for pair in pairs[3:]]
    with pytest.raises(InputError, match="tokens on both sides"):
        TokenStore.build(ListSource([Pair(" ", "p")]), tiny_tokenizer(end=False), context_tokens=8, folder=tmp_path)


def test_facts(tmp_path: Path) -> None:
    pairs = [Pair("a", "b", ("n",), "g"), Pair("c", "d"), Pair("e", "f", ("n", "m"), "h")]
    store = build(tmp_path, pairs)
    assert store.facts.negatives == 2
    assert [store.facts.groups[number] for number in store.column("group")] == ["g", None, "h"]


@pytest.mark.usefixtures("short_batches")
def test_hard_negatives_of_any_number(tmp_path: Path) -> None:
    """Each row's own, in the order asked for, across batches of the file."""
    pairs = [
        replace(pair, negatives=tuple(f"n{number} {place}" for place in range(number % 4)))
        for number, pair in enumerate(numbered(50))
    ]
    store, tokenizer = build(tmp_path, pairs), tiny_tokenizer()
    rows = np.random.default_rng(0).permutation(50)
    texts = [text for row in rows for text in pairs[row].negatives]
    ids, hashes, own = store.negatives(rows)
    assert [text.tolist() for text in ids] == [tokenizer(text)["input_ids"] for text in texts]
    assert hashes.tolist() == [text_hash(text) for text in texts]
    assert own.tolist() == [row for row in rows for _ in pairs[row].negatives]
    assert store.column("negative_count").tolist() == [number % 4 for number in range(50)]
    assert store.column("negative_tokens")[rows].sum() == sum(map(len, ids))


def damaged(folder: Path, spoil: Callable[[Path], object]) -> TokenStore:
    """The store that is found where another one was spoilt."""
    pairs = numbered(300)
    spoil(build(folder, pairs).folder)
    store = build(folder, pairs)
    assert store.texts("positive", np.arange(300)) == [pair.positive for pair in pairs]
    assert len(store.column("query_hash")) == 300
    assert [entry.name for entry in folder.iterdir()] == [store.folder.name]
    return store


def cut(file: Path, share: float) -> None:
    os.truncate(file, int(file.stat().st_size * share))


@pytest.mark.parametrize("name", ["pairs.arrow", "numbers.arrow", "facts.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "halved", "zeroed"])
def test_a_damaged_store_is_made_again(tmp_path: Path, name: str, how: str) -> None:
    """As a power cut leaves it."""
    spoil: dict[str, Callable[[Path], object]] = {
        "missing": Path.unlink,
        "empty": lambda file: cut(file, 0),
        "halved": lambda file: cut(file, 0.5),
        "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    }
    store = damaged(tmp_path, lambda folder: spoil[how](folder / name))
    assert name in store.damage
    assert build(tmp_path, numbered(300)).damage == ""


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    """Also among hashes and ids, where every value is a valid one."""
    random = np.random.default_rng(0)
    whole = build(tmp_path, numbered(300)).folder
    for name in ("pairs.arrow", "numbers.arrow", "facts.json"):
        content = (whole / name).read_bytes()
        for place in random.integers(0, len(content), 15):
            flipped = bytearray(content)
            flipped[place] ^= 1 << random.integers(8)
            (whole / name).write_bytes(flipped)
            if name != "facts.json" or flipped.split() != content.split():
                with pytest.raises(DamagedStoreError, match="Delete that folder"):
                    TokenStore.open(whole)
        (whole / name).write_bytes(content)
    TokenStore.open(whole)


def test_a_file_in_its_place_is_no_store(tmp_path: Path) -> None:
    def replaced(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.touch()

    assert damaged(tmp_path, replaced).damage


def test_files_are_on_the_disk_before_the_store_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut leaves the name with empty files behind it."""
    done: list[str] = []
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(store_module, "synced", lambda path: done.append(path.name))
    monkeypatch.setattr(Path, "rename", renamed)
    store = build(tmp_path, numbered(30))
    before = set(done[: done.index("rename")])
    assert before > {"pairs.arrow", "numbers.arrow", "facts.json"}
    assert any(name.startswith(".partial-") for name in before)
    assert done[-1] == store.folder.parent.name


def test_others_may_read_a_store_as_far_as_the_folder_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        assert build(tmp_path, numbered(3)).folder.stat().st_mode & 0o777 == 0o775
    finally:
        os.umask(before)


def test_facts_say_which_fields_were_read_and_count_texts_without_words(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"query": "!?", "pos": "a", "topic": "b"}\n{"query": "猫", "pos": "1"}\n')
    store = TokenStore.build(open_source(str(file)), tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens")
    assert store.facts.wordless == 1
    assert [(each.query, each.positive, each.ignored) for each in store.facts.fields] == [("query", "pos", ("topic",))]


def test_folders_whose_names_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"c\xff")
    assert build(folder, numbered(3)).texts("query", np.arange(1)) == [numbered(1)[0].query]
