"""TokenStore: a source's pairs, tokenised once and kept on disk as two Arrow files, read through memory mapping.

    pairs.arrow     token ids and texts: read where a batch needs them
    numbers.arrow   lengths and hashes: read a column at a time, over all pairs
    facts.json      what else there is to know, with the checksums of the two and of itself

One row per pair, in the order of the source.  Token ids are exactly those that
`tokenizer(texts, truncation=True, max_length=context_tokens)` gives, which is how sentence-transformers will tokenise
for the exported model.  Numbers lie apart because whoever reads a column through a mapped file gets the pages around it
too: among texts that would be the whole file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from tokenizers import Tokenizer

from isoembed.cache import used
from isoembed.core import Frozen, InputError, fingerprint, no_panic, placeless, synced
from isoembed.data.normalize import normalized, text_hash
from isoembed.data.pair import Pair
from isoembed.data.prompts import prompt_tokens
from isoembed.data.sources.base import Source
from isoembed.data.sources.files import label_of
from isoembed.data.sources.names import Fields
from isoembed.options import NO_PROMPTS, Prompts
from isoembed.scratch import scratch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: raised when the file's meaning changes, so that older stores are built anew
STORE_VERSION = 7
#: pairs tokenised at a time
BATCH_PAIRS = 1024
#: rows of one record batch of each file.  Few batches: opening one maps the pages around its head
PAIRS_ROWS, NUMBERS_ROWS = 2 * 1024, 64 * 1024

#: of a store: its two Arrow files, and what is known of them
FILES, FACTS = ("pairs.arrow", "numbers.arrow"), "facts.json"

#: numbers of rows of a store
RowNumbers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Item = TypeVar("Item")
Made = TypeVar("Made")


class DamagedStoreError(InputError):
    """A store is not what was written: the disk lost some of it, or somebody changed it."""

    def __init__(self, folder: Path, file: str) -> None:
        self.file = file
        super().__init__(
            f"A store of tokens must be as it was written; {file} in {label_of(folder)} is missing or damaged. "
            "Delete that folder; it is made again from the data."
        )


class StoreFacts(Frozen):
    """What is known of a store besides its rows."""

    source: str
    source_fingerprint: str
    tokenizer: str
    context_tokens: int
    pairs: int
    negatives: int
    skipped: dict[str, int]
    prompt_tokens: tuple[int, int] = Field((0, 0), description="of the prompt of queries, of all others")
    source_prompt_tokens: tuple[tuple[int, int], ...] = Field(
        (), description="the same of each source, where one has its own"
    )
    groups: tuple[str | None, ...] = Field(description="what the column `group` counts in; None stands for no group")
    sources: tuple[str, ...] = Field(description="what the column `source` counts in: the parts of a mixture")
    fields: tuple[Fields, ...] = Field((), description="which fields of the source's rows were read")
    wordless: int = Field(0, description="pairs of which a text has no letter and no digit")
    files: dict[str, str] = Field({}, description="checksums of the other files, by name")
    seal: str = Field("", description="checksum of all of the above")

    @model_serializer(mode="wrap")
    def _without_none(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there were prompts of sources, where there are none: stores made then are still whole."""
        return {name: value for name, value in dumped(self).items() if name != "source_prompt_tokens" or value}

    def sealed(self, folder: Path) -> Self:
        """With the checksums of the files in `folder`."""
        files = {name: checksum(folder / name) for name in FILES}
        facts = self.model_copy(update={"files": files, "seal": ""})
        return facts.model_copy(update={"seal": fingerprint(facts)})


@dataclass(frozen=True)
class TokenStore:
    """Tokenised pairs on disk; build or reuse one with `TokenStore.build`."""

    folder: Path
    facts: StoreFacts
    _batches: tuple[pa.RecordBatch, ...] = field(repr=False, compare=False)
    damage: str = field(
        default="", compare=False
    )  #: the file of an earlier one that was damaged, so that this one was made

    @classmethod
    def build(
        cls,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_tokens: int,
        folder: Path,
        prompts: Prompts = NO_PROMPTS,
    ) -> TokenStore:
        """The store of `source` under `folder`, its texts behind `prompts`; made only where there is none of the same
        content.

        Memory stays flat: some thousands of pairs are held at a time, tokenised on all cores, a batch ahead of the one
        that is written.  A store appears whole or not at all; a killed build leaves a folder `.partial-...` that the
        next one removes.  A store that is damaged is made again, and says so (`damage`).
        """
        if not tokenizer.is_fast:
            raise InputError(
                f"`tokenizer` must be a fast one (tokenizer.json); {type(tokenizer).__name__} is not. "
                "Save the model with its fast tokenizer."
            )
        own = _own_prompts(source, prompts)
        for side in {prompts.query, prompts.positive, *itertools.chain.from_iterable(own)}:
            if (count := prompt_tokens(tokenizer, side)) > context_tokens // 2:
                raise InputError(
                    f"A prompt must leave half of the context to the text; {side!r} has {count} tokens of "
                    f"{context_tokens}. Shorten it, or raise `context_tokens`."
                )
        hashed, read = tokenizer_hash(tokenizer), source.fingerprint()
        before = [prompts.query, prompts.positive, *([own] if own else [])]
        before = before if any(before) else []
        final = folder / f"tokens-{fingerprint([STORE_VERSION, read, hashed, context_tokens, *before])}"

        def make(partial: Path) -> None:
            facts = _write(source, tokenizer, context_tokens, partial, hashed, read, prompts).sealed(partial)
            (partial / FACTS).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")

        return cls.kept(final, make)

    @classmethod
    def kept(cls, final: Path, make: Callable[[Path], None]) -> Self:
        """The store at `final`; where there is none, or a damaged one, `make` fills a folder that takes its place."""
        damage = ""
        if final.exists():
            try:
                store = cls.open(final)
                used(final)
                return store
            except DamagedStoreError as error:
                damage = error.file
        with scratch(final.parent) as partial:
            make(partial)
            if damage:
                _move_away(final)
            publish(partial, final)
        return replace(cls.open(final), damage=damage)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in `folder`.  Raises DamagedStoreError where it is not, byte for byte, what was written."""
        try:
            facts = StoreFacts.model_validate_json((folder / FACTS).read_bytes())
        except (ValueError, FileNotFoundError, NotADirectoryError) as error:
            raise DamagedStoreError(folder, FACTS) from error
        if facts.seal != fingerprint(facts.model_copy(update={"seal": ""})):
            raise DamagedStoreError(folder, FACTS)
        for name in FILES:
            try:
                whole = facts.files.get(name) == checksum(folder / name)
            except FileNotFoundError:
                whole = False
            if not whole:
                raise DamagedStoreError(folder, name)
        return cls(folder, facts, _mapped(folder / "pairs.arrow"))

    def __len__(self) -> int:
        return self.facts.pairs

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers over all rows; see `_numbers_schema` for the names.

        A copy, through a mapping of its own: the pages read go with it.
        """
        return np.concatenate([batch.column(name).to_numpy() for batch in _mapped(self.folder / "numbers.arrow")])

    def kept_tokens(self, side: str) -> npt.NDArray[np.uint32]:
        """Tokens of each `query` or `positive` after truncation."""
        lengths: npt.NDArray[np.uint32] = self.column(f"{side}_length")
        return np.minimum(lengths, np.uint32(self.facts.context_tokens))

    def negatives(self, rows: npt.NDArray[np.int64]) -> tuple[list[Ids], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Token ids of all hard negatives of `rows`, one row's behind the other's, the hashes of their texts, and the
        row of each."""
        found: list[Ids] = []
        hashes, counts = [], []
        for batch, row in _located(rows, PAIRS_ROWS):
            hash_offsets, hash_values, ends, offsets, values = self._negative_views[batch]
            hashes.append(hash_values[hash_offsets[row] : hash_offsets[row + 1]])
            found += [values[offsets[text] : offsets[text + 1]] for text in range(ends[row], ends[row + 1])]
            counts.append(ends[row + 1] - ends[row])
        return found, np.concatenate([np.empty(0, np.uint64), *hashes]), np.repeat(rows, counts)

    def prompt_tokens(self, side: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many first tokens of `query` or `positive` at each of `rows` are a prompt's; a hard negative has as many
        as its row's positive."""
        place = ("query", "positive").index(side)
        if not self.facts.source_prompt_tokens:
            return np.full(len(rows), self.facts.prompt_tokens[place])
        counts = np.array(self.facts.source_prompt_tokens)[:, place]
        source = [self._source_views[batch][row] for batch, row in _located(rows, NUMBERS_ROWS)]
        return counts[np.array(source, np.int64)]

    def hashes(self, side: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Hashes of the normalised texts of `query` or `positive` at `rows`: equal hash, same text."""
        views = self._hash_views[side]
        return np.array([views[batch][row] for batch, row in _located(rows, NUMBERS_ROWS)], np.uint64)

    def ids(self, side: str, rows: npt.NDArray[np.int64]) -> list[Ids]:
        """Token ids of `query` or `positive` at `rows`: views of the file, not copies."""
        views, found = self._views[side], []
        for batch, row in _located(rows, PAIRS_ROWS):
            values, offsets = views[batch]
            found.append(values[offsets[row] : offsets[row + 1]])
        return found

    def texts(self, side: str, rows: npt.NDArray[np.int64]) -> list[str]:
        """Texts of `query` or `positive` at `rows`."""
        return [self._batches[batch].column(f"{side}_text")[row].as_py() for batch, row in _located(rows, PAIRS_ROWS)]

    @cached_property
    def _views(self) -> dict[str, list[tuple[Ids, npt.NDArray[np.int32]]]]:
        """A side's (values, offsets) of each batch, as numpy views of the mapped file."""
        views: dict[str, list[tuple[Ids, npt.NDArray[np.int32]]]] = {}
        for side in ("query", "positive"):
            columns = [batch.column(f"{side}_ids") for batch in self._batches]
            views[side] = [(column.values.to_numpy(), column.offsets.to_numpy()) for column in columns]
        return views

    @cached_property
    def _hash_views(self) -> dict[str, list[npt.NDArray[np.uint64]]]:
        """A side's hashes in each batch of numbers, as numpy views of the mapped file."""
        batches = _mapped(self.folder / "numbers.arrow")
        return {side: [batch.column(f"{side}_hash").to_numpy() for batch in batches] for side in ("query", "positive")}

    @cached_property
    def _source_views(self) -> list[npt.NDArray[np.uint32]]:
        """The sources in each batch of numbers, as numpy views of the mapped file."""
        return [batch.column("source").to_numpy() for batch in _mapped(self.folder / "numbers.arrow")]

    @cached_property
    def _negative_views(self) -> list[tuple[npt.NDArray[Any], ...]]:
        """Of each batch: where a row's hashes begin, the hashes, where a row's texts begin, where a text's ids begin,
        the ids."""
        views = []
        for batch in self._batches:
            ids, hashes = batch.column("negative_ids"), batch.column("negative_hash")
            parts = (hashes.offsets, hashes.values, ids.offsets, ids.values.offsets, ids.values.values)
            views.append(tuple(part.to_numpy() for part in parts))
        return views


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over vocabulary, rules and special tokens; padding and truncation are settings of a call."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.pop("padding", None)
    rules.pop("truncation", None)
    return fingerprint([rules, tokenizer.truncation_side, tokenizer.split_special_tokens])


def _located(rows: npt.NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """(batch, row within it) of each row; every batch but the last has `size` rows."""
    return zip((rows // size).tolist(), (rows % size).tolist(), strict=True)


def _mapped(file: Path) -> tuple[pa.RecordBatch, ...]:
    reader = pa.ipc.open_file(pa.memory_map(os.fsencode(file)))
    return tuple(reader.get_batch(index) for index in range(reader.num_record_batches))


def _pairs_schema(id_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        {
            "query_ids": pa.list_(id_type),
            "positive_ids": pa.list_(id_type),
            "negative_ids": pa.list_(pa.list_(id_type)),  # a row's hard negatives, those with tokens
            "negative_hash": pa.list_(pa.uint64()),
            "query_text": pa.string(),
            "positive_text": pa.string(),
        }
    )


def _numbers_schema() -> pa.Schema:
    return pa.schema(
        {
            "query_length": pa.uint32(),  # tokens before truncation
            "positive_length": pa.uint32(),
            "query_hash": pa.uint64(),  # of the normalised text
            "positive_hash": pa.uint64(),
            "pair_hash": pa.uint64(),  # of both texts as they are: the row's identity, whatever its place
            "group": pa.uint32(),  # index into facts.groups
            "source": pa.uint32(),  # index into facts.sources
            "negative_count": pa.uint32(),  # hard negatives
            "negative_tokens": pa.uint32(),  # of all of them, after truncation
            "negatives_hash": pa.uint64(),  # of all of them together
        }
    )


class _RowWriter:
    """What is on its way into an Arrow file; see `_arrow_file`."""

    def __init__(self, writer: pa.RecordBatchFileWriter, schema: pa.Schema, size: int) -> None:
        self._writer, self._schema, self._size = writer, schema, size
        self._held: list[pa.RecordBatch] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write what fills a batch; keys beyond the schema are left out."""
        self._held.append(pa.RecordBatch.from_pylist(rows, self._schema))
        while sum(map(len, self._held)) >= self._size:
            whole = pa.concat_batches(self._held)
            self._writer.write_batch(whole.slice(0, self._size))
            # an empty slice would keep all of it in memory
            self._held = [whole.slice(self._size)] if len(whole) > self._size else []

    def end(self) -> None:
        """Write the rest."""
        if sum(map(len, self._held)):
            self._writer.write_batch(pa.concat_batches(self._held))


@contextlib.contextmanager
def _arrow_file(file: Path, schema: pa.Schema, size: int) -> Iterator[_RowWriter]:
    """Write `file` in batches of `size` rows each, the last one apart: readers find a row by its number."""
    with pa.OSFile(os.fsencode(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        rows = _RowWriter(writer, schema, size)
        yield rows
        rows.end()


def _write(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    context_tokens: int,
    folder: Path,
    hashed: str,
    read: str,
    prompts: Prompts,
) -> StoreFacts:
    """Stream the source into the two files of `folder`."""
    id_type = pa.uint16() if len(tokenizer) <= 1 << 16 else pa.uint32()
    groups: dict[str | None, int] = {}
    pairs = negatives = empty = wordless = 0
    with (
        _arrow_file(folder / "pairs.arrow", _pairs_schema(id_type), PAIRS_ROWS) as texts,
        _arrow_file(folder / "numbers.arrow", _numbers_schema(), NUMBERS_ROWS) as numbers,
    ):
        own = _own_prompts(source, prompts)
        encode = _Encode(tokenizer, context_tokens, own or [(prompts.query, prompts.positive)] * len(source.sources))
        for batch, encoded in _ahead(encode, _batched(source, BATCH_PAIRS)):
            rows = []
            for pair, row in zip(batch, _rows(batch, encoded), strict=True):
                if row["query_ids"] and row["positive_ids"]:
                    row["group"] = groups.setdefault(pair.group, len(groups))
                    rows.append(row)
            pairs, empty = pairs + len(rows), empty + len(batch) - len(rows)
            negatives += sum(row["negative_count"] > 0 for row in rows)
            wordless += sum(not (_has_words(row["query_text"]) and _has_words(row["positive_text"])) for row in rows)
            texts.add(rows)
            numbers.add(rows)
    if not pairs:
        raise InputError(f"A pair must have tokens on both sides; none of {source.label} has. Check the tokenizer.")
    return StoreFacts(
        source=placeless(source.label),
        source_fingerprint=read,
        tokenizer=hashed,
        context_tokens=context_tokens,
        pairs=pairs,
        negatives=negatives,
        skipped={**source.skipped, **({"no tokens": empty} if empty else {})},
        prompt_tokens=(prompt_tokens(tokenizer, prompts.query), prompt_tokens(tokenizer, prompts.positive)),
        source_prompt_tokens=tuple(
            (prompt_tokens(tokenizer, before), prompt_tokens(tokenizer, behind)) for before, behind in own
        ),
        groups=tuple(groups),
        sources=source.sources,
        fields=source.fields,
        wordless=wordless,
    )


def _own_prompts(source: Source, prompts: Prompts) -> list[tuple[str, str]]:
    """The prompts of queries and of all other texts of each source; empty where none has its own."""
    found = [prompts.of_source(name) for name in source.sources]
    sides = [(each.query, each.positive) for each in found]
    return sides if any(side != (prompts.query, prompts.positive) for side in sides) else []


def _has_words(text: str) -> bool:
    """Whether `text` has a letter or a digit of any script."""
    return any(map(str.isalnum, text))


#: (ids, tokens before truncation)
Tokens = tuple[list[int], int]


class _Encode:
    """Tokenises queries, positives and hard negatives of a batch behind the prompts of their sources.

    With a tokenizer of its own, so that another thread may use the user's; what `tokenizer(...)` adds to it is left
    out (offsets, masks: a third of the time), its ids are the same.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context_tokens: int, prompts: Sequence[tuple[str, str]]
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context_tokens, direction=tokenizer.truncation_side)
        self._tokenizer.encode_special_tokens = tokenizer.split_special_tokens
        self._context_tokens, self._prompts = context_tokens, prompts

    def __call__(self, pairs: list[Pair]) -> tuple[list[Tokens], list[Tokens], list[Tokens]]:
        prompts = [self._prompts[pair.source] for pair in pairs]
        along = list(zip(pairs, prompts, strict=True))
        return (
            self._tokens([before + pair.query for pair, (before, _) in along]),
            self._tokens([behind + pair.positive for pair, (_, behind) in along]),
            self._tokens([behind + text for pair, (_, behind) in along for text in pair.negatives]),
        )

    def _tokens(self, texts: list[str]) -> list[Tokens]:
        """What truncation cut off is kept beside as further encodings, each with its own special tokens."""
        found = []
        with no_panic("The tokenizer"):
            encodings = self._tokenizer.encode_batch_fast(texts)
        for encoding in encodings:
            ids = encoding.ids
            length = len(ids)
            if length >= self._context_tokens:
                length += sum(rest.special_tokens_mask.count(0) for rest in encoding.overflowing)
            found.append((ids, length))
        return found


def _rows(pairs: list[Pair], encoded: tuple[list[Tokens], list[Tokens], list[Tokens]]) -> Iterator[dict[str, Any]]:
    """The pairs as rows of the store, but for the group."""
    query, positive, others = encoded
    negative = iter(others)
    for pair, (query_ids, query_length), (positive_ids, positive_length) in zip(pairs, query, positive, strict=True):
        own = itertools.islice(negative, len(pair.negatives))
        negatives = [(text, ids) for text, (ids, _) in zip(pair.negatives, own, strict=True) if ids]
        yield {
            "query_ids": query_ids,
            "positive_ids": positive_ids,
            "query_length": query_length,
            "positive_length": positive_length,
            "query_hash": text_hash(normalized(pair.query)),
            "positive_hash": text_hash(normalized(pair.positive)),
            "pair_hash": text_hash(f"{pair.query}\0{pair.positive}"),
            "negative_ids": [ids for _, ids in negatives],
            "negative_count": len(negatives),
            "negative_tokens": sum(len(ids) for _, ids in negatives),
            "negatives_hash": text_hash("\0".join(text for text, _ in negatives)),
            "source": pair.source,
            "negative_hash": [text_hash(normalized(text)) for text, _ in negatives],
            "query_text": pair.query,
            "positive_text": pair.positive,
        }


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
    """Each item and what is made of it, the next one being made in another thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[tuple[Item, Future[Made]]] = deque()
        for item in items:
            waiting.append((item, thread.submit(make, item)))
            if len(waiting) > 1:
                before, made = waiting.popleft()
                yield before, made.result()
        for item, made in waiting:
            yield item, made.result()


def _batched(source: Source, size: int) -> Iterator[list[Pair]]:
    pairs = iter(source)
    while batch := list(itertools.islice(pairs, size)):
        yield batch


def publish(partial: Path, final: Path) -> None:
    """Give the finished store its name, once its files are on the disk; where somebody else was faster, theirs stands
    (it has the same content)."""
    for file in partial.iterdir():
        synced(file)
    synced(partial)
    try:
        partial.rename(final)
    except OSError:
        if not final.is_dir():
            raise
    synced(final.parent)


def _move_away(final: Path) -> None:
    """Delete the damaged store at `final`; a good one that somebody else has put there meanwhile stays."""
    with scratch(final.parent) as place, contextlib.suppress(FileNotFoundError, DamagedStoreError):
        aside = place / final.name
        final.rename(aside)
        TokenStore.open(aside)
        aside.rename(final)


def checksum(file: Path) -> str:
    """XXH3 of the file's bytes, which are read and not mapped: no memory is kept.  It guards against disks, not against
    people, and reads 3 GB/s where BLAKE2b reads .2."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
