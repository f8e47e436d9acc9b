"""Duplicates, the split, the overlap; all of it the same whatever the order of the file."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.data.batches import batches
from isoembed.data.dataset import PairData, prepare
from isoembed.data.pair import Pair
from isoembed.options import NO_PROMPTS, Prompts
from tests.data.helpers import ListSource, numbered, tiny_tokenizer


def split(folder: Path, pairs: list[Pair], **options: object) -> PairData:
    return prepare(ListSource(pairs), tiny_tokenizer(), context_tokens=8, folder=folder, **options)  # type: ignore[arg-type]


def texts(data: PairData) -> tuple[set[str], set[str]]:
    """(training, held-out) texts of both sides."""
    train = data.store.texts("query", data.train) + data.store.texts("positive", data.train)
    queries, positives = data.heldout_texts()
    return set(train), {*queries, *positives}


def test_split_of_single_pairs(tmp_path: Path) -> None:
    data = split(tmp_path, numbered(500), heldout_pairs=50)
    assert len(data.heldout) == 50
    assert len(data.train) == 450
    assert not set(data.train) & set(data.heldout)
    assert data.heldout_store is data.store
    assert data.notes == ()


def test_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    """Neither to the split nor to the order of training nor to the fingerprint, with duplicates that differ in case."""
    pairs = [*numbered(300), *(Pair(pair.query.upper(), pair.positive) for pair in numbered(40))]
    shuffled = random.Random(1).sample(pairs, len(pairs))
    one, two = split(tmp_path, pairs, heldout_pairs=30), split(tmp_path, shuffled, heldout_pairs=30)
    assert one.store.folder != two.store.folder
    assert one.heldout_texts() == two.heldout_texts()
    assert one.store.texts("query", one.train) == two.store.texts("query", two.train)
    assert one.stats == two.stats


def test_seed_changes_the_split(tmp_path: Path) -> None:
    pairs = numbered(300)
    assert (
        split(tmp_path, pairs, heldout_pairs=30, seed=1).heldout_texts()
        != split(tmp_path, pairs, heldout_pairs=30, seed=2).heldout_texts()
    )


def test_more_pairs_keep_most_of_the_split(tmp_path: Path) -> None:
    """A pair that was trained on is not held out because others were added before it."""
    small, large = (split(tmp_path, numbered(count), heldout_pairs=30) for count in (300, 310))
    assert len(set(small.heldout_texts()[0]) & set(large.heldout_texts()[0])) >= 25


def test_duplicates(tmp_path: Path) -> None:
    """Equal once normalised on both sides; one equal side alone is no duplicate."""
    pairs = [Pair("a b", "c"), Pair("A  B", "C"), Pair("a b", "d"), Pair("e", "c"), *numbered(20)]
    data = split(tmp_path, pairs, heldout_pairs=0)
    assert len(data.train) == 23
    assert "1 duplicate pairs removed." in data.notes


@pytest.mark.parametrize("seed", range(5))
def test_no_text_on_both_sides(tmp_path: Path, seed: int) -> None:
    """Texts that recur (also as the other side, also in another case) never straddle the split."""
    rng = random.Random(seed)
    words = [f"T{n}" for n in range(120)]
    pairs = [
        Pair(
            rng.choice([str.lower, str.upper])(rng.choice(words)), rng.choice([str.lower, str.upper])(rng.choice(words))
        )
        for _ in range(150)
    ]
    data = split(tmp_path, pairs, heldout_pairs=10, seed=seed)
    train, heldout = texts(data)
    assert not {text.lower() for text in train} & {text.lower() for text in heldout}
    dropped = len({(p.query.lower(), p.positive.lower()) for p in pairs}) - len(data.train) - len(data.heldout)
    assert any(note.startswith(f"Overlap: {dropped} training pairs") for note in data.notes)


def test_no_false_negatives_within_heldout(tmp_path: Path) -> None:
    pairs = [Pair(f"q{n}", f"p{n % 100}") for n in range(400)]
    queries, positives = split(tmp_path, pairs, heldout_pairs=80).heldout_texts()
    assert len(set(positives)) == len(positives) == len(queries) == 20


def test_holding_out_costs_a_fifth_at_most(tmp_path: Path) -> None:
    """Texts shared by many pairs, as labels are, must not drain the training set into the overlap."""
    shared = [Pair(f"q{n}", f"p{n % 100}") for n in range(400)]
    data = split(tmp_path, shared, heldout_pairs=80)
    assert len(data.train) == 320
    labels = [Pair(f"label q{n}", f"label {n % 3}") for n in range(400)]
    data = split(tmp_path, [*labels, *numbered(100)], heldout_pairs=80)
    assert not {text for text in data.heldout_texts()[1] if text.startswith("label")}
    assert len(data.train) == 420


@pytest.mark.parametrize(
    ("pairs", "wanted", "heldout"),
    [(6000, 1100, 1024), (6000, 1024, 1024), (6000, 1000, 1000), (6000, 4096, 1024), (11_000, 4096, 2048), (4, 10, 0)],
)
def test_whole_blocks(tmp_path: Path, pairs: int, wanted: int, heldout: int) -> None:
    """At most a fifth of all; whole blocks of 1024 from one block on."""
    assert len(split(tmp_path, numbered(pairs), heldout_pairs=wanted).heldout) == heldout


def test_groups_do_not_straddle(tmp_path: Path) -> None:
    data = split(tmp_path, numbered(1000, groups=40), heldout_pairs=60)
    groups = data.store.column("group")
    held = set(groups[data.heldout])
    assert len(data.heldout) == 60
    assert not held & set(groups[data.train])
    assert len(held) >= 3
    assert len(data.train) == 1000 - 25 * len(held)
    assert any("belong to held-out groups" in note for note in data.notes)


def test_large_group_stays_in_training(tmp_path: Path) -> None:
    """A group beyond a fifth of all pairs can not be held out; small ones are taken before middling ones."""
    sizes = {"huge": 600, "middling": 150, **{f"small{n}": 10 for n in range(25)}}
    pairs = [
        Pair(f"q {group} {n}", f"p {group} {n}", group=group) for group, size in sizes.items() for n in range(size)
    ]
    data = split(tmp_path, pairs, heldout_pairs=100)
    names = {data.store.facts.groups[number] for number in data.store.column("group")[data.heldout]}
    assert len(data.heldout) == 100
    assert all(name is not None and name.startswith("small") for name in names)


def test_one_group(tmp_path: Path) -> None:
    data = split(tmp_path, numbered(100, groups=1), heldout_pairs=10)
    assert len(data.heldout) == 10
    assert len(data.train) == 90
    assert any("No group is small enough" in note for note in data.notes)


def test_mixed_groups(tmp_path: Path) -> None:
    """Grouped and single pairs together: both are held out, in proportion."""
    pairs = numbered(500, groups=50) + [Pair(f"single q{n}", f"single p{n}") for n in range(500)]
    data = split(tmp_path, pairs, heldout_pairs=100)
    groups = data.store.column("group")
    single = data.store.facts.groups.index(None)
    share = (groups[data.heldout] == single).mean()
    assert 0.05 < share < 0.95
    assert not (set(groups[data.heldout]) - {single}) & set(groups[data.train])


def test_explicit_heldout(tmp_path: Path) -> None:
    """Overlap with any row of the held-out source is dropped, also beyond the rows chosen from it."""
    test = ListSource(numbered(100), "test set")
    data = split(tmp_path, numbered(300, first=80), heldout=test, heldout_pairs=50)
    assert data.heldout_store is not data.store
    assert len(data.heldout) == 50
    assert len(data.train) == 280
    assert any("Overlap: 20 training pairs dropped" in note for note in data.notes)
    assert not texts(data)[0] & {pair.query for pair in test.items}
    with pytest.raises(InputError, match="none of the 50"):
        split(tmp_path, numbered(50), heldout=test)


def test_stats(tmp_path: Path) -> None:
    data = split(tmp_path, numbered(200), heldout_pairs=20)
    query = [len(ids) for ids in data.store.ids("query", data.train)]
    positive = [len(ids) for ids in data.store.ids("positive", data.train)]
    assert data.stats.pairs == 180
    assert data.stats.query_tokens == pytest.approx(np.mean(query))
    assert data.stats.positive_tokens == pytest.approx(np.mean(positive))
    squares = [q**2 + p**2 for q, p in zip(query, positive, strict=True)]
    assert data.stats.squared_tokens == pytest.approx(np.mean(squares))
    assert data.stats.context_tokens == 8
    assert data.stats.source == "list"


def test_fingerprint(tmp_path: Path) -> None:
    """Follows the training pairs, the tokenizer and the context; nothing else."""
    pairs = numbered(200)
    base = split(tmp_path, pairs, heldout_pairs=20).stats.fingerprint
    changed = [pairs[0], *pairs[2:], Pair("Q1 W0", "p1 w0")]
    other = prepare(ListSource(pairs), tiny_tokenizer(end=False), context_tokens=8, folder=tmp_path, heldout_pairs=20)
    longer = prepare(ListSource(pairs), tiny_tokenizer(), context_tokens=9, folder=tmp_path, heldout_pairs=20)
    fingerprints = {
        base,
        split(tmp_path, pairs, heldout_pairs=21).stats.fingerprint,
        split(tmp_path, changed, heldout_pairs=20).stats.fingerprint,
        other.stats.fingerprint,
        longer.stats.fingerprint,
    }
    assert len(fingerprints) == 5
    assert split(tmp_path / "elsewhere", pairs, heldout_pairs=20).stats.fingerprint == base


def test_notes(tmp_path: Path) -> None:
    """What is used and what is not: hard negatives, skipped rows, a small held-out set."""
    data = split(tmp_path, [replace(pair, negatives=("n",)) for pair in numbered(21)], heldout_pairs=10)
    assert "17 hard negatives, 1.00 a pair." in data.notes
    assert any(note.startswith("4 held-out pairs, 10 wanted") for note in data.notes)


def test_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("anchor,positive\n" + "".join(f"q{n},p{n}\n" for n in range(30)))
    data = prepare(str(file), tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens", heldout_pairs=5)
    assert (len(data.train), len(data.heldout)) == (25, 5)


def with_negatives(pairs: list[Pair], negatives: dict[int, tuple[str, ...]]) -> list[Pair]:
    return [replace(pair, negatives=negatives.get(number, ())) for number, pair in enumerate(pairs)]


def test_hard_negatives_are_counted_and_change_neither_split_nor_heldout(tmp_path: Path) -> None:
    """Any number a row; each token counted; another fingerprint, the same held-out pairs."""
    bare = split(tmp_path / "bare", numbered(40), heldout_pairs=8)
    pairs = with_negatives(numbered(40), {n: tuple(["w1 w2", "w3"][: n % 3]) for n in range(40)})
    data = split(tmp_path / "hard", pairs, heldout_pairs=8)
    assert data.heldout_texts() == bare.heldout_texts()
    kept = [pairs[row].negatives for row in data.train]
    count, tokens = sum(map(len, kept)), sum(len(text.split()) + 1 for row in kept for text in row)  # an end token each
    assert count > 20
    stats = data.stats
    assert stats.negatives == pytest.approx(count / len(kept))
    assert stats.negative_tokens == pytest.approx(tokens / len(kept))
    assert stats.tokens_per_pair == pytest.approx(bare.stats.tokens_per_pair + tokens / len(kept))
    squares = sum((len(text.split()) + 1) ** 2 for row in kept for text in row)
    assert stats.squared_tokens == pytest.approx(bare.stats.squared_tokens + squares / len(kept))
    moved = with_negatives(numbered(40), {n: tuple(["w1 w2", "w3"][: (n + 1) % 3]) for n in range(40)})
    fingerprints = {d.stats.fingerprint for d in (bare, data, split(tmp_path / "moved", moved, heldout_pairs=8))}
    assert len(fingerprints) == 3


def test_heldout_texts_are_no_hard_negatives(tmp_path: Path) -> None:
    bare = split(tmp_path / "bare", numbered(40), heldout_pairs=8)
    query, positive = (side[0] for side in bare.heldout_texts())
    pairs = with_negatives(numbered(40), {n: (query, "w1", positive.upper()) for n in range(40)})
    data = split(tmp_path / "hard", pairs, heldout_pairs=8)
    ids, hashes, _ = data.negatives(data.train)
    assert len(ids) == len(hashes) == len(data.train)
    assert {tuple(text.tolist()) for text in ids} == {(3, 1)}
    assert f"{2 * len(data.train)} hard negatives left out: they are texts of held-out pairs." in data.notes


def test_duplicates_with_other_negatives_leave_the_same_pair_whatever_their_order(tmp_path: Path) -> None:
    twice = [replace(numbered(1)[0], negatives=(text,)) for text in ("w1", "w2")]
    rest = numbered(20, first=1)
    found = [
        split(tmp_path / str(number), [*pairs, *rest], heldout_pairs=0).stats.fingerprint
        for number, pairs in enumerate([twice, twice[::-1]])
    ]
    assert found[0] == found[1]


def test_prompts_are_counted_tokens_and_change_neither_texts_nor_split(tmp_path: Path) -> None:
    prompts = Prompts(query="w1 w2 ", positive="w3 ")
    pairs = with_negatives(numbered(40), {3: ("w5",), 4: ("w5", "w6")})
    bare, data = (
        prepare(ListSource(pairs), tiny_tokenizer(), context_tokens=30, folder=tmp_path, heldout_pairs=8, prompts=each)
        for each in (NO_PROMPTS, prompts)
    )
    assert data.heldout_texts() == bare.heldout_texts()
    assert data.stats.query_tokens == pytest.approx(bare.stats.query_tokens + 2)
    assert data.stats.positive_tokens == pytest.approx(bare.stats.positive_tokens + 1)
    assert data.stats.negative_tokens == pytest.approx(bare.stats.negative_tokens + bare.stats.negatives)
    assert data.stats.fingerprint != bare.stats.fingerprint
    assert data.store.facts.prompt_tokens == (2, 1)  # the end token behind them is not theirs
    (query,) = data.store.ids("query", data.train[:1])
    assert query[:2].tolist() == [3, 4]
    with pytest.raises(InputError, match="half of the context"):
        prepare(
            ListSource(pairs), tiny_tokenizer(), context_tokens=8, folder=tmp_path, prompts=Prompts(query="w1 " * 5)
        )


def test_memory_grows_by_a_few_numbers_a_pair(tmp_path: Path) -> None:
    """Of a pair's texts nothing is held: what starting again needs grows by less than 80 bytes a pair."""

    class Named(ListSource):
        def fingerprint(self) -> str:
            return str(len(self.items))

    peaks = []
    for count in (5_000, 25_000):
        source, tokenizer = Named(numbered(count)), tiny_tokenizer()
        prepare(source, tokenizer, context_tokens=16, folder=tmp_path)
        tracemalloc.start()
        data = prepare(source, tokenizer, context_tokens=16, folder=tmp_path)
        next(batches(data, batch_pairs=32, seed=0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 20_000 < 80


@pytest.mark.parametrize("side", ["query", "positive"])
def test_one_text_on_a_side_is_refused(tmp_path: Path, side: str) -> None:
    """All pairs share it, so that none is a negative of another: the loss would be 0 from the first step, and the whole
    budget spent.  Hard negatives are something to tell apart."""
    same = {"query": lambda pair: replace(pair, query="w1"), "positive": lambda pair: replace(pair, positive="w1")}
    pairs = [same[side](pair) for pair in numbered(40)]
    with pytest.raises(InputError, match=f"all 40 pairs of list have the same {side}"):
        split(tmp_path, pairs, heldout=ListSource(numbered(40, first=100)))
    hard = [replace(pair, negatives=(f"n{number}",)) for number, pair in enumerate(pairs)]
    assert len(split(tmp_path, hard, heldout=ListSource(numbered(40, first=100))).train) == 40


def test_one_text_left_to_training_is_refused(tmp_path: Path) -> None:
    """The others being held out."""
    pairs = [*(replace(pair, query="w1") for pair in numbered(40)), *numbered(8, first=100)]
    with pytest.raises(InputError, match="the same query"):
        split(tmp_path, pairs, heldout_pairs=8)


def test_labels_are_no_pairs(tmp_path: Path) -> None:
    """Where nothing can be held out it is said, not only counted; with held-out pairs of one's own it is a warning."""
    labels = [Pair(f"text {n}", f"label {n % 4}") for n in range(400)]
    with pytest.raises(InputError, match=r"shares one with.*different queries: 400, different positives: 4.*`heldout`"):
        split(tmp_path, labels)
    data = split(tmp_path, labels, heldout=ListSource(numbered(40)))
    assert data.notes[0].startswith("Warning: few different texts (different queries: 400, different positives: 4")
    assert "25%" in data.notes[0]
    assert not any(note.startswith("Warning") for note in split(tmp_path, numbered(400)).notes)


def test_heldout_pairs_must_be_two_to_tell_apart(tmp_path: Path) -> None:
    """One candidate alone has a loss of 0, whatever the model."""
    same = ListSource([replace(pair, query="w1") for pair in numbered(40, first=100)])
    with pytest.raises(InputError, match="two at least that share no text"):
        split(tmp_path, numbered(40), heldout=same)


def test_what_was_read_otherwise_than_one_may_think_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("title,body,id\n" + "".join(f"q{n},{'!!' if n else '?'}{'!' * n},{n}\n" for n in range(30)))
    data = prepare(str(file), tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens", heldout_pairs=5)
    assert "Fields of a.csv taken in their order: query title, positive body." in data.notes
    assert any(note.startswith("Warning: 30 of 30 pairs have a text without a letter or digit") for note in data.notes)
    (data.store.folder / "pairs.arrow").write_bytes(b"")
    again = prepare(str(file), tiny_tokenizer(), context_tokens=8, folder=tmp_path / "tokens", heldout_pairs=5)
    assert again.notes[0].startswith("The tokens of an earlier run were damaged (pairs.arrow)")


def test_fewer_held_out_pairs_than_none_are_refused(tmp_path: Path) -> None:
    """Fails where -1 is a slice's end: all pairs but a few were held out, and nothing said so."""
    with pytest.raises(InputError, match=r"`heldout_pairs` must be at least 0, for none; got -1"):
        split(tmp_path, numbered(50), heldout_pairs=-1)
