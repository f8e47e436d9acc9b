"""The contract of a data source, documented once, and what the row-based ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from isoembed.core import InputError, fingerprint
from isoembed.data.pair import Pair

OnBadRows = Literal["error", "skip"]


class Source(ABC):
    """Something that yields pairs, the same ones in the same order each time, holding one batch of them at most.

    `label` names it for people.  `fingerprint()` is a hash of everything the pairs depend on (contents and options,
    never names or dates), found without making the pairs.  `skipped` counts, by reason, the rows that the last
    iteration left out.  Iteration raises InputError at the first bad row (or counts and skips it, as the source was
    told), and at the end where there was no good pair at all.
    """

    label: str

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @abstractmethod
    def fingerprint(self) -> str:
        """16 hex digits; equal where the pairs are."""

    @abstractmethod
    def pairs(self) -> Iterator[Pair]:
        """The pairs, counting into `skipped`; iterate over the source itself instead."""

    def __iter__(self) -> Iterator[Pair]:
        self.skipped = Counter()
        empty = True
        for pair in self.pairs():
            empty = False
            yield pair
        if empty:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.skipped.items()))
            raise InputError(
                f"A source must hold at least one good pair; {self.label} has none"
                f"{f' (skipped {reasons})' if reasons else ''}. Mend it; --on-bad-rows error names the first fault."
            )


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that gives no pair: `reason` is counted, `detail` (rule, value, remedy) is what the user reads."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Keys:
    """The names under which a row keeps its texts."""

    query: str
    positive: str
    negatives: str | None


#: query, positive, negatives as others name them: FlagEmbedding's (BGE) format, its long form, sentence-transformers'
#: (negatives also numbered: `negative_1`, `negative_2`, …)
CONVENTIONS = (
    Keys("query", "pos", "neg"),
    Keys("query", "positive", "negative"),
    Keys("anchor", "positive", "negative"),
)


@dataclass(frozen=True)
class RowOptions:
    """How to read rows: keys by name (None: by convention), how many of a row's hard negatives to take, the first ones
    (None: all), and what to do about a bad row."""

    query_key: str | None = None
    positive_key: str | None = None
    negatives_key: str | None = None
    on_bad_rows: OnBadRows = "error"
    max_negatives: int | None = None

    def __post_init__(self) -> None:
        if (self.query_key is None) != (self.positive_key is None):
            raise InputError(
                f"`query_key` and `positive_key` must be given together; got {self.query_key!r} and "
                f"{self.positive_key!r}. Name both (--query-key, --positive-key) or neither."
            )
        if self.max_negatives is not None and self.max_negatives < 0:
            raise InputError(
                f"`negatives` must be how many hard negatives a row to take at most, 0 for none; got "
                f"{self.max_negatives}. Give another number."
            )

    def keys(self, found: list[str]) -> Keys | BadRow:
        """The keys to read among those `found` in a row."""
        if self.query_key is not None and self.positive_key is not None:
            return Keys(self.query_key, self.positive_key, self.negatives_key)
        for keys in CONVENTIONS:
            if keys.query in found and keys.positive in found:
                return Keys(keys.query, keys.positive, self.negatives_key or keys.negatives)
        return BadRow(
            "missing key",
            f"a row must hold query/pos, query/positive or anchor/positive; found {', '.join(found) or 'no keys'}. "
            "Name the keys with --query-key and --positive-key (and --negative-key)",
        )


class RowSource(Source):
    """A source made of rows that map keys to texts or lists of texts.

    A list of positives gives one pair per positive, each with all the row's negatives.  The keys are settled by the
    first row that has them.  Texts are stripped of white space at both ends.
    """

    def __init__(self, label: str, options: RowOptions) -> None:
        super().__init__()
        self.label = label
        self.options = options

    @abstractmethod
    def content_hash(self) -> str:
        """A hash of the rows' raw content."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        """Each row with its place (`line 7`), or why there is none at that place."""

    def fingerprint(self) -> str:
        options = self.options
        names = [options.query_key, options.positive_key, options.negatives_key]
        limit = [] if options.max_negatives is None else [options.max_negatives]
        return fingerprint([self.content_hash(), *names, options.on_bad_rows, *limit])

    def pairs(self) -> Iterator[Pair]:
        keys: Keys | None = None
        named, held = self.options.negatives_key, False
        for place, row in self.rows():
            outcome: list[Pair] | BadRow
            if isinstance(row, BadRow):
                outcome = row
            else:
                held = held or (named is not None and bool(_negative_names(row, named)))
                found = keys or self.options.keys([str(key) for key in row])
                if isinstance(found, Keys):
                    keys = found
                    outcome = _read(row, found, self.options.max_negatives)
                else:
                    outcome = found
            if not isinstance(outcome, BadRow):
                yield from outcome
            elif self.options.on_bad_rows == "skip":
                self.skipped[outcome.reason] += 1
            else:
                raise InputError(
                    f"{self.label}, {place}: {outcome.detail}, or leave bad rows out with --on-bad-rows skip."
                )
        if named is not None and not held:
            raise InputError(f"`--negative-key` must name a field of the rows; no row of {self.label} holds {named!r}.")


def _read(row: dict[str, Any], keys: Keys, max_negatives: int | None) -> list[Pair] | BadRow:
    """The pairs of one row."""
    for key in (keys.query, keys.positive):
        if key not in row:
            found = ", ".join(map(str, row))
            return BadRow("missing key", f"every row must hold `{key}`; found {found or 'no keys'}. Add it")
    query = _texts(row[keys.query], keys.query)
    positives = _texts(row[keys.positive], keys.positive)
    negatives = _negatives(row, keys.negatives) if keys.negatives else []
    for texts in (query, positives, negatives):
        if isinstance(texts, BadRow):
            return texts
    assert isinstance(query, list)
    assert isinstance(positives, list)
    assert isinstance(negatives, list)
    if len(query) != 1 or not positives:
        key, count = (keys.query, len(query)) if len(query) != 1 else (keys.positive, len(positives))
        rule = "hold exactly one text" if len(query) != 1 else "hold at least one text"
        return BadRow("wrong number of texts", f"`{key}` must {rule}; got {count}. Correct the row")
    return [Pair(query[0], positive, tuple(negatives[:max_negatives])) for positive in positives]


def _negative_names(row: dict[str, Any], key: str) -> list[str]:
    """`key`, and `key_1`, `key_2`, … as sentence-transformers' miner writes negatives to tables, where the row has
    them, in the order of their numbers."""
    numbers = {name: name.removeprefix(f"{key}_") for name in map(str, row) if name.startswith(f"{key}_")}
    counted = {int(number): name for name, number in numbers.items() if number.isdecimal() and len(number) < 10}
    numbered = [counted[number] for number in sorted(counted)]
    return [key, *numbered] if key in row else numbered


def _negatives(row: dict[str, Any], key: str) -> list[str] | BadRow:
    """The row's hard negatives; there may be none."""
    found: list[str] = []
    for name in _negative_names(row, key):
        texts = _texts(row[name] or [], name)
        if isinstance(texts, BadRow):
            return texts
        found += texts
    return found


def _texts(value: Any, key: str) -> list[str] | BadRow:
    """A string or a list of strings as a list of stripped, non-empty, valid texts."""
    texts = value if isinstance(value, list) else [value]
    stripped = []
    for text in texts:
        if not isinstance(text, str):
            return BadRow(
                "wrong type", f"`{key}` must be a text or a list of texts; got {type(text).__name__}. Make it a string"
            )
        try:
            text.encode()  # a byte that is no UTF-8 arrives here as a lone surrogate, as does a broken \ud800 escape
        except UnicodeEncodeError:
            return BadRow("not UTF-8", f"`{key}` must be UTF-8 text; it holds bytes that are not. Save it as UTF-8")
        if not (text := text.strip()):
            return BadRow("empty text", f"`{key}` must hold text; it is empty. Fill it in")
        stripped.append(text)
    return stripped
