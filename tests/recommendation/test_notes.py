"""What a recommendation says of itself is facts of a kind and a code; JSON keeps facts and sentences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isoembed.budget import Budget
from isoembed.families import NANO
from isoembed.notes import Note
from isoembed.recipe import DataStats, EarlyStopping, PartialSetup
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.notes import Kind, RecipeNote, note
from isoembed.recommendation.recommend import recommend, shipped_law
from isoembed.recommendation.request import Request
from isoembed.recommendation.result import Recommendation


def asked() -> list[Recommendation]:
    """By a law, by a law at other settings, by rule."""
    budget = Budget.parse("1e13")
    return [
        recommend(budget, NANO),
        recommend(budget, NANO, setup=PartialSetup(batch_pairs=128), law=shipped_law("nano"), other_settings=True),
        recommend(Budget.parse("1e17"), "pythia"),
    ]


def test_json_is_read_back_with_facts_or_of_before_there_were_any() -> None:
    """A file written before recommendations had notes holds their sentences alone."""
    for found in asked():
        text = found.model_dump_json()
        assert Recommendation.model_validate_json(text) == found
        old = json.loads(text)
        del old["notes"]
        for each in (*old["runners_up"], *old["methods"]):
            del each["notes"]
        read = Recommendation.model_validate(old)
        sentences = {"basis", "known", "assumed", "warnings", "no_forecast"}
        assert read.model_dump(include=sentences) == found.model_dump(include=sentences)
        assert [each.remarks for each in read.runners_up] == [each.remarks for each in found.runners_up]


def test_ratios_are_written_as_people_write_them() -> None:
    """`6.2e+02 tokens per parameter`."""
    for ratio, said in ((0.031, "0.031"), (20.0, "20"), (618.9, "620"), (99.7, "100"), (117_800.0, "120,000")):
        assert (
            note("assumed", "size-at-end", tokens_per_param=ratio, wanted="larger").describe().count(f" {said} tokens ")
        )


def test_facts_are_told_by_kind_and_code() -> None:
    other = asked()[1]
    assert {(note.kind, note.code) for note in other.notes} >= {("warning", "other-settings"), ("basis", "by-law")}
    note = next(note for note in other.notes if note.code == "other-settings")
    assert note.title == "law used at settings of no run"
    every = note.fields["differences"]
    assert isinstance(every, tuple)
    (differs,) = every
    assert isinstance(differs, Note)
    assert (differs.code, differs.fields) == ("differs", {"what": "batch pairs", "there": 32, "here": 128})
    assert note.describe() == f"{note.title}: batch pairs 32 there, 128 here"
    assert len({*other.notes, *other.notes}) == len(set(map(repr, other.notes)))  # they hash by content


def test_notes_written_before_still_have_their_sentences() -> None:
    """A sentence that asks for a field more could not be said of a recommendation that was kept."""
    for each in (
        RecipeNote(kind="assumed", code="setup", fields={"batch_pairs": 64, "context_tokens": 75}),
        RecipeNote(kind="assumed", code="size-at-end", fields={"tokens_per_param": 1.2, "wanted": "larger"}),
        RecipeNote(kind="assumed", code="learning-rate", fields={"source": "learning rate: as asked"}),
        RecipeNote(kind="assumed", code="speed", fields={"source": "40% of the h100's peak (as given)"}),
        RecipeNote(kind="warning", code="out-of-reach", fields={"error": "A law holds to 30 times beyond."}),
    ):
        assert each.describe()


#: notes as they were written when prose stood in their fields, and what they said
_OF_PROSE = (
    ("basis", "by-law", {"law": "rectified", "family": "nano", "candidates": "12 candidates"},
     "the rectified law measured on nano: least expected loss of 12 candidates"),
    ("known", "limited", {"limits": "`max_params` and `max_query_flop`", "left": 2, "sizes": 8, "largest": "nano-51k"},
     "limits: `max_params` and `max_query_flop`: 2 of 8 sizes are left, up to nano-51k"),
    ("warning", "few-steps", {"steps": 20, "least": 30, "remedy": "; lower `batch_pairs`"},
     "only 20 steps; under 30 the schedule is mostly warm-up; lower `batch_pairs`"),
    ("warning", "few-steps", {"steps": 20, "least": 30, "remedy": ""},
     "only 20 steps; under 30 the schedule is mostly warm-up"),
    ("warning", "data-end",
     {"epochs": "1 epoch", "tokens": 1000, "unspent": 50.0, "remedy": " (`epochs=2` would repeat them)"},
     "the data end first: 1 epoch of 1,000 tokens, 50% of the training budget stays unspent (`epochs=2` would repeat "
     "them)"),
    ("warning", "pilot-none", {"why": "A pilot needs 12 runs."},
     "no pilot was run: A pilot needs 12 runs. Falling back on what is known without it."),
    ("known", "checked", {"law": "full", "seen": "8 runs of x lie +1.0% off"},
     "checked at this batch and context, full holds: 8 runs of x lie +1.0% off"),
    ("known", "lora-ranks", {"ranks": "32 or 128"}, "LoRA rank 32 or 128 nearly always best (figure 5)"),
    ("warning", "repeated", {"epochs": 3.0, "fresh": 2.0, "r_star": 5.3, "origin": "in the law's runs"},
     "the pairs are gone through 3 times: that is worth 2 epochs of unique pairs, where R* is 5.3, as in the law's "
     "runs"),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "fields", "said"), _OF_PROSE)
def test_notes_of_prose_say_what_they_said(kind: Kind, code: str, fields: dict[str, Any], said: str) -> None:
    read = RecipeNote.model_validate({"kind": kind, "code": code, "fields": fields})
    assert read.describe() == said
    assert RecipeNote.model_validate_json(read.model_dump_json()) == read


def test_fields_are_names_and_numbers() -> None:
    """Prose in a field is a fact that nobody can ask for; what others published or measured is named in theirs."""

    def texts(fact: object) -> list[str]:
        if isinstance(fact, Note):
            if fact.code == "text":  # of the law that ships, which is older
                return []
            named = (value for name, value in fact.fields.items() if name not in ("source", "rule", "about"))
            return [text for value in named for text in texts(value)]
        if isinstance(fact, tuple):
            return [text for each in fact for text in texts(each)]
        return [fact] if isinstance(fact, str) else []

    data = DataStats(fingerprint="f" * 16, source="pairs", tokenizer="t" * 16, pairs=3000)
    stopping = EarlyStopping(keep="best", patience=3)
    more = (
        recommend("1e15", NANO, law=shipped_law("nano"), far=True, data=data, constraints=Constraints(epochs=3)),
        recommend(Request.of("1e13", NANO, early_stopping=stopping, constraints=Constraints(max_params=200_000))),
        recommend("1e15", "smollm2", data=data),
    )
    notes = [note for found in (*asked(), *more) for note in found.notes]
    assert len({note.code for note in notes}) > 25
    wordy = {(note.code, text) for note in notes for text in texts(note) if len(text.split()) > 4}
    assert not wordy
