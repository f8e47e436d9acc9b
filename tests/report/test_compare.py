"""Two ledgers, or two laws, in one page: both answers, where they differ, and a word where losses do not compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from isoembed.cli import app
from isoembed.cli import report as cli_report
from isoembed.core import InputError
from isoembed.fitting.intervals import Interval
from isoembed.fitting.io.law_file import LawSet
from isoembed.recommendation.recommend import recommend
from isoembed.records import RunRecord
from isoembed.report import compare
from isoembed.report.compare import Comparison
from isoembed.report.figures import compared
from isoembed.report.page import comparison_page
from tests.fitting.ledgers import BUDGETS, runs
from tests.report.planted import SCRIPT, hostile, law_file, ledger
from tests.report.test_page import Reader, embedded, only_ours

Sides = dict[str, tuple[Path, Path]]


def otherwise_held_out(records: list[RunRecord], **fields: Any) -> list[RunRecord]:
    return [run.model_copy(update={"heldout": run.heldout.model_copy(update=fields)}) for run in records if run.heldout]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """A study, a smaller one of LoRA alone that comes to other constants, and one among half as many candidates."""
    place, whole = tmp_path_factory.mktemp("compared"), runs()
    lower = [
        run.model_copy(update={"heldout": run.heldout.model_copy(update={"loss": run.heldout.loss * 0.9})})
        for run in runs(budgets=BUDGETS[:5], methods={"lora": None})
        if run.heldout
    ]
    found = {}
    for name, records in {
        "whole": whole,
        "small": lower,
        "fewer": otherwise_held_out(whole, candidates=512, fingerprint="f"),
    }.items():
        (place / name).mkdir()
        law = law_file(records, place / name / "law.json")
        found[name] = ledger(place / name / "ledger", [*records, hostile()] if name == "small" else records), law
    return found


@pytest.fixture(scope="module")
def both(sides: Sides) -> Comparison:
    return Comparison.open(sides["whole"], sides["small"])


@pytest.fixture(scope="module")
def html(both: Comparison) -> str:
    return comparison_page(both)


def test_each_answer_is_that_of_its_law(both: Comparison, sides: Sides) -> None:
    assert len(both.answers) == 5
    for answers in both.answers:
        for found, report_data in zip(answers.found, both.sides.values(), strict=True):
            assert report_data.laws is not None
            assert not isinstance(found, str)
            wanted = recommend(answers.budget, "nano", law=report_data.laws, data=report_data.data)
            assert (found.recipe, found.loss) == (wanted.recipe, wanted.loss)
    assert any("They differ in " in each.verdict for each in both.answers)
    assert all(" nats less; the two intervals " in each.verdict for each in both.answers)
    assert any("lie apart" in each.verdict for each in both.answers)


def test_the_page_shows_both_and_is_text(html: str, both: Comparison) -> None:
    only_ours(html, 3)
    assert SCRIPT not in html
    text = Reader(html).text
    for answers in both.answers:
        assert all(sentence in text for sentence in answers.sentences)
    assert text.count("≠") > 9
    assert set(embedded(html)["figures"]) == {"frontiers", "sizes"}
    assert "Losses cannot be compared" not in text
    targets = {named.get("id") for _, named in Reader(html).elements}
    assert {(named["href"] or "")[1:] for tag, named in Reader(html).elements if tag == "a"} <= targets


def test_frontiers_stand_on_one_pair_of_axes(both: Comparison) -> None:
    """Runs that no cheaper one beats, and each law's best of all: no forecast above any method's own."""
    made = compared.frontiers(both)["frontiers"]()
    for letter, report_data in both.sides.items():
        name = f"{letter}: {both.names[letter]}"
        points, line = (
            next(trace for trace in made.data if trace.name == name and trace.mode == mode)
            for mode in ("markers", "lines+markers")
        )
        assert list(points.y) == sorted(points.y, reverse=True)
        assert min(points.y) == min(cell.loss for cell in report_data.replicates)
        assert report_data.grid is not None
        for method in report_data.methods:
            own = {point.flop: point.loss.value for point in report_data.grid.best(method)}
            assert all(y <= (own.get(x) or y) + 1e-9 for x, y in zip(line.x, line.y, strict=True))


def test_losses_among_other_candidates_are_not_held_against_each_other(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_BUDGETS", 2)
    found = Comparison.open(sides["whole"], sides["fewer"])
    assert found.apart == [
        "A's losses are among 1,024 candidates, B's among 512: chance is 6.93 nats in the one and 6.24 in the other"
    ]
    assert ("candidates, K", "1,024", "512") in found.differences
    assert compared.frontiers(found) == {}
    assert "sizes" in compared.sizes(found)  # which size is best needs no common loss
    assert not any("nats" in each.verdict for each in found.answers)
    assert "Losses cannot be compared" in Reader(comparison_page(found)).text


def test_another_held_out_set_and_what_nobody_said(both: Comparison, sides: Sides) -> None:
    """Laws keep the fingerprint of their held-out set; a table of losses has none."""
    laws = LawSet.load(sides["whole"][1]).laws

    def of(heldout: str | None, target: str = "heldout", batch: int = 64) -> Comparison:
        settings = laws[0].settings.model_copy(update={"heldout": heldout, "target": target, "batch_pairs": batch})
        changed = LawSet(laws=tuple(law.model_copy(update={"settings": settings}) for law in laws))
        b = type(both.b)("b", (), {}, changed, ())
        a = type(both.a)("a", (), {}, LawSet(laws=laws), ()) if target == "heldout" else b
        return Comparison(a, b, {"A": "a", "B": "b"})

    assert of("another").apart == ["A's losses were taken on another held-out set than B's"]
    assert of(None).apart == []
    assert "It is not said" in (of(None).not_said or "")
    assert of(laws[0].settings.heldout).not_said is None
    trained, other = of(None, "training").b, of(None, "training", batch=32).b
    assert Comparison(trained, other, {}).apart == ["a training loss goes by its batch pairs, and these differ"]
    assert Comparison(both.a, other, {}).apart == ["A's losses are heldout ones, B's are training ones"]
    assert ("batch pairs", "64", "32") in Comparison(trained, other, {}).differences


def test_laws_alone_are_compared_without_their_runs(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a law in the place of a ledger has no law beside it."""
    monkeypatch.setattr(compare, "_BUDGETS", 2)
    laws = [law for _, law in sides.values()]
    found = Comparison.open((laws[0], None), (laws[1], None))
    assert found.names["A"] != found.names["B"]  # both are called law.json: by their places
    assert all(not isinstance(each, str) for answers in found.answers for each in answers.found)
    html = comparison_page(found)
    assert "a law without its runs" in Reader(html).text
    assert set(embedded(html)["figures"]) == {"frontiers", "sizes"}
    with pytest.raises(InputError, match="is a law already"):
        Comparison.open((laws[0], laws[1]), (laws[1], None))


def test_a_law_alone_of_an_unknown_family_is_refused(sides: Sides, tmp_path: Path) -> None:
    laws = LawSet.load(sides["whole"][1])
    mine = laws.settings.model_copy(update={"family": "mine"})
    LawSet(laws=tuple(law.model_copy(update={"settings": mine}) for law in laws.laws)).save(tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"of a family that ships; that of mine\.json is of mine"):
        Comparison.open((tmp_path / "mine.json", None), (sides["whole"][1], None))


def test_constants_whose_intervals_lie_apart_are_marked(both: Comparison) -> None:
    assert both.a.laws is not None
    moved = [
        law.model_copy(update={"params": {**law.params, "E": Interval(value=9.0, low=8.9, high=9.1)}})
        for law in both.a.laws.laws
    ]
    other = replace(both.a, laws=LawSet(laws=tuple(moved)))
    for _, form, rows in Comparison(both.a, other, both.names).laws:
        assert form == "hoffmann"
        assert {name for name, *_ in rows} >= {"E", "A", "B", "alpha", "beta", "a of N* ~ C^a", "runs"}
        assert [name for name, _, _, apart in rows if apart] == ["E"]
    same = Comparison(both.a, both.a, {"A": "a", "B": "a"})
    assert not any(apart for _, _, rows in same.laws for *_, apart in rows)
    assert same.differences == []
    assert list(compared.sizes(same)) == ["sizes", "sizes-full", "sizes-lora"]


def test_report_against_another_ledger_or_law(
    both: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ledgers in words; two laws of one ledger, one of them alone, as JSON."""
    asked: list[Any] = []

    def opened(*sides: Any) -> Comparison:
        asked.append(sides)
        return both

    monkeypatch.setattr(Comparison, "open", opened)
    a, b, law, other = (Path(name) for name in ("a", "b", "law.json", "other.json"))
    beside = cli_report.Sides(law=law, against=b, against_law=other)
    given = ["report", "a", "--law=law.json", "--against-law=other.json"]
    said = CliRunner().invoke(app, [*given, "--against=b", f"--out={tmp_path / 'ab.html'}"]).stdout
    assert said.count("  A  Fine-tune ") == said.count("  B  Fine-tune ") == 5
    other_law = cli_report.Sides(law=law, against_law=other)
    found = json.loads(CliRunner().invoke(app, [*given, f"--out={tmp_path / 'laws.html'}", "--json"]).stdout)
    assert asked == [((a, law), (b, other)), ((a, law), (a, other))]
    assert [each["recipes"] for each in found["answers"]] == [list(each.sentences) for each in both.answers]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ab.html", "laws.html"]
    cli_report.figure("list", a, beside)
    cli_report.figure("frontiers", a, other_law, tmp_path / "both.html", 500, 400)
    assert asked[2:] == asked[:2]
    assert capsys.readouterr().out.startswith("frontiers\nsizes\nThe lowest loss at each budget")
    assert "Loss against budget, both" in (tmp_path / "both.html").read_text(encoding="utf-8")
