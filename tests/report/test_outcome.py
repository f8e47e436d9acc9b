"""What `run` says: short lines, and a verdict that is right."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from isoembed.core import InputError
from isoembed.evaluation.score import Scores, TaskScore
from isoembed.families import NANO
from isoembed.recipe import DataStats
from isoembed.recommendation.notes import note
from isoembed.recommendation.recommend import Request, recommend
from isoembed.recommendation.result import Recommendation
from isoembed.report.terminal.outcome import fraction, recipe_text, result_text, shortened, verdict
from isoembed.training.callbacks import ProgressBar, StepFacts
from tests.sweep.fake import recipe, record


def printed(*texts: object) -> list[str]:
    out = Console(file=io.StringIO(), width=200)
    for text in texts:
        out.print(text)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("flop", [1e9, 1e12, 1e14])
def test_a_recipe_and_its_result_are_some_twenty_lines_of_80_columns(flop: float) -> None:
    data = DataStats(fingerprint="0" * 16, source="pairs-of-a-rather-long-name.jsonl.gz", pairs=100_000)
    try:
        advice = recommend(Request.of(flop, NANO, data=data))
    except InputError:
        pytest.skip("no such recipe")
    score = TaskScore(kind="retrieval", metrics={"ndcg@10": 0.5}, counts={"queries": 9}, seconds=1.0)
    systems = ("base, untrained", "static table", "BM25", "trained")
    scores = Scores(systems={system: {"held-out pairs": score} for system in systems})
    lines = printed(
        recipe_text(advice, ["12 rows skipped: " + "long words " * 20], 1e11),
        result_text(record(recipe()), scores, out=Path("demo"), budget_flop=1e12),
    )
    assert len(lines) <= 22
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines]
    assert names[:6] == ["Recipe", "Why", "Data", "Schedule", "Cost", "Forecast"]
    assert {"Loss", "Spent", "Scores", "Verdict", "Next"} <= set(names)
    assert "trained .500 | BM25 .500 | static .500 | base .500" in "\n".join(lines)


HELPS = "a larger budget, or more pairs, would help"


@pytest.mark.parametrize(
    ("trained", "base", "static", "words", "said"),
    [
        (0.64, 0.1, 0.2, 0.57, ["beats BM25 by .070"]),
        (0.25, 0.1, 0.2, 0.57, [f"BM25 is ahead by .320: {HELPS}"]),
        (0.571, 0.1, 0.2, 0.57, [f"about level with BM25: {HELPS}"]),
        (0.05, 0.3, 0.05, 0.57, ["worse than its untrained base by .250: try a lower learning rate",
                                 f"BM25 is ahead by .520: {HELPS}"]),
        (0.147, 0.146, 0.34, 0.9, ["no better than its untrained base, as far as 4,096 queries tell",
                                   "behind its own static token table by .193",
                                   f"BM25 is ahead by .753: {HELPS}"]),
        (0.64, 0.1, 0.7, 0.57, ["behind its own static token table by .060", "beats BM25 by .070"]),
    ],
)  # fmt: skip
def test_verdict(trained: float, base: float, static: float, words: float, said: list[str]) -> None:
    """A model that equalled its base and lost to its token table was told of BM25 alone."""
    values = {"trained": trained, "BM25": words, "static": static, "base": base}
    assert list(verdict(values, 4096, HELPS)) == said


def test_few_queries_tell_little() -> None:
    """Of 20 queries, .856 was called level with BM25's 1.000."""
    assert verdict({"trained": 0.856, "BM25": 1.0}, 20, HELPS) == ("no worse than BM25, as far as 20 queries tell",)


def test_advice_stands_in_place_of_the_general_remedy() -> None:
    assert verdict({"trained": 0.25, "BM25": 0.57}, 4096) == ("BM25 is ahead by .320",)
    assert verdict({"trained": 0.25}, 4096) == ("no baseline to compare with",)


@pytest.mark.parametrize(("times", "epochs", "helps"), [(1.0, 1.0, HELPS), (4.0, 1.0, "more pairs would help"),
                                                        (4.0, 0.2, HELPS)])  # fmt: skip
def test_a_budget_that_the_data_left_unspent_is_not_to_be_raised(times: float, epochs: float, helps: str) -> None:
    """times: the budget over what was spent of it."""
    made = record(recipe())
    ended = made.model_copy(update={"epochs": epochs})
    score, better = (
        TaskScore(kind="retrieval", metrics={"ndcg@10": value}, counts={"queries": 4096}, seconds=1.0)
        for value in (0.2, 0.9)
    )
    scores = Scores(systems={"BM25": {"held-out pairs": better}, "trained": {"held-out pairs": score}})
    text = result_text(ended, scores, out=Path("demo"), budget_flop=times * made.model_flop)
    (line,) = [line for line in printed(text) if line.startswith("Verdict")]
    assert line.endswith(f"BM25 is ahead by .700: {helps}")


def test_fractions_and_shortened_lines() -> None:
    assert [fraction(value) for value in (0.2494, 1.0, 0.0)] == [".249", "1.000", ".000"]
    assert shortened("a few words") == "a few words"
    assert shortened("word, " * 40, 20) == "word, word ..."


def of_own_pairs(unique_pairs: int | None = None) -> Recommendation:
    """A recommendation without notes, on data of a short name."""
    advice = recommend(Request.of(1e12, NANO))
    data = advice.recipe.data.model_copy(update={"source": "own.jsonl", "pairs": 1000})
    made = advice.recipe.model_copy(update={"data": data, "unique_pairs": unique_pairs})
    return advice.model_copy(update={"recipe": made, "notes": ()})


def test_a_line_that_is_cut_says_where_it_is_whole() -> None:
    """Nothing on the screen said that there was more, or how to see it."""
    asked = "--explain says more"
    assert not any("says more" in line for line in printed(recipe_text(of_own_pairs(), ["short"], more=asked)))
    lines = printed(recipe_text(of_own_pairs(), ["long " * 30], more=asked))
    assert lines[-1].split() == ["More", *asked.split()]


@pytest.mark.parametrize(("share", "said"), [(1.0, "1 epoch"), (2.0, "0.5 epochs"), (0.004, "250 epochs")])
def test_one_epoch_is_no_epochs(share: float, said: str) -> None:
    """`1 epochs`, `2.5e+02 epochs`; share: unique pairs over those that are trained on."""
    made = of_own_pairs(round(share * of_own_pairs().recipe.pairs))
    line = next(line for line in printed(recipe_text(made, [])) if line.startswith("Data"))
    assert line.endswith(f"; {said}")


def facts(step: int) -> StepFacts:
    return StepFacts(
        step=step, tokens=step * 1000, pairs=0, loss=12.3456, rate=0.0, grad_norm=0.0, flop=0.0,
        tokens_per_second=123456.0, flop_per_second=0.0,
    )  # fmt: skip


def test_without_a_terminal_a_line_every_thirty_seconds() -> None:
    """A log file of a Slurm job had nothing between the first line and the last."""
    out, now = io.StringIO(), [0.0]
    bar = ProgressBar(Console(file=out, width=80), clock=lambda: now[0])
    bar.start(recipe().model_copy(update={"train_tokens": 100_000}), 0, 0)
    for step in range(1, 8):
        now[0] += 10.0
        bar.step(facts(step))
    bar.end()
    lines = out.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["step 3", "step 6"]
    assert lines[1].endswith("loss 12.346  123,456 tokens/s  0:15:40 left"), lines


def test_at_80_columns_the_time_left_is_there() -> None:
    """It was pushed over the edge by the name of the model and two speeds."""
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, width=80, force_terminal=True, color_system=None))
    bar.start(recipe().model_copy(update={"train_tokens": 10_000_000}), 0, 0)
    bar.step(facts(9999))
    bar.end()
    assert "left" in out.getvalue()
    assert "…" not in out.getvalue()


def test_why_and_forecast_are_made_of_notes_and_not_of_their_sentences() -> None:
    """Both were cut out of sentences, which said something else as soon as their words changed."""
    advice = recommend(Request.of(1e12, NANO))
    ranked = note("no-forecast", "ranking-other-data")
    kept = tuple(each for each in advice.notes if each.kind not in ("basis", "no-forecast"))
    by_law = note("basis", "by-law", law="odds", family="least expected loss of", candidates="9 candidates")
    lines = "\n".join(printed(recipe_text(advice.model_copy(update={"notes": (by_law, ranked, *kept)}), [])))
    assert "the odds law of least expected loss of: best of 9 candidates" in lines
    assert "none: the law was measured on other training data" in lines
