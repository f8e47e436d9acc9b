"""A tokenizer cut down to some of its tokens, so that a text of these alone is split as before.

1. Byte-pair encoding takes the earliest rule that applies, again and again.  A token is therefore always built by the
   same rules, whatever stands beside it: with each kept token the parts it is built from stay, and every rule whose
   parts and product all stay.  Of fewer rules the earliest that applies is the same one wherever it stayed.
2. Unigram takes the split of the highest score.  Of fewer splits the best one is the same where it stayed.  The score
   of an unknown character goes by the lowest in the vocabulary, so that token stays.
3. Every token of one character or one byte stays, and every added token: what no longer has a token of its own is
   spelled by shorter ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer

from isoembed.core import InputError

#: a byte as tokenizers with byte fallback spell it
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def trimmed(tokenizer: Tokenizer, used: Iterable[int]) -> tuple[Tokenizer, list[int]]:
    """`tokenizer` with the tokens `used` and those they need, renumbered in the old order; and the old id of each.

    Raises InputError for another kind than byte-level or byte-fallback BPE and Unigram, and where the library numbers
    the tokens that are left in another way.
    """
    rules = json.loads(tokenizer.to_str())
    model, old = rules["model"], tokenizer.get_vocab(with_added_tokens=True)
    _check_kind(rules)
    names = {index: token for token, index in old.items()}
    kept = {names[index] for index in used} | {each["content"] for each in rules["added_tokens"]}
    kept |= {token for token in old if len(token) == 1 or _BYTE.fullmatch(token)}
    kept |= set(_around(rules["post_processor"]))
    if model["type"] == "BPE":
        kept |= {model["unk_token"]} & set(old)
        rank = {(left, right): place for place, (left, right) in enumerate(model["merges"])}
        for token in sorted(kept & model["vocab"].keys()):
            kept.update(part for part in _built(token, rank) if part in old)
    else:
        kept.add(min(model["vocab"], key=lambda entry: entry[1])[0])
        if model["unk_id"] is not None:
            kept.add(model["vocab"][model["unk_id"]][0])
    order = sorted(kept, key=lambda token: old[token])
    new = {token: place for place, token in enumerate(order)}
    _renumber(rules, new)
    found = Tokenizer.from_str(json.dumps(rules))
    if found.get_vocab(with_added_tokens=True) != new:
        raise InputError(
            "A vocabulary can be trimmed where added tokens come after all others or are among them; those of this "
            "tokenizer are numbered otherwise. Leave it whole."
        )
    return found, [old[token] for token in order]


def _check_kind(rules: dict[str, Any]) -> None:
    model = rules["model"]
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    bytewise = model.get("byte_fallback") or '"ByteLevel"' in json.dumps(rules["pre_tokenizer"])
    if model["type"] == "Unigram" or (model["type"] == "BPE" and bytewise and not affixes):
        return
    raise InputError(
        f"A vocabulary can be trimmed where it is byte-level BPE or Unigram; this is {model['type']}"
        f"{' without bytes' if model['type'] == 'BPE' else ''}. Leave it whole."
    )


def _built(token: str, rank: dict[tuple[str, str], int]) -> Iterator[str]:
    """The tokens that byte-pair encoding makes on its way from the characters of `token` to `token`, these included."""
    parts = list(token)
    yield from parts
    while len(parts) > 1:
        place = min(range(len(parts) - 1), key=lambda at: rank.get((parts[at], parts[at + 1]), len(rank)))
        if (parts[place], parts[place + 1]) not in rank:
            return
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
        yield parts[place]


def _around(processor: dict[str, Any] | None) -> Iterator[str]:
    """The tokens that a post-processor puts around a text."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        yield from _around(part)
    for special in processor.get("special_tokens", {}).values():
        yield from special["tokens"]
    yield from (processor[name][0] for name in ("cls", "sep") if name in processor)


def _renumber(rules: dict[str, Any], new: dict[str, int]) -> None:
    """Leave the tokens of `new` alone in `rules`, under these ids, in place."""
    model = rules["model"]
    rules["padding"] = rules["truncation"] = None
    if model["type"] == "BPE":
        model["vocab"] = {token: index for token, index in new.items() if token in model["vocab"]}
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= new.keys()]
    else:
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        model["unk_id"] = None if unknown is None else new[unknown]
    for added in rules["added_tokens"]:
        added["id"] = new[added["content"]]
    _renumber_around(rules["post_processor"], new)


def _renumber_around(processor: dict[str, Any] | None, new: dict[str, int]) -> None:
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber_around(part, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new[token] for token in special["tokens"]]
    for name in ("cls", "sep"):
        if name in processor:
            processor[name] = [processor[name][0], new[processor[name][0]]]
