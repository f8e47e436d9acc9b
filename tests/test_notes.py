"""Facts with numbers: what an error refuses is one, and reaches a reader whole."""

from __future__ import annotations

import json
import math
import pickle
import time
from typing import Self

import pytest
from pydantic import ValidationError, model_validator

from isoembed.core import Frozen, InputError
from isoembed.fitting.notes import FitNote, remark
from isoembed.notes import MOST_NESTED, Refusal, refusal, refusal_of
from isoembed.pilot.notes import PilotNote, warning
from isoembed.recommendation.notes import RecipeNote, note

UNPAID = refusal("few-for-law", runs=3, least=5)


def test_an_error_is_read_as_its_sentence_and_kept_as_its_fact() -> None:
    """Also out of a validator and out of another process; fails where either words it anew."""

    class Value(Frozen):
        @model_validator(mode="after")
        def _never(self) -> Self:
            raise InputError(UNPAID)

    with pytest.raises(InputError) as caught:
        Value()
    assert refusal_of(caught.value) is UNPAID
    error = InputError(UNPAID)
    assert str(error) == "3 runs, a law needs 5"
    assert refusal_of(error) is UNPAID
    assert refusal_of(pickle.loads(pickle.dumps(error))) == UNPAID
    assert refusal_of(InputError("Rare.")) == refusal("text", text="Rare.")


def test_a_note_that_tells_of_a_refusal_keeps_its_numbers() -> None:
    told = remark("left-out", method="full", error=UNPAID)
    assert told.describe() == "full left out: 3 runs, a law needs 5"
    read = FitNote.model_validate_json(told.model_dump_json())
    assert read == told
    assert hash(read) == hash(told)
    assert isinstance(read.fields["error"], Refusal)
    # of a law's file of before, where the sentence stood
    old = FitNote(kind="remark", code="left-out", fields={"method": "full", "error": "3 runs, a law needs 5"})
    assert old.describe() == told.describe()


def test_a_note_tells_of_several_of_any_room_and_is_read_with_their_words() -> None:
    """JSON keeps the words that once stood there; a room that is not at hand is read by them, and lost by nobody."""
    told = note("warning", "pilot-in-vain", runs=3, flop=1e9, share=0.1, why=(warning("no-law"), UNPAID))
    words = "no basis for a choice (no method that could run has a law; 3 runs, a law needs 5); falling back"
    assert words in told.describe()
    text = told.model_dump_json()
    assert [each["words"] for each in json.loads(text)["fields"]["why"]] == [
        "no method that could run has a law",
        "3 runs, a law needs 5",
    ]
    read = RecipeNote.model_validate_json(text)
    assert (read, hash(read)) == (told, hash(told))
    why = read.fields["why"]
    assert isinstance(why, tuple)
    assert isinstance(why[0], PilotNote)
    assert isinstance(why[1], Refusal)
    foreign = json.loads(text.replace('"no-law"', '"of-a-later-version"'))
    read = RecipeNote.model_validate(foreign)
    assert read.describe() == told.describe()
    assert json.loads(read.model_dump_json()) == foreign
    del foreign["fields"]["why"][0]["words"]
    with pytest.raises(ValidationError, match="no room has a sentence for 'of-a-later-version'"):
        RecipeNote.model_validate(foreign)


def test_notes_within_notes_lie_a_few_deep() -> None:
    """A law's file that nests more, and names each twice in its sentence, would take ages."""
    deep: object = json.loads(UNPAID.model_dump_json())
    for depth in range(1, 40):
        deep = {"kind": "remark", "code": "left-out", "fields": {"method": deep, "error": deep}}
        started = time.perf_counter()
        if depth < MOST_NESTED:
            assert FitNote.model_validate(deep).describe().count("left out") == 2**depth - 1
        elif depth < 12:
            with pytest.raises(ValidationError, match="notes lie at most 8 deep"):
                FitNote.model_validate(deep)
        assert time.perf_counter() - started < 10


def test_a_number_that_json_has_not_is_nothing() -> None:
    """An infinite one was written as null, and could not be read."""
    told = remark("shares", low=-math.inf, high=0.5)
    assert told.describe() == "-inf% to +50.0%"
    assert FitNote.model_validate_json(told.model_dump_json()) == told
    with pytest.raises(InputError, match="is no fact of these fields"):
        remark("shares", low=10**400, high=0.5)


def test_sentences_put_names_and_numbers_together() -> None:
    assert [note("known", "lora-ranks", ranks=ranks).title.split(" nearly")[0] for ranks in ((32,), (8, 16, 32))] == [
        "LoRA rank 32",
        "LoRA rank 8, 16 or 32",
    ]
    few = {"steps": 20, "least": 30}
    assert note("warning", "few-steps", **few, remedy=()).title.endswith("is mostly warm-up")
    assert note("warning", "few-steps", **few, remedy=("`a`", "`b`")).title.endswith("; lower `a`, `b`")


def test_another_voice_says_all_of_a_note_and_leaves_the_fact_as_it_is() -> None:
    """Of fields within fields it said the Python of a tuple."""
    told = remark("left-out", method="full", error=refusal("text", text="give `budgets`"))
    spoken = told.spoken(lambda text: text.replace("`budgets`", "`--budgets`"))
    assert (spoken.title, spoken.reason) == ("full left out", "give `--budgets`")
    assert spoken.describe() == str(spoken) == told.describe().replace("`budgets`", "`--budgets`")
    assert spoken.model_dump_json() == told.model_dump_json()


def test_a_refusal_without_its_numbers_is_none() -> None:
    with pytest.raises(InputError, match="no fact of these fields"):
        refusal("few-for-law", runs=3)
