"""What a model is, stated from memory before it is written, so that whoever opens its folder can compare: tensors,
token ids, vectors.

Shape legend: N texts, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from isoembed.core import Frozen, InputError
from isoembed.data.prompts import prompt_tokens
from isoembed.encoder.checks import of_pooler
from isoembed.encoder.embed import tokenize
from isoembed.encoder.encoder import base_of
from isoembed.encoder.exported import context_of, prompts_of
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods.parts import blocks_of
from isoembed.options import Prompts
from isoembed.recipe import PoolingName, Recipe

if TYPE_CHECKING:
    from isoembed.encoder.embedder import Embedder

Side = Literal["query", "document"]

#: what is compared: short, of several scripts, with spaces at odd places; a long one is put beside them
TEXTS = ("", "a", "What is 12.5% of 80?", " Füße, 東京 und\n\tkein Ende… 🙂 ", "def f(x):\n    return x[-1]")
#: tokens of the base's vocabulary that stand in a text of its own
_WORDS = 200
_LONG = "the quick brown fox jumps over the lazy dog, "
#: tokens of the longest text whose vector is compared; ids are compared up to the context
_VECTOR_TOKENS = 64
#: dimensions of a vector that are written down
_SHOWN = 64
#: the longest difference of unit vectors between equal weights: in fp32 on the CPU, and in any other precision or place
_NEAR, _NEAR_ROUNDED = 1e-5, 0.1


class Probe(Frozen):
    """One text as the model reads it."""

    text: str
    times: int = 1  #: how often the text stands there, one behind the other
    side: Side
    tokens: int
    ends: tuple[int, ...]  #: the first two and the last two token ids
    digest: str  #: of all of them
    vector: tuple[float, ...] | None  #: the first dimensions of the embedding; None where no token is pooled

    def __str__(self) -> str:
        ids = list(map(str, self.ends))
        if self.tokens > len(ids):
            ids.insert(2, "...")
        return f"[{', '.join(ids)}]"


class Reading(Frozen):
    """How a model reads texts."""

    blocks: int
    context_tokens: int
    prompts: Prompts
    pooling: PoolingName
    dimensions: int | None = None  #: by a learned projection; None: without one

    @classmethod
    def of(cls, recipe: Recipe) -> Reading:
        """As `recipe` trains it."""
        return cls(
            blocks=recipe.model.blocks,
            context_tokens=recipe.context_tokens,
            prompts=recipe.options.prompts,
            pooling=recipe.pooling,
            dimensions=recipe.options.dimensions,
        )


class Statement(Reading):
    """What the model in memory was."""

    tensors: dict[str, str]  #: the fingerprint of each of the transformer, by name
    projection: str | None = None  #: that of the learned projection
    words: str | None = None  #: the digest of how every token's text is read; None in older ones
    adapter: str | None = None  #: the digest of the adapter's files; None where none is kept
    run: str | None = None  #: the key of the recipe whose record is written beside it
    tolerance: float  #: the longest difference between vectors in memory and as written
    probes: tuple[Probe, ...]


class Reader(Protocol):
    """What turns texts into token ids and vectors, in memory or from a folder."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def prompts(self) -> Prompts: ...

    def embed(self, texts: Sequence[str], side: Side) -> np.ndarray:
        """Embeddings (N, D), of the first `_VECTOR_TOKENS` tokens of each text."""


class Remembered:
    """The model in memory."""

    def __init__(self, embedder: Embedder) -> None:
        self.tokenizer = embedder.tokenizer
        self.context_tokens = embedder.context_tokens
        self.prompts = embedder.encoder.prompts
        self._short = replace(embedder, context_tokens=min(embedder.context_tokens, _VECTOR_TOKENS))

    def embed(self, texts: Sequence[str], side: Side) -> np.ndarray:
        return self._short.embed(texts, side)


class Written:
    """A SentenceTransformer, read from a folder."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tokenizer: PreTrainedTokenizerBase = model.tokenizer
        self.context_tokens = context_of(model)
        self.prompts = prompts_of(model)

    def ids(self, text: str) -> list[int]:
        """The tokens of `text` as sentence-transformers reads it."""
        read = self.model.preprocess([text])
        mask = read["attention_mask"][0].bool()
        found: list[int] = read["input_ids"][0][mask].long().tolist()
        return found

    def embed(self, texts: Sequence[str], side: Side) -> np.ndarray:
        whole, self.model.max_seq_length = self.model.max_seq_length, min(self.context_tokens, _VECTOR_TOKENS)
        try:
            encode = self.model.encode_query if side == "query" else self.model.encode_document
            found: np.ndarray = encode(list(texts), show_progress_bar=False)
        finally:
            self.model.max_seq_length = whole
        return found


def state(embedder: Embedder, tensors: Mapping[str, Fingerprint], adapter: Path | None = None) -> Statement:
    """What `embedder` is; `tensors` are what is written of it, and `adapter` is where its adapter was kept."""
    weights = embedder.encoder.parameters()
    exact = embedder.precision == "fp32" and all(
        value.dtype == torch.float32 and value.device.type == "cpu" for value in weights
    )
    dense = embedder.encoder.dense
    return Statement(
        blocks=len(blocks_of(base_of(embedder.encoder.model))),
        context_tokens=embedder.context_tokens,
        prompts=embedder.encoder.prompts,
        pooling=embedder.encoder.pooling,
        dimensions=None if dense is None else dense.out_features,
        tensors={name: str(tensor) for name, tensor in tensors.items()},
        projection=None if dense is None else str(Fingerprint.of(dense.weight)),
        words=words_digest(embedder.tokenizer),
        adapter=None if adapter is None else adapter_digest(adapter),
        tolerance=_NEAR if exact else _NEAR_ROUNDED,
        probes=probed(Remembered(embedder)),
    )


class Fingerprint(NamedTuple):
    """What a tensor is: its shape, and 16 hex digits of its SHA-256."""

    shape: tuple[int, ...]
    digest: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Fingerprint:
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return cls(tuple(tensor.shape), hashlib.sha256(str(tensor.dtype).encode() + content).hexdigest()[:16])

    @classmethod
    def of_zeros(cls, shape: tuple[int, ...]) -> Fingerprint:
        """That of a bias or a norm of zeros in fp32; of a larger tensor that of none, which is no fault seen."""
        return cls.of(torch.zeros(shape if len(shape) == 1 else 0))

    def __str__(self) -> str:
        """As a certificate has it, `24x96 0123456789abcdef`."""
        return f"{'x'.join(map(str, self.shape))} {self.digest}"


def fingerprints(model: nn.Module) -> dict[str, Fingerprint]:
    """Each tensor of `model`'s state by name, but for a pooler's."""
    return {name: Fingerprint.of(value) for name, value in model.state_dict().items() if not of_pooler(name)}


def probed(reader: Reader) -> tuple[Probe, ...]:
    """The texts as `reader` reads them, on both sides."""
    return (*_probed(reader, "query"), *_probed(reader, "document"))


def _probed(reader: Reader, side: Side) -> list[Probe]:
    prompt = reader.prompts.query if side == "query" else reader.prompts.positive
    asked = [*((text, 1) for text in TEXTS), (_LONG, reader.context_tokens // 8 + 1)]
    texts = [text * times for text, times in asked]
    rows = tokenize(reader.tokenizer, [prompt + text for text in texts], context_tokens=reader.context_tokens)
    # no vector is right for a text without a token to pool
    passed = 0 if reader.prompts.pooled else prompt_tokens(reader.tokenizer, prompt)
    pooled = [place for place, row in enumerate(rows) if min(len(row), _VECTOR_TOKENS) > passed]
    vectors_ND = reader.embed([texts[place] for place in pooled], side)
    if not np.isfinite(vectors_ND).all():
        raise InputError("Every vector must be of finite numbers; the model's are not. Train it anew at a lower rate.")
    vectors = dict(zip(pooled, vectors_ND[:, :_SHOWN].tolist(), strict=True))
    return [
        Probe(
            text=text,
            times=times,
            side=side,
            tokens=len(row),
            ends=tuple(row.tolist() if len(row) <= 4 else [*row[:2].tolist(), *row[-2:].tolist()]),
            digest=hashlib.sha256(row.tobytes()).hexdigest()[:16],
            vector=None if place not in vectors else tuple(round(value, 7) for value in vectors[place]),
        )
        for place, ((text, times), row) in enumerate(zip(asked, rows, strict=True))
    ]


def ids_apart(stated: Sequence[Probe], found: Sequence[Probe]) -> str | None:
    """The first text whose token ids differ; None where all are the same."""
    if [(each.text, each.times, each.side) for each in stated] != [
        (each.text, each.times, each.side) for each in found
    ]:
        return "the certificate speaks of other texts"
    for ours, theirs in zip(stated, found, strict=True):
        if ours.digest != theirs.digest:
            return f"{ours.text[:40]!r} is read as tokens {theirs}, not {ours}"
    return None


def vectors_apart(stated: Sequence[Probe], found: Sequence[Probe]) -> dict[Side, float]:
    """The longest difference between the vectors of a text, by side."""
    longest: dict[Side, float] = {"query": 0.0, "document": 0.0}
    for ours, theirs in zip(stated, found, strict=False):
        if ours.vector is not None and theirs.vector is not None and len(theirs.vector) == len(ours.vector):
            apart = float(np.linalg.norm(np.subtract(ours.vector, theirs.vector)))
        else:
            apart = 0.0 if ours.vector is theirs.vector is None else np.inf
        longest[ours.side] = max(longest[ours.side], apart)
    return longest


#: an adapter's weights and its settings, as peft names them
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")


def adapter_digest(folder: Path) -> str:
    """16 hex digits over an adapter's weights and its settings."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def words_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over the text of every token, and the tokens that it is read as."""
    texts = _words(tokenizer)
    return hashlib.sha256(json.dumps([texts, _read(tokenizer, texts)]).encode()).hexdigest()[:16]


def words_apart(found: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> str | None:
    """The first token of `base` whose text `found` reads as other tokens; None where all are the same."""
    texts = _words(base)
    for text, ours, theirs in zip(texts, _read(base, texts), _read(found, texts), strict=True):
        if ours != theirs:
            return f"{text!r} is read as tokens {theirs[:4]}, not {ours[:4]}"
    return None


def _words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(tokenizer.decode([index])) for index in sorted(tokenizer.get_vocab().values())]


def _read(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    told = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, **told)["input_ids"]
    return found


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer that `recipe` trains with.  Raises InputError where it cannot be read."""
    rows = recipe.model.vocab if recipe.options.resize_embeddings else None
    return load_tokenizer(recipe.model.source, pooling=recipe.pooling, rows=rows)


def base_ids_apart(written: Written, base: PreTrainedTokenizerBase, context_tokens: int) -> str | None:
    """The first text of which the model in a folder reads other tokens than it was trained with, those of `base` up to
    the context; None where all are the same."""
    names = sorted(base.get_vocab().values())[:_WORDS]
    known = f"{base.decode(names, skip_special_tokens=True)} "  # in which no two tokens in a row are the same
    texts = [*TEXTS, known, known * (1 + 2 * context_tokens // max(1, len(known.split())))]
    for text, row in zip(texts, tokenize(base, texts, context_tokens=context_tokens), strict=True):
        ours, theirs = row.tolist(), written.ids(text)
        if ours != theirs:
            place = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            where = (
                f"{len(theirs)} tokens, not {len(ours)}"
                if place is None
                else f"token {theirs[place]} at place {place + 1} of {len(theirs)}, not {ours[place]}"
            )
            return f"{text[:40]!r} is read as {where}"
    return None
