"""Facts with numbers: what an error refuses is one, and reaches a reader whole."""

from __future__ import annotations

import pickle
from typing import Self

import pytest
from pydantic import model_validator

from isoembed.core import Frozen, InputError
from isoembed.fitting.notes import FitNote, remark
from isoembed.notes import Refusal, refusal, refusal_of

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


def test_a_refusal_without_its_numbers_is_none() -> None:
    with pytest.raises(InputError, match="no fact of these fields"):
        refusal("few-for-law", runs=3)
