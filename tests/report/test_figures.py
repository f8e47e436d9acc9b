"""The figures show what the ledger holds and what the laws say: nothing else, and with its uncertainty."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy.stats import spearmanr

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.fitting.correlation import spearman
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.methods import METHODS, Freeze, Full, LoRA
from isoembed.recommendation.recommend import shipped_law
from isoembed.records import FailedRun, Ledger, RunRecord, ended
from isoembed.report import figures as figure_room
from isoembed.report.data import ReportData
from isoembed.report.figures import Section, drawings, figures
from isoembed.report.figures.forecasts import forecasts
from isoembed.report.forecast_grid import BEYOND
from isoembed.report.slider import recommended, stop_budgets
from isoembed.report.theme import GROUNDS, method_style, ordered
from isoembed.workflows.models import family_named
from tests.fitting.ledgers import BUDGETS, runs
from tests.report.planted import frozen, law_file, ledger, planted_evidence, planted_study


@pytest.fixture(scope="module")
def report_data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return planted_evidence(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def drawn(report_data: ReportData) -> dict[str, Any]:
    return figures(report_data)


METHOD_NAMES = tuple(method.model_fields["name"].default for method in METHODS)


def loss(record: RunRecord) -> float:
    assert record.heldout is not None
    return record.heldout.loss


def cell_means(report_data: ReportData) -> dict[tuple[str, str, float], float]:
    """(model, method with hyperparameter, budget) -> mean loss over seeds, straight from the records."""
    losses = defaultdict(list)
    for record in report_data.records:
        losses[record.recipe.model.name, record.recipe.method.label, record.model_flop].append(loss(record))
    return {cell: float(np.mean(values)) for cell, values in losses.items()}


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_every_question_has_its_figures(drawn: dict[str, Any]) -> None:
    expected = {"frontier", "isoflop-full", "isoflop-lora", "isoflop-freeze", "optimal-size-full", "tokens-lora"}
    expected |= {"active-fraction-5.48e+10", "lora-rank-5.48e+10", "forecast-full", "forecast-lora-r-d-8", "score-task"}
    expected |= {"score-budget-task", "residuals-full", "residuals-lora-r-d-4"}
    assert expected <= set(drawn)
    for figure in drawn.values():
        assert figure.layout.meta["title"]
        assert len(figure.layout.meta["alt"]) > 40


def test_what_is_open_comes_first(report_data: ReportData, drawn: dict[str, Any]) -> None:
    """Of each question the page opens one figure: it was the law of bias, by the alphabet, and the smallest budget's
    grid, of one size."""
    assert list(replace(report_data, laws=None).groups) == ["full", "freeze", "lora"]
    budgets = [float(each.removeprefix("lora-rank-")) for each in drawn if each.startswith("lora-rank-")]
    assert len(budgets) > 1
    assert budgets == sorted(budgets, reverse=True)


def test_a_band_of_sizes_has_steps_as_its_line_has(drawn: dict[str, Any]) -> None:
    """Its edges ran straight from budget to budget, and the line of steps left it on the way."""
    band, line = drawn["optimal-size-full"].data[:2]
    half = len(band.x) // 2
    for edge_x, edge_y in ((band.x[:half], band.y[:half]), (band.x[half:][::-1], band.y[half:][::-1])):
        assert list(edge_x[::2]) == list(line.x)
        assert all(a[1] == b[1] or a[0] == b[0] for a, b in pairwise(zip(edge_x, edge_y, strict=True)))
    assert len({*band.y}) > 1


def test_one_figure_is_drawn_without_the_others(report_data: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a figure of somebody's own is a file and a line: its section in the list."""
    calls: list[str] = []

    def draw(name: str) -> go.Figure:
        calls.append(name)
        return go.Figure(layout={"meta": {"alt": name}})

    toy = Section("toy", "A toy", "", lambda _: {name: partial(draw, name) for name in ("toy-a", "toy-b")})
    monkeypatch.setattr(figure_room, "SECTIONS", [*figure_room.SECTIONS, toy])
    known = drawings(report_data)
    assert calls == []
    assert figure_room.drawn("toy-b", known).alt == "toy-b"
    assert calls == ["toy-b"]
    assert "frontier" in known


def test_frontier_points_are_the_ledgers_cells(report_data: ReportData, drawn: dict[str, Any]) -> None:
    for method in ("full", "lora", "freeze"):
        points = trace(drawn["frontier"], method)
        wanted = [
            (flop, mean) for (_, label, flop), mean in cell_means(report_data).items() if label.split()[0] == method
        ]
        shown = list(zip(points.x, points.y, strict=True))
        assert np.array(sorted(shown)) == pytest.approx(np.array(sorted(wanted)))


def test_frontier_has_its_lower_envelope_and_where_the_leader_changes(
    report_data: ReportData, drawn: dict[str, Any]
) -> None:
    """The best of all methods at each budget, three at most of its recipes named; LoRA takes the lead in the study."""
    figure, grid = drawn["frontier"], report_data.grid
    assert grid is not None
    best = {point.flop: (point.loss.value, point.name) for point in grid.best()}
    line = trace(figure, "best of all")
    assert dict(zip(line.x, line.y, strict=True)) == {flop: loss for flop, (loss, _) in best.items()}
    own = [{point.flop: point.loss.value for point in grid.best(method)} for method in ("full", "lora")]
    for flop, (lowest, _) in best.items():
        assert lowest == min(loss for losses in own if (loss := losses.get(flop)) is not None)
    names = next(each for each in figure.data if each.mode == "text")
    assert 0 < len(names.x) <= 3
    assert [best[flop] for flop in names.x] == list(zip(names.y, names.text, strict=True))
    crossover = grid.crossover
    assert crossover is not None
    assert (crossover.first, crossover.second) == ("full", "lora")
    assert figure.layout.shapes[-1].x0 == crossover.flop.value
    assert crossover.describe() in figure.layout.meta["alt"]


def test_no_line_is_drawn_where_no_run_is_near(tmp_path: Path) -> None:
    """A method that ran at small budgets alone is not forecast where the others ran, `BEYOND` times beyond and more."""
    ran = runs(budgets=np.geomspace(5e10, 1e13, 7).tolist())
    few = [run for run in ran if run.recipe.method.name == "full" or run.recipe.flop < 8e11]
    grid = ReportData.open(ledger(tmp_path / "ledger", few), law_file(few, tmp_path / "law.json")).grid
    assert grid is not None
    assert max(point.flop for point in grid.best("full")) == pytest.approx(BEYOND * 1e13, rel=0.01)
    dearest = max(run.recipe.flop for run in few if run.recipe.method.name == "lora")
    assert 0.7 * BEYOND * dearest < max(point.flop for point in grid.best("lora")) <= 1.01 * BEYOND * dearest


def test_small_multiples_share_their_axes(drawn: dict[str, Any]) -> None:
    """And each run is inside of them."""
    figures = [figure for name, figure in drawn.items() if name.startswith("isoflop-")]
    assert len(figures) == 3
    (x,), (y,) = ({getattr(figure.layout, axis).range for figure in figures} for axis in ("xaxis", "yaxis"))
    for line in (line for figure in figures for line in figure.data if str(line.name).endswith(" FLOP")):
        assert all(x[0] < math.log10(size) < x[1] for size in line.x)
        assert all(y[0] < value < y[1] for value in line.y)


def test_bars_are_the_noise_between_seeds(report_data: ReportData, drawn: dict[str, Any]) -> None:
    """1.96 s / sqrt(n) of ln loss, s pooled over all repeated cells: computed here from the records alone."""
    logs = defaultdict(list)
    for record in report_data.records:
        logs[record.recipe.model.name, record.recipe.method.label, record.model_flop].append(math.log(loss(record)))
    pairs = [values for values in logs.values() if len(values) == 2]
    s = math.sqrt(sum((a - b) ** 2 / 2 for a, b in pairs) / len(pairs))
    points = trace(drawn["frontier"], "full")
    for y, high, low in zip(points.y, points.error_y.array, points.error_y.arrayminus, strict=True):
        assert math.log((y + high) / y) == pytest.approx(1.96 * s / math.sqrt(2))
        assert math.log(y / (y - low)) == pytest.approx(1.96 * s / math.sqrt(2))


def test_profile_shows_the_best_hyperparameter_of_each_size(report_data: ReportData, drawn: dict[str, Any]) -> None:
    best: dict[str, tuple[float, str]] = {}
    for (model, label, flop), mean in cell_means(report_data).items():
        if label.startswith("lora") and flop == pytest.approx(BUDGETS[5], rel=0.01):
            best[model] = min(best.get(model, (math.inf, "")), (mean, label))
    points = trace(drawn["isoflop-lora"], f"{BUDGETS[5]:.3g} FLOP")
    shown = {
        row[1].split(", ")[0]: (y, row[1].split(", ")[1]) for row, y in zip(points.customdata, points.y, strict=True)
    }
    assert len(shown) >= 3
    assert {model: label for model, (_, label) in shown.items()} == {model: label for model, (_, label) in best.items()}
    for model, (y, _) in shown.items():
        assert y == pytest.approx(best[model][0])
    assert {text[:4] for text in points.text} == {"r=d/"}


@pytest.mark.parametrize(("name", "method"), [("active-fraction-5.48e+10", Freeze), ("lora-rank-5.48e+10", LoRA)])
def test_hyperparameter_lines_are_the_ledgers(
    report_data: ReportData, drawn: dict[str, Any], name: str, method: type[Freeze | LoRA]
) -> None:
    wanted = defaultdict(list)
    for record in report_data.records:
        used = record.recipe.method
        if isinstance(used, method) and record.model_flop == pytest.approx(BUDGETS[3], rel=0.01):
            setting = used.fraction if isinstance(used, Freeze) else used.rank
            wanted[record.recipe.model.name, float(setting)].append(loss(record))
    shown = {(line.name, x): y for line in drawn[name].data for x, y in zip(line.x, line.y, strict=True)}
    assert shown == pytest.approx({key: float(np.mean(values)) for key, values in wanted.items()})


def test_law_line_is_what_recommend_expects(report_data: ReportData) -> None:
    """The frontier's line, and its best size, at any budget are those of the recommendation."""
    grid = report_data.grid
    assert grid is not None
    for at in grid.budgets[:: len(grid.budgets) // 4]:
        answer = recommended(report_data, Budget(stated="", flop=at.flop))
        for candidate in answer.methods:
            name = candidate.recipe.method.name
            line = next(point for point in grid.best(name) if point.flop == at.flop)
            assert candidate.loss is not None
            assert line.loss.value is not None
            assert line.loss.value == pytest.approx(candidate.loss.value, rel=1e-12)
            size = grid.best_params(name, at)
            assert size is not None
            low, high = size.ends
            assert low <= candidate.recipe.model.params <= high


def test_ground_beyond_the_runs_is_shaded(report_data: ReportData, drawn: dict[str, Any]) -> None:
    largest = max(record.model_flop for record in report_data.records)
    for name in ("frontier", "optimal-size-full"):
        figure = drawn[name]
        assert figure.layout.shapes[0].x0 == pytest.approx(largest, rel=0.01)
        assert figure.layout.shapes[0].x1 == pytest.approx(BEYOND * largest, rel=0.01)
        assert figure.layout.annotations[0].x == pytest.approx(math.log10(largest), rel=0.01)


def test_held_out_points_are_predicted_unseen(tmp_path: Path) -> None:
    """Where the largest size comes out otherwise, its predictions stay as they were; those of the full fit move."""

    def shown(factor: float, place: Path) -> Any:
        largest = max(record.recipe.model.params for record in runs())
        records = [
            record.model_copy(
                update={"heldout": record.heldout.model_copy(update={"loss": record.heldout.loss * factor})}  # type: ignore[union-attr]
            )
            if record.recipe.model.params == largest
            else record
            for record in runs()
        ]
        made = ReportData.open(ledger(place / "ledger", records), law_file(records, place / "law.json"))
        return forecasts(made)["forecast-full"](), largest

    (before, largest), (after, _) = shown(1.0, tmp_path / "a"), shown(1.3, tmp_path / "b")
    name = "largest size, held out"
    assert trace(before, name).x == pytest.approx(trace(after, name).x, rel=1e-9)
    assert np.array(trace(after, name).y) == pytest.approx(1.3 * np.array(trace(before, name).y))
    assert trace(before, "fitted").x != pytest.approx(trace(after, "fitted").x, rel=1e-4)
    sizes = {record.key: record.recipe.model.params for record in runs()}
    assert {sizes[key] for key, _ in trace(before, name).customdata} == {largest}


def test_residuals_are_of_the_law(report_data: ReportData, drawn: dict[str, Any]) -> None:
    assert report_data.laws is not None
    law = next(law for law in report_data.laws.laws if law.method == "full")
    by_key = {record.key: record for record in report_data.records}
    E, A, B, alpha, beta = (law.fit.params[name] for name in ("E", "A", "B", "alpha", "beta"))
    for line in drawn["residuals-full"].data:
        for (key, _), tokens, miss in zip(line.customdata, line.x, line.y, strict=True):
            run = by_key[key]
            expected = E + A / run.recipe.model.params**alpha + B / run.tokens**beta
            assert tokens == run.tokens
            assert miss == pytest.approx(100 * math.log(loss(run) / expected))
    assert law.law == law_named("hoffmann").name


def test_spearman_is_scipys_and_its_interval_holds_it() -> None:
    chance = np.random.default_rng(0)
    a = chance.normal(size=60).round(1)
    b = (-a + chance.normal(size=60)).round(1)  # ties on both sides
    found = spearman(a.tolist(), b.tolist())
    assert found.value == pytest.approx(spearmanr(a, b).statistic)
    low, high = found.ends
    assert -1 < low < found.value < high < 0  # type: ignore[operator]
    assert spearman([1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]).value == pytest.approx(-1)
    assert spearman([1, 2, 3, 4], [5, 5, 5, 5]).value is None  # not a number, not an error


def test_scores_are_the_ledgers(report_data: ReportData, drawn: dict[str, Any]) -> None:
    wanted = sorted(
        (loss(run), run.scores["task/ndcg@10"]) for run in report_data.records if "task/ndcg@10" in run.scores
    )
    shown = sorted((x, y) for line in drawn["score-task"].data for x, y in zip(line.x, line.y, strict=True))
    assert np.array(shown) == pytest.approx(np.array(wanted))
    assert "Spearman -1.00" in drawn["score-task"].layout.meta["title"]


def test_score_against_size_shows_the_setting_that_scores_best(report_data: ReportData, drawn: dict[str, Any]) -> None:
    """Block freezing ran at one budget, on three sizes, at three fractions each."""
    best: dict[int, tuple[float, str]] = {}
    for run in report_data.records:
        if run.recipe.method.name == "freeze" and "task/ndcg@10" in run.scores:
            here = (run.scores["task/ndcg@10"], run.recipe.method.label)
            best[run.recipe.model.params] = max(best.get(run.recipe.model.params, (0.0, "")), here)
    (line,) = drawn["score-size-task-freeze"].data
    assert list(line.x) == sorted(best)
    for x, y, note in zip(line.x, line.y, line.text, strict=True):
        assert (y, f"freeze {note}") == (pytest.approx(best[x][0]), best[x][1])
    assert f"{max(score for score, _ in best.values()):.3f} on " in drawn["score-size-task-freeze"].layout.meta["alt"]


def test_score_against_budget_shows_the_best_setting_and_quartiles(
    report_data: ReportData, drawn: dict[str, Any]
) -> None:
    """Of LoRA, several sizes and ranks a budget: computed here from the records alone."""
    scores: dict[float, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in report_data.records:
        if run.recipe.method.name == "lora" and "task/ndcg@10" in run.scores:
            setting = (run.recipe.model.name, run.recipe.method.label)
            budget = min(BUDGETS, key=lambda flop, run=run: abs(math.log(run.recipe.flop / flop)))  # type: ignore[misc]
            scores[budget][setting].append(run.scores["task/ndcg@10"])
    means = {flop: [float(np.mean(each)) for each in found.values()] for flop, found in sorted(scores.items())}
    best, band = trace(drawn["score-budget-task"], "lora"), trace(drawn["score-budget-task"], "lora, quartiles")
    assert list(best.y) == pytest.approx([max(found) for found in means.values()])
    assert any(len(found) > 3 for found in means.values())
    upper, lower = np.split(np.array(band.y), 2)
    assert upper.tolist() == pytest.approx([np.quantile(found, 0.75) for found in means.values()])
    assert lower[::-1].tolist() == pytest.approx([np.quantile(found, 0.25) for found in means.values()])


def texts(value: Any) -> list[str]:
    """Every string in a figure but its meta data, which the library does not show."""
    if isinstance(value, dict):
        return [text for name, entry in value.items() if name != "meta" for text in texts(entry)]
    if isinstance(value, list | tuple):
        return [text for entry in value for text in texts(entry)]
    return [value] if isinstance(value, str) else []


def test_names_from_a_ledger_are_text(drawn: dict[str, Any]) -> None:
    """The plotting library reads tags in names and hover texts: none of the ledger's reaches it unescaped."""
    found = [text for figure in drawn.values() for text in texts(figure.to_plotly_json())]
    ours = re.compile("<br>|<extra>.*?</extra>")
    assert not [text for text in found if "<" in ours.sub("", text)]
    assert any("&lt;img" in text for text in found)


def test_colours_are_seen_on_both_grounds() -> None:
    """WCAG's contrast for graphics, 3:1, on the light and on the dark ground."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    colours = [
        *(method_style(name).colour for name in (*METHOD_NAMES, "one of yours")),
        *(style["color"] for style in ordered(tuple("12345678")).values()),
    ]
    for ground in GROUNDS.values():
        for colour in colours:
            light, dark = sorted((luminance(colour), luminance(ground["ground"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, colour
    assert len({(style["color"], style["symbol"]) for style in ordered(tuple("12345678")).values()}) == 8


def test_methods_are_told_apart_without_colour() -> None:
    """Methods that the palette has no colour for, and those unknown to this package, have marks of their own."""
    styles = [method_style(name) for name in (*METHOD_NAMES, "one of yours")]
    assert len({style.symbol for style in styles}) == min(len(styles), 8)
    assert {style.symbol for style in styles} == {s.symbol for s in map(method_style, (*METHOD_NAMES, "another"))}


def test_without_a_law_the_runs_are_still_drawn(tmp_path: Path) -> None:
    """Three runs allow no fit: the page says so, and shows them."""
    folder = ledger(tmp_path / "ledger", runs(budgets=BUDGETS[5:6], methods={"full": None})[:3])
    found = ReportData.open(folder)
    assert found.laws is None
    assert "No law could be fitted" in found.notes[0]
    drawn = figures(found)
    assert len(trace(drawn["frontier"], "full").x) == 3
    assert not any(name.startswith(("forecast", "residuals")) for name in drawn)


def test_a_law_of_other_runs_is_named(tmp_path: Path) -> None:
    folder = ledger(tmp_path / "ledger", runs(noise=0.01))
    found = ReportData.open(folder, law_file(runs(), tmp_path / "law.json"))
    assert found.notes == (
        "The full law was fitted to other runs than this ledger's.",
        "The lora r=d/8 law was fitted to other runs than this ledger's.",
    )
    assert "forecast-full" not in figures(found)
    assert len(Ledger.open(folder).records()) == len(found.records)


def test_a_law_without_a_size_takes_no_forecast_from_the_others(tmp_path: Path) -> None:
    """One power law beside two others took every line from the frontier, in silence, where `recipe` left it out."""
    folder, law = planted_study(tmp_path)
    laws = LawSet.load(law)
    group = next(each for each in group_runs(sorted(frozen(), key=lambda run: run.key), [law_named("power")]))
    power = study([law_named("power")], group, source="planted", draws=0, by=())
    power = power.model_copy(update={"settings": laws.settings})
    LawSet(laws=(*laws.laws, power)).save(tmp_path / "both.json")
    alone, both = ReportData.open(folder, law), ReportData.open(folder, tmp_path / "both.json")
    assert both.grid is not None
    assert alone.grid is not None
    assert [point.loss for point in both.grid.best()] == [point.loss for point in alone.grid.best()]
    assert any("left out of forecasts: its law has no N" in line for line in both.notes)
    assert not any("left out of forecasts" in line for line in alone.notes)
    # nor does it set the slider's range, as long as the figures end with the others
    wide = power.model_copy(update={"range": power.range | {"flop": (1.0, 1e30)}})
    assert stop_budgets(replace(alone, laws=LawSet(laws=(*laws.laws, wide)))) == stop_budgets(alone)


def results(study: str) -> Path:
    return Path(__file__).parents[2] / "benchmarks" / "results" / f"{study}.jsonl.gz"


def test_a_page_of_cuts_has_the_learning_rates_of_their_family() -> None:
    """Its recipes had those of the width rule, two thirds of the family's and less."""
    shown, family = ReportData.open(results("depth_study")).family, family_named("smollm2-135m@")
    assert (shown.name, shown.along) == (family.name, family.along)
    for model in shown.models:
        for method in (Full(), LoRA(rank=8), LoRA(rank=64)):
            assert shown.peak_rate(model, method, steps=300) == family.peak_rate(model, method, steps=300)


@pytest.mark.parametrize(("study", "family"), [("nano_study", "nano"), ("depth_study", "smollm2-135m@")])
def test_the_page_of_what_ships_goes_by_the_law_that_ships(study: str, family: str) -> None:
    """It fitted another one, and named another recipe for the same budget than `recipe`."""
    shown, ships = ReportData.open(results(study)), shipped_law(family)
    assert shown.laws == ships
    assert shown.facts == ()
    assert shown.groups.keys() == {law.method for law in shown.law_files}


def test_a_ledger_of_failures_alone_is_refused_with_a_law_too(tmp_path: Path) -> None:
    """It ended in an IndexError."""
    mine = law_file(runs(), tmp_path / "law.json")
    made = runs()[0].recipe
    failed = FailedRun(recipe=made, key=made.key, notes=(ended("diverged", "text", text="x"),), created="")
    folder = ledger(tmp_path / "ledger", [], failed)
    with pytest.raises(InputError, match="needs runs"):
        ReportData.open(folder, mine)


def test_a_law_that_set_runs_at_chance_aside_is_of_its_ledger_s_runs(tmp_path: Path) -> None:
    """It "was fitted to other runs", in the report of the very ledger that it was fitted to."""
    made = runs(methods={"full": None})
    bad = [
        each.model_copy(update={"heldout": each.heldout.model_copy(update={"loss": 7.0})})
        for each in made[:3]
        if each.heldout is not None
    ]
    folder = ledger(tmp_path / "ledger", [*made[3:], *bad])
    laws = [law_named("hoffmann-odds"), law_named("hoffmann")]
    (group,) = group_runs(Ledger.open(folder).records(), laws)
    law = study(laws, group, source="ledger", draws=200)
    assert law.n_points <= len(made) - 3
    LawSet(laws=(law,)).save(tmp_path / "law.json")
    found = ReportData.open(folder, tmp_path / "law.json")
    assert not [each for each in found.notes if "other runs" in each]
    fitted = figures(found)["forecast-full"].data[0]  # those set aside were drawn as fitted
    assert len(fitted.x) <= law.n_points
