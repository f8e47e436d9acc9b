"""The contract of a data source, documented once, and what the row-based ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from isoembed.core import InputError, fingerprint, placeless
from isoembed.data.pair import Pair
from isoembed.data.sources.files import file_hash, label_of
from isoembed.data.sources.names import BadRow, Fields, Keys, Names

OnBadRows = Literal["error", "skip"]
#: the longest row that is read unless the user says otherwise: 16 MiB
MAX_ROW_BYTES = 1 << 24


class Source(ABC):
    """Something that yields pairs, the same ones in the same order each time, holding one batch of them at most.

    `label` names it for people.  `fingerprint()` is a hash of everything the pairs depend on (contents and options,
    never names or dates), found without making the pairs.  `skipped` counts, by reason, the rows that the last
    iteration left out; `fields` says what it read of rows.  Iteration raises InputError at the first bad row (or counts
    and skips it, as the source was told), and at the end where there was no good pair at all.  A bad row is one whose
    content is at fault: what the system could not read (OSError) always ends the iteration.
    """

    label: str

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @classmethod
    def named(cls, spec: str, options: RowOptions) -> Self | None:
        """The source of this kind that `spec` names, as `hub:org/name`; None where it names another kind, or a file."""
        return None

    @classmethod
    def absolute(cls, spec: str) -> str | None:
        """`spec` meaning the same from any folder; None where it names another kind, or a file."""
        return None

    @property
    def fields(self) -> tuple[Fields, ...]:
        """Which fields the last iteration read; nothing where the source is not made of rows."""
        return ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of what `Pair.source` counts, without their places."""
        return (placeless(self.label),)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Hub ids of the datasets in it."""
        return ()

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
            if not reasons:
                raise InputError(f"A source must hold at least one good pair; {self.label} is empty. Name another.")
            raise InputError(
                f"A source must hold at least one good pair; {self.label} has none (skipped {reasons}). Mend it; "
                "`on_bad_rows=error` names the first fault."
            )


@dataclass(frozen=True)
class RowOptions:
    """How to read rows: keys by name (None: by convention), how many of a row's hard negatives to take, the first ones
    (None: all), what to do about a bad row, the prompt that goes before every query (a row's own must be the same), and
    the longest row."""

    query_key: str | None = None
    positive_key: str | None = None
    negatives_key: str | None = None
    on_bad_rows: OnBadRows = "error"
    max_negatives: int | None = None
    query_prompt: str = ""
    max_row_bytes: int = MAX_ROW_BYTES

    def __post_init__(self) -> None:
        if (self.query_key is None) != (self.positive_key is None):
            raise InputError(
                f"`query_key` and `positive_key` must be given together; got {self.query_key!r} and "
                f"{self.positive_key!r}. Name both (`query_key`, `positive_key`) or neither."
            )
        if self.max_negatives is not None and self.max_negatives < 0:
            raise InputError(
                f"`negatives` must be how many hard negatives a row to take at most, 0 for none; got "
                f"{self.max_negatives}. Give another number."
            )
        if self.max_row_bytes < 1:
            raise InputError(f"`max_row_bytes` must be at least 1; got {self.max_row_bytes}. Give another number.")

    def names(self) -> Names:
        """The rule of names for one pass over a source."""
        return Names(Keys(self.query_key, self.positive_key, self.negatives_key, self.query_prompt))

    def fingerprint_of(self, content: str) -> str:
        """The fingerprint of a source with that content, read in this way."""
        limit = [] if self.max_negatives is None else [self.max_negatives]
        # defaults add nothing: fingerprints made before there were these options stay what they were
        others = {"query_prompt": self.query_prompt, "max_row_bytes": self.max_row_bytes}
        changed = {name: value for name, value in others.items() if value != getattr(RowOptions, name)}
        names = [self.query_key, self.positive_key, self.negatives_key]
        return fingerprint([content, *names, self.on_bad_rows, *limit, *([changed] if changed else [])])


class RowSource(Source):
    """A source made of rows that map keys to texts or lists of texts.

    A list of positives gives one pair per positive, each with all the row's negatives.  Which fields are read, `Names`
    settles.  Texts are stripped of white space at both ends.
    """

    def __init__(self, label: str, options: RowOptions) -> None:
        super().__init__()
        self.label = label
        self.options = options
        self.names = options.names()

    @property
    def fields(self) -> tuple[Fields, ...]:
        return self.names.fields(placeless(self.label))

    @abstractmethod
    def content_hash(self) -> str:
        """A hash of the rows' raw content."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
        """Each row with its place (`line 7`), or why there is none at that place.  Raises InputError where a table's
        header is at fault."""

    def fingerprint(self) -> str:
        return self.options.fingerprint_of(self.content_hash())

    def pairs(self) -> Iterator[Pair]:
        self.names = self.options.names()
        for place, row in self.rows():
            outcome = row if isinstance(row, BadRow) else self._pairs_of(row)
            if not isinstance(outcome, BadRow):
                yield from outcome
            elif self.options.on_bad_rows == "skip":
                self.skipped[outcome.reason] += outcome.rows
            else:
                raise InputError(
                    f"{self.label}, {place}: {outcome.detail}, or leave bad rows out with `on_bad_rows=skip`."
                )
        named = self.options.negatives_key
        if named is not None and not self.names.held_negatives:
            raise InputError(f"`negative_key` must name a field of the rows; no row of {self.label} holds {named!r}.")

    def _pairs_of(self, row: dict[str, Any]) -> list[Pair] | BadRow:
        """The pairs of one row."""
        layout = self.names.layout(row)
        if isinstance(layout, BadRow):
            return layout
        try:
            query, positives = (_texts(row[name], name) for name in (layout.query, layout.positive))
            negatives = [text for name in layout.negatives for text in _negatives(row[name], name)]
            if layout.prompt is not None:
                _check_prompt(row[layout.prompt], layout.prompt, self.options.query_prompt)
        except _BadTextError as error:
            return error.row
        if len(query) != 1 or not positives:
            key, count = (layout.query, len(query)) if len(query) != 1 else (layout.positive, len(positives))
            rule = "hold exactly one text" if len(query) != 1 else "hold at least one text"
            return BadRow("wrong number of texts", f"`{key}` must {rule}; got {count}. Correct the row")
        if sum(map(len, (*query, *positives, *negatives))) > self.options.max_row_bytes:
            return too_long(self.options.max_row_bytes)
        return [Pair(query[0], positive, tuple(negatives[: self.options.max_negatives])) for positive in positives]


def too_long(limit: int) -> BadRow:
    """The complaint about a row that is longer than `limit` bytes."""
    return BadRow(
        "row too long",
        f"a row must have at most {limit:,} bytes; this one has more. Shorten it, or raise `max_row_bytes`",
    )


class _BadTextError(Exception):
    """A text that is none; `row` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.row = BadRow(reason, detail)


def _check_prompt(prompt: Any, name: str, given: str) -> None:
    """A row's own prompt must be the one before every query: a model has one."""
    own = prompt.strip() if isinstance(prompt, str) else prompt
    if own and own != given.strip():
        raise _BadTextError(
            "another prompt",
            f"`{name}` goes before the row's query, and a model has one prompt for all queries, `query_prompt`; this "
            f"row has {prompt!r}, `query_prompt` is {given!r}. Give `query_prompt` that text, or read the rows without "
            "theirs by naming the fields with `query_key` and `positive_key`",
        )


def _negatives(value: Any, key: str) -> list[str]:
    """Hard negatives; one that is null or has no text is none."""
    texts = value if isinstance(value, list) else [value]
    return _texts(
        [text for text in texts if text is not None and not (isinstance(text, str) and not text.strip())], key
    )


def _texts(value: Any, key: str) -> list[str]:
    """A text or a list of texts, stripped, none empty, all valid.  A passage (tevatron's `{"title": …, "text": …}`) is
    one text.  Raises _BadTextError."""
    texts = value if isinstance(value, list) else [value]
    stripped = []
    for text in texts:
        if isinstance(text, dict):
            title, body = text.get("title") or "", text.get("text")
            text = f"{title} {body}".strip() if isinstance(title, str) and isinstance(body, str) else text
        if not isinstance(text, str):
            raise _BadTextError(
                "wrong type", f"`{key}` must be a text or a list of texts; got {type(text).__name__}. Make it a string"
            )
        try:
            text.encode()  # a byte that is no UTF-8 arrives here as a lone surrogate, as does a broken \ud800 escape
        except UnicodeEncodeError:
            raise _BadTextError(
                "not UTF-8", f"`{key}` must be UTF-8 text; it holds bytes that are not. Save it as UTF-8"
            ) from None
        if not (text := text.strip()):
            raise _BadTextError("empty text", f"`{key}` must hold text; it is empty. Fill it in")
        stripped.append(text)
    return stripped


class FileSource(RowSource):
    """A file of rows.  A class names the `endings` of its files, and whether they may be `packed` too (.gz, .zst)."""

    endings: ClassVar[tuple[str, ...]]
    packed: ClassVar[bool] = True

    def __init__(self, file: Path, options: RowOptions) -> None:
        super().__init__(label_of(file), options)
        self.file = file

    def content_hash(self) -> str:
        return file_hash(self.file)
