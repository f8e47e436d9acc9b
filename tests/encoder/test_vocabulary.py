"""A trimmed tokenizer splits what it kept as before, and spells the rest."""

import json
import random
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from isoembed.core import InputError
from isoembed.encoder.vocabulary import trimmed

_DRAW = random.Random(0)
_SYLLABLES = ("ka", "to", "mi", "re", "su", "lo", "nent", "ing", "über", "語")
WORDS = ["".join(_DRAW.choices(_SYLLABLES, k=_DRAW.randint(1, 4))) for _ in range(120)]
TEXTS = [" ".join(_DRAW.choices(WORDS, k=5)) for _ in range(200)]
UNSEEN = ["Zwölf Boxkämpfer", "🤖\x00\n", "", "<end>", "quick brown fox"]


def bytewise() -> Tokenizer:
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet)
    )
    found.add_special_tokens(["<late>"])
    found.post_processor = processors.TemplateProcessing(
        single="$A <late>", special_tokens=[("<late>", found.token_to_id("<late>"))]
    )
    return found


def unigram() -> Tokenizer:
    found = Tokenizer(models.Unigram())
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    found.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=200, special_tokens=["<pad>", "<end>", "<unk>"], unk_token="<unk>")
    )
    found.post_processor = processors.BertProcessing(("<end>", 1), ("<pad>", 0))
    return found


@pytest.mark.parametrize("make", [bytewise, unigram])
def test_texts_of_kept_tokens_are_split_as_before_and_others_spelled(make: Callable[[], Tokenizer]) -> None:
    """Fails where a token stays without the parts it is built from, or a template keeps its old ids."""
    whole = make()
    used = {index for text in TEXTS[:10] for index in whole.encode(text).ids}
    smaller, kept = trimmed(whole, used)
    assert len(kept) < 0.9 * whole.get_vocab_size()
    tried = 0
    for text in TEXTS:
        was = whole.encode(text).ids
        if set(was) <= set(kept):
            assert [kept[index] for index in smaller.encode(text).ids] == was
            tried += 1
    assert tried > 12
    for text in UNSEEN:
        assert max(smaller.encode(text).ids, default=0) < len(kept)
        assert smaller.decode(smaller.encode(text).ids) == whole.decode(whole.encode(text).ids)


def test_what_a_token_is_built_from_stays() -> None:
    """Of the rules those whose parts and product stay; `abc` is built by way of `bc`, which no text may use."""
    vocab = {token: index for index, token in enumerate(["a", "b", "c", "bc", "abc", "ab"])}
    found = Tokenizer(models.BPE(vocab, [("b", "c"), ("a", "bc"), ("a", "b")]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    smaller, kept = trimmed(found, [4])
    assert (kept, json.loads(smaller.to_str())["model"]["merges"]) == ([0, 1, 2, 3, 4], [["b", "c"], ["a", "bc"]])
    assert smaller.encode("ab").tokens == ["a", "b"]


def test_the_score_of_an_unknown_character_stays() -> None:
    """It is ten below the lowest of the vocabulary: with `low` gone, `?bcd` would be read as unknown and `bcd`."""
    pieces = [("<unk>", 0.0), ("low", -15.0), ("?b", -12.0), ("cd", -12.0), ("bcd", -1.0), ("b", -13.0)]
    found = Tokenizer(models.Unigram(pieces, unk_id=0))
    assert found.encode("?bcd").tokens == ["?b", "cd"]
    smaller, _ = trimmed(found, [2, 3, 4])
    assert smaller.encode("?bcd").tokens == ["?b", "cd"]


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0}, unk_token="a"),
        models.WordPiece({"a": 0}, unk_token="a"),
        models.BPE({"a": 0}, []),
        models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>", byte_fallback=True),
    ],
)
def test_other_kinds_are_refused(model: models.Model) -> None:
    with pytest.raises(InputError, match="byte-level BPE or Unigram"):
        trimmed(Tokenizer(model), [0])
