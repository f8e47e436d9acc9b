"""What a recommendation says of itself is facts of a kind and a code; JSON keeps facts and sentences."""

from __future__ import annotations

import json

from isoembed.budget import Budget
from isoembed.families import NANO
from isoembed.recipe import PartialSetup
from isoembed.recommendation.notes import RecipeNote, note
from isoembed.recommendation.recommend import recommend, shipped_law
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
    assert note.describe() == f"{note.title}: {note.fields['differences']}"
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
