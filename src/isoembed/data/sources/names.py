"""Which fields of a row hold its texts: the one rule of names, for every source that is made of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import Field

from isoembed.core import Frozen, InputError

#: (query, positive, hard negatives) as others name them, the first that fits: FlagEmbedding's (BGE) format, its long
#: form, sentence-transformers', tevatron's, DPR's, ms-swift's, and the names in well-known collections of pairs; last a
#: line that is an array, as `embedding-training-data` keeps them
CONVENTIONS = (
    ("query", "pos", "neg"),
    ("query", "positive", "negative"),
    ("anchor", "positive", "negative"),
    ("query", "positives", "negatives"),
    ("query", "positive_passages", "negative_passages"),
    ("question", "positive_ctxs", "hard_negative_ctxs"),
    ("query", "response", "rejected_response"),
    ("query", "document", "negatives"),
    ("query", "passage", "negatives"),
    ("query", "answer", "negative"),
    ("question", "answer", "negative"),
    ("sentence1", "sentence2", "negative"),
    ("text1", "text2", "negative"),
    ("[0]", "[1]", "[2]"),
)
#: names of hard negatives with any convention, and behind a mark or none their numbers: `negative_1`, `negative-1`,
#: `neg2`
NEGATIVES = ("neg", "negative", "negatives", "hard_negative", "hard_negatives", "negative_passages", "[2]")
#: a prompt that a row brings for its query (FlagEmbedding's `prompt`)
PROMPTS = ("prompt", "instruction")
#: fields that say whether the two texts belong together, so that their rows are no positive pairs, where no name says
#: so (`positive` does, `passage` does not); and one that says how far, unless the texts are known to be an answer's
JUDGED = re.compile(
    r"(?:.*_)?(?:labels?|similarity|relatedness|relevan(?:ce|t)|duplicate|is_(?:correct|match|paraphrase|positive|selected))"
)
SCORED = re.compile(r"(?:.*_)?scores?")
ALIKE_PAIRS = ("sentence1", "text1")
ANSWERS = ("document", "passage", "answer", "response")
#: fields about a row, which hold none of its texts
METADATA = re.compile(
    r"|(?:.*_)?(?:ids?|idx|index|labels?|scores?|similarity|types?|lang|language|source|dataset|split|metadata|url)"
    r"|docid|qid|pid|unnamed: \d+|__index_level_\d+__"
)
#: formats of other tasks, by the fields of theirs that hold the texts, and what is to be done with their rows
_OTHER_FORMATS = {
    ("set", "texts"): (
        "a list of texts that mean the same does not say which is the query: write each two of them as a row of "
        "`anchor` and `positive`"
    ),
    ("messages", "conversations", "conversation"): (
        "a chat is no pair of texts: write what is asked as `query` and what is answered as `positive`, a row each"
    ),
    (
        "data",
        "rows",
        "examples",
    ): "rows within a row are not looked for: write them one a line, as `jq -c '.data[]'` does",
}
#: fields named in a message at most, and how much of a name
SHOWN, SHOWN_LENGTH = 20, 60
#: kinds of row (by their fields) whose layout is kept
KEPT = 1000


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that gives no pair: `reason` is counted (`rows` times), `detail` (rule, value, remedy) is what the user
    reads."""

    reason: str
    detail: str
    rows: int = 1


@dataclass(frozen=True)
class Keys:
    """Names that the user gave (None: by convention), and the prompt that goes before every query."""

    query: str | None = None
    positive: str | None = None
    negatives: str | None = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a row keeps its texts."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    prompt: str | None
    ignored: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """All fields that are needed."""
        return (self.query, self.positive, *self.negatives, *([] if self.prompt is None else [self.prompt]))


class Fields(Frozen):
    """What was read of a source's rows."""

    source: str
    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    in_order: bool = Field(False, description="no known names: the two fields of text, in their order")
    ignored: tuple[str, ...] = ()

    @property
    def unexpected(self) -> tuple[str, ...]:
        """The ignored ones that are no mere data about a row."""
        return tuple(name for name in self.ignored if not METADATA.fullmatch(name.strip().casefold()))


class Names:
    """The layout of each row of one source; query and positive are settled by the first row that has them."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._pair = None if keys.query is None or keys.positive is None else (keys.query, keys.positive)
        self._preferred = ""
        self.in_order = False  #: whether the names are unknown and the two fields of text are taken in their order
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._negatives: dict[str, None] = {}
        self._ignored: dict[str, None] = {}

    def layout(self, row: Mapping[str, Any]) -> Layout | BadRow:
        """Where `row` keeps its texts.  A table's header may stand for a row: any text for each field of texts."""
        names = tuple(row)
        if (known := self._layouts.get(names)) is not None:
            return known
        if self._pair is None and (fault := self._settle(row)) is not None:
            return fault
        assert self._pair is not None
        for name in self._pair:
            if name not in row:
                other = f", or {remedy}" if (remedy := self._another(name, row)) else ""
                return BadRow("missing key", f"every row must hold `{name}`; found {shown(names)}. Add it{other}")
        layout = self._of(names, *self._pair)
        self._negatives |= dict.fromkeys(layout.negatives)
        if len(self._ignored) < SHOWN:
            self._ignored |= dict.fromkeys(layout.ignored)
        if len(self._layouts) < KEPT:
            self._layouts[names] = layout
        return layout

    def fields(self, source: str) -> tuple[Fields, ...]:
        """What was read so far; nothing where no row had the fields."""
        if not self._layouts or self._pair is None:
            return ()
        query, positive = map(printable, self._pair)
        negatives, ignored = (tuple(map(printable, list(names)[:SHOWN])) for names in (self._negatives, self._ignored))
        return (
            Fields(
                source=source,
                query=query,
                positive=positive,
                negatives=negatives,
                in_order=self.in_order,
                ignored=ignored,
            ),
        )

    @property
    def held_negatives(self) -> bool:
        """Whether any row so far had the fields of hard negatives."""
        return bool(self._negatives)

    def _settle(self, row: Mapping[str, Any]) -> BadRow | None:
        """Find query and positive among the row's fields."""
        spelled: dict[str, str] = {}
        for name in row:  # `Query` and ` query` are `query` where there is none of that very spelling
            spelled.setdefault(name.strip().casefold(), name)
        spelled |= {name: name for name in row}
        for query, positive, negative in CONVENTIONS:
            if query in spelled and positive in spelled:
                self._pair, self._preferred = (spelled[query], spelled[positive]), negative
                break
        else:
            texts = [
                name
                for name, value in row.items()
                if isinstance(value, str)
                and not any(kind.fullmatch(name.strip().casefold()) for kind in (METADATA, JUDGED))
            ]
            if len(texts) != 2:
                return _no_names(row)
            self._pair, self.in_order = (texts[0], texts[1]), True
        kinds = [JUDGED, SCORED] if self.in_order or query in ALIKE_PAIRS else [JUDGED] if positive in ANSWERS else []
        if judged := [name for name in row for kind in kinds if kind.fullmatch(name.strip().casefold())]:
            self._pair, self.in_order = None, False
            return _judged(judged[0], row)
        return None

    def _another(self, missing: str, row: Mapping[str, Any]) -> str:
        """What has another field read in place of the one that `row` lacks: one that every row so far holds, of a like
        name, of a known one, or the only one with text; nothing where there is none."""
        assert self._pair is not None
        is_query = missing == self._pair[0]
        left = {
            name.strip().casefold(): name
            for name, value in row.items()
            if name not in self._pair
            and isinstance(value, str | list)
            and all(name in names for names in self._layouts)
            and not any(kind.fullmatch(name.strip().casefold()) for kind in (METADATA, JUDGED))
        }
        known = [name for each in CONVENTIONS if (name := each[0 if is_query else 1]) in left]
        alike = get_close_matches(missing.strip().casefold(), left, 1)
        likely = [*alike, *known, *(left if len(left) == 1 else ())]
        if not likely:
            return ""
        found = printable(left[likely[0]])
        if self.keys.query is not None:
            return f"say `{'query' if is_query else 'positive'}_key={found}`"
        query, positive = (found if name == missing else printable(name) for name in self._pair)
        return f"say `query_key={query}` and `positive_key={positive}`"

    def _of(self, names: tuple[str, ...], query: str, positive: str) -> Layout:
        named = self.keys.query is not None
        bases = [self.keys.negatives] if self.keys.negatives else [] if named else [self._preferred, *NEGATIVES]
        rest = [name for name in names if name not in (query, positive)]
        negatives = next((found for base in bases if base and (found := _numbered(base, rest))), ())
        prompt = None
        if not named:
            prompt = next((name for name in rest if name.strip().casefold() in PROMPTS), None)
        ignored = tuple(name for name in rest if name not in negatives and name != prompt)
        return Layout(query, positive, negatives, prompt, ignored)


def _numbered(base: str, names: Iterable[str]) -> tuple[str, ...]:
    """`base` itself, and with its numbers, in their order."""
    pattern = re.compile(re.escape(base) + r"(?:[_ .-]?(\d{1,9}))?", re.IGNORECASE)
    found = [(int(match[1] or -1), name) for name in names if (match := pattern.fullmatch(name.strip()))]
    return tuple(name for _, name in sorted(found))


def _no_names(names: Iterable[str]) -> BadRow:
    spelled = {name.strip().casefold() for name in names}
    for fields, remedy in _OTHER_FORMATS.items():
        if not spelled.isdisjoint(fields):
            return BadRow("missing key", f"{remedy} (found {shown(names)})")
    known = ", ".join(f"{query}/{positive}" for query, positive, _ in CONVENTIONS[:-1])
    return BadRow(
        "missing key",
        f"a row must hold {known}, or two fields of text and no more; found {shown(names)}. "
        "Name the keys with `query_key` and `positive_key` (and `negative_key`)",
    )


def _judged(label: str, names: Iterable[str]) -> BadRow:
    return BadRow(
        "labelled pairs",
        f"the two texts of a row must belong together; `{printable(label)}` says how far they do (found "
        f"{shown(names)}). Keep the rows that do, and leave that field out or name the two with `query_key` and "
        "`positive_key`",
    )


def repeated(names: Iterable[str]) -> str | None:
    """A name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def twice(name: str) -> BadRow:
    """The complaint about a name that occurs twice."""
    return BadRow(
        "duplicate key", f"every field must have a name of its own; `{printable(name)}` is there twice. Rename one"
    )


def printable(name: str) -> str:
    """`name` as valid text of one short line."""
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(name))
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


def shown(names: Iterable[str]) -> str:
    """`names`, some of them, for a message."""
    some = [printable(name) for name in names]
    more = f", … ({len(some)} in all)" if len(some) > SHOWN else ""
    return ", ".join(some[:SHOWN]) + more if some else "no keys"


def required(found: Layout | BadRow, label: str) -> Layout:
    """The layout of a table, which one header settles for all rows; raises InputError where there is none."""
    if isinstance(found, BadRow):
        raise InputError(f"{label}: {found.detail}.")
    return found
