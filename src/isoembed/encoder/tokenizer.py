"""The tokenizer of a base model, in the one form in which it is read, saved and read again alike."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from isoembed.core import InputError, no_panic
from isoembed.encoder.config import SIZES, load_config, resolve, unreadable
from isoembed.families.nano import NANO
from isoembed.hub import hub_or_cache

_LOG = logging.getLogger(__name__)


def load_tokenizer(source: str, *, pooling: str = "mean", rows: int | None = None) -> PreTrainedTokenizerFast:
    """The fast tokenizer at `source`: pads on the right, has a padding token (end-of-text where it had none).

    For `last` pooling every text ends in a special token, put there after truncation, so that the vector is always read
    at the same token: the one in which its template ends, else the end-of-text token.  The saved tokenizer does the
    same.

    It gives no id beyond the model's token table, which has as many rows as its config.json says, or `rows` where it is
    grown: padding is moved into it, other special tokens beyond it are taken out (what spells one is then plain text).
    Raises InputError where any other token lies beyond it, or there is no such tokenizer.
    """
    with _readable(source):
        tokenizer = _within(_fast(source), _rows(source) if rows is None else rows, source)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if tokenizer.eos_token is None and (pooling == "last" or tokenizer.pad_token is None):
            raise InputError(
                f"The tokenizer of {source!r} must have an end-of-text token; set `eos_token` in its "
                "tokenizer_config.json."
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if pooling == "last":
            _end_every_text(tokenizer)
        tokenizer(["a", ""])  # what cannot encode is refused now
    return tokenizer


def missing_rows(source: str) -> int:
    """How many rows the token table of the model at `source` lacks, so that each of its tokenizer's tokens has one."""
    with _readable(source):
        tokens, rows = 1 + max(_fast(source).get_vocab().values(), default=0), _rows(source)
    if tokens > SIZES["vocab_size"]:
        raise InputError(
            f"No token table is grown beyond {SIZES['vocab_size']:,} rows; the tokenizer of {source!r} has a token "
            f"{tokens - 1:,}. Correct its tokenizer.json."
        )
    return 0 if rows is None else max(0, tokens - rows)


def _fast(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer at `source` as it is."""
    # the nano models share one, which lies beside the smallest
    place = resolve(NANO.models[0].source if source.startswith("nano/") else source)
    with hub_or_cache(place):
        read = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if not isinstance(read, PreTrainedTokenizerFast):
        raise InputError(f"The tokenizer of {source!r} must be a fast one; add its tokenizer.json to the folder.")
    return plain(read)


def plain(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer | None = None) -> PreTrainedTokenizerFast:
    """A copy of `tokenizer` that is its backend (or `backend`) and nothing else.

    Classes named after models (GPTNeoXTokenizer, CodeLlamaTokenizer, ...) build parts of the backend anew when they are
    read: a template in tokenizer.json is then lost (transformers' issue 47988).
    """
    backend = backend or tokenizer.backend_tokenizer
    known = backend.get_vocab(with_added_tokens=True)
    named: dict[str, Any] = {
        name: token
        for name in PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES
        if isinstance(token := tokenizer.special_tokens_map.get(name), str) and token in known
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        split_special_tokens=tokenizer.split_special_tokens,
        chat_template=tokenizer.chat_template,
        extra_special_tokens=[str(token) for token in tokenizer.extra_special_tokens if str(token) in known],
        **named,
    )


@contextmanager
def _readable(source: str) -> Iterator[None]:
    with no_panic(f"The tokenizer of {source!r}"):
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever it raises: its files are read by two libraries
            raise unreadable("tokenizer", source, error) from None


def _rows(source: str) -> int | None:
    """How many tokens the model's table holds; None for a folder with a tokenizer alone."""
    folder = Path(resolve(source))
    if folder.is_dir() and not (folder / "config.json").is_file():
        return None
    rows: int = load_config(source).vocab_size
    return rows


def _within(tokenizer: PreTrainedTokenizerFast, rows: int | None, source: str) -> PreTrainedTokenizerFast:
    """`tokenizer` without a token beyond the first `rows`."""
    backend = tokenizer.backend_tokenizer
    known = backend.get_vocab(with_added_tokens=True)
    beyond = {token for token, index in known.items() if rows is not None and index >= rows}
    if not beyond:
        return tokenizer
    rules = json.loads(backend.to_str())
    added = {each["content"] for each in rules["added_tokens"] if each["special"]} - set(rules["model"]["vocab"])
    encoding, places = _around(tokenizer)
    around = beyond & {encoding.tokens[place] for place in places}
    needed = sorted((beyond - added) | around, key=lambda token: known[token])
    if needed:
        some = ", ".join(f"{token!r} is {known[token]}" for token in needed[:3])
        raise InputError(
            f"Every token must have a row in the model's token table; that of {source!r} has {rows:,} rows, and "
            f"{len(needed):,} of its tokenizer's tokens lie beyond ({some}). Let the table grow "
            "in training (`resize_embeddings`), or fetch the tokenizer that belongs to it."
        )
    _LOG.warning(
        "The tokenizer of %r has special tokens beyond the %s rows of the model's token table (%s): they are taken "
        "out, and a text that spells one is read as plain text (`resize_embeddings` gives them rows).",
        source,
        f"{rows:,}",
        ", ".join(sorted(beyond - {tokenizer.pad_token})[:3]) or "its padding",
    )
    rules["added_tokens"] = [each for each in rules["added_tokens"] if each["content"] not in beyond]
    rules["padding"] = None
    return plain(tokenizer, Tokenizer.from_str(json.dumps(rules)))


def _around(tokenizer: PreTrainedTokenizerFast) -> tuple[Encoding, list[int]]:
    """A text of at least a token, encoded, and the places of the special tokens around it."""
    backend = tokenizer.backend_tokenizer
    texts = ("a", *itertools.islice(backend.get_vocab(), 20))  # some vocabularies know no "a"
    encodings = [backend.encode(text) for text in texts]
    encoding = next((each for each in encodings if 0 in each.special_tokens_mask), encodings[0])
    return encoding, [place for place, flag in enumerate(encoding.special_tokens_mask) if flag]


def _end_every_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the tokenizer's template, which is filled in after truncation, end in a special token: the one it already
    ends in, whatever that is (Qwen3-Embedding's is not its end-of-text token), else the end-of-text token.

    One new template with what the old one put around a text: two in sequence do not compose.
    """
    encoding, places = _around(tokenizer)
    if places and places[-1] == len(encoding) - 1:
        return
    names = [*(encoding.tokens[place] for place in places), tokenizer.eos_token]
    ids = [*(encoding.ids[place] for place in places), tokenizer.eos_token_id]
    start = len(places)  # none stands behind the text
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*names[:start], "$A", *names[start:]], special_tokens=sorted(set(zip(names, ids, strict=True)))
    )
