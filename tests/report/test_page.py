"""The page and its commands: one file, small, offline, a ledger's text as text, numbers those of `recommend`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import kaleido
import pytest
from PIL import Image
from typer.testing import CliRunner

from isoembed.cli import app
from isoembed.cli import report as cli_report
from isoembed.core import InputError
from isoembed.families import NANO
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import method_of
from isoembed.recipe import DataStats, Setup, solve
from isoembed.recommendation.recommend import recommend
from isoembed.records import RunRecord
from isoembed.report.data import ReportData
from isoembed.report.figures import drawings, figures
from isoembed.report.page import json_for_html, page
from isoembed.report.render import write_figures
from isoembed.report.slider import in_a_sentence, stop_budgets, stops
from tests.fitting.ledgers import BUDGETS, DATA, planned, runs
from tests.report.planted import SCRIPT, failed, law_file, ledger, planted_study
from tests.sweep.fake import record


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return planted_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def report_data(study: tuple[Path, Path]) -> ReportData:
    return ReportData.open(*study)


@pytest.fixture(scope="module")
def html(report_data: ReportData) -> str:
    return page(report_data)


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def embedded(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)
    assert found is not None
    value: dict[str, Any] = json.loads(found[1])
    return value


def test_names_from_a_ledger_are_text(html: str) -> None:
    """A run, its data, its task and a failure named as an attacker would: shown as they are, and nothing more."""
    reader = Reader(html)
    assert [tag for tag, _ in reader.elements].count("script") == 3  # data, plotly.js, ours
    assert "img" not in {tag for tag, _ in reader.elements}
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert SCRIPT not in html
    assert reader.text.count(SCRIPT) >= 2  # as the training data's name, and as a failure's reason
    assert SCRIPT in {run["cells"][2] for run in embedded(html)["runs"]}


def test_json_in_html_closes_nothing() -> None:
    value = {"<!--": "</script>", "&": "\u2028 <script>"}
    text = str(json_for_html(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_page_asks_no_server(html: str) -> None:
    reader = Reader(html)
    assert not [tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "embed")]
    assert not [attributes for _, attributes in reader.elements if "src" in attributes]
    links = [attributes["href"] or "" for tag, attributes in reader.elements if tag == "a"]
    assert links
    assert all(link.startswith("#") for link in links)
    targets = {attributes.get("id") for _, attributes in reader.elements}
    assert {link[1:] for link in links} <= targets
    policy = next(a["content"] or "" for _, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_a_dozen_figures_are_open_and_every_one_is_there(html: str, report_data: ReportData) -> None:
    """Forty-seven of the nano study stood open, one below the other."""
    body = html[html.index("<main>") :]
    unfolded = re.sub(r'<details class="more">.*?</details>', "", body, flags=re.DOTALL)
    assert 0 < unfolded.count("<figure>") <= 12
    assert body.count("<figure>") == len(drawings(report_data)) > unfolded.count("<figure>")


def test_the_answer_is_a_sentence_that_is_read_aloud() -> None:
    spec = NANO.model("nano-28k")
    setup, data = Setup(batch_pairs=16, context_tokens=32), DataStats.assumed(32)
    said = {
        in_a_sentence(solve(1e10, model, method_of(method), 1e-3, setup, data, family="nano"))
        for method, model in (
            ("full", spec.model_copy(update={"depth": 3, "name": "nano-28k@3", "whole": "nano-28k"})),
            ("freeze 0.5", spec),
            ("lora r=8", spec),
            ("norms", spec),
        )
    }
    assert {re.sub(r"[0-9,]+ pairs", "some pairs", sentence) for sentence in said} == {
        "Fine-tune the first 3 blocks of nano-28k fully on some pairs.",
        "Fine-tune nano-28k in the last 50% of its blocks on some pairs.",
        "Fine-tune nano-28k with LoRA of rank 8 on some pairs.",
        "Fine-tune nano-28k in its norms alone on some pairs.",
    }
    assert all(re.search(r" on [1-9][0-9,]* pairs", sentence) for sentence in said)


def test_back_tests_stand_beside_the_answer(html: str, report_data: ReportData) -> None:
    assert report_data.laws is not None
    tested = [each for law in report_data.laws.laws for each in law.holdout.values() if each.verdict != "untested"]
    good = sum(each.verdict == "good" for each in tested)
    held = embedded(html)["stops"][0]["held"]
    assert held.startswith(f"{good} of {len(tested)} hold-out" if tested else "no runs were held out")


def test_every_figure_has_its_alt_text(html: str, report_data: ReportData) -> None:
    shown = {
        attributes["data-figure"]: attributes["aria-label"]
        for _, attributes in Reader(html).elements
        if "data-figure" in attributes
    }
    assert shown == {name: made.layout.meta["alt"] for name, made in figures(report_data).items()}
    assert set(shown) == set(embedded(html)["figures"])


def test_every_outcome_is_in_the_page(html: str, report_data: ReportData) -> None:
    """Runs in the table with their loss; the failed one with its reason."""
    shown = {run["cells"][0]: run["cells"][8] for run in embedded(html)["runs"]}
    wanted = {run.key: run.heldout.loss for run in report_data.records if run.heldout}
    assert shown == pytest.approx(wanted, rel=1e-5)
    text = Reader(html).text
    assert failed().reason in text
    assert f"{len(wanted)} done, 1 failed" in text
    assert "isoembed" in text


def test_stops_are_recommendations(report_data: ReportData) -> None:
    """What the slider shows is what `recommend` answers when asked for the same budget, family, law and data."""
    found, reason = stops(report_data)
    assert reason is None
    assert len(found) >= 35
    assert found[-1]["flop"] / found[0]["flop"] > 50
    for stop in found[::5]:
        budget = next(budget for budget in stop_budgets(report_data) if budget.flop == stop["flop"])
        answer = recommend(budget, "nano", law=report_data.laws, data=DATA)
        assert (stop["model"], stop["method"]) == (answer.recipe.model.name, answer.recipe.method.label)
        assert stop["tokens"] == answer.recipe.train_tokens
        assert answer.loss is not None
        assert stop["loss"] == [answer.loss.value, answer.loss.low, answer.loss.high]
        assert answer.certainty is not None
        assert dict(stop["sure"]) == answer.certainty.methods
        assert stop["warnings"] == list(answer.warnings)
    assert [stop["beyond"] for stop in found][-1]
    assert not all(stop["beyond"] for stop in found)


def many(count: int) -> list[RunRecord]:
    """So many runs: every size, budget and seven hyperparameters, in several seeds."""
    found = runs(shares=(1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4), seeds=10)
    assert len(found) >= count
    return sorted(found, key=lambda run: run.key)[:count]


def test_a_thousand_runs_make_a_small_page(tmp_path: Path) -> None:
    records = many(1000)
    records = [run.model_copy(update={"scores": {"a/ndcg@10": 0.1234 + 1e-5 * i, "b/spearman": 0.2}})
               for i, run in enumerate(records)]  # fmt: skip
    law = law_file(records, tmp_path / "law.json")
    html = page(ReportData.open(ledger(tmp_path / "ledger", records), law))
    assert len(embedded(html)["runs"]) == 1000
    assert len(html.encode()) < 6_000_000


def test_a_ledger_too_small_for_a_law_has_a_page_without_a_slider(tmp_path: Path) -> None:
    html = page(ReportData.open(ledger(tmp_path / "ledger", runs(budgets=BUDGETS[5:6], methods={"full": None})[:3])))
    text = Reader(html).text
    assert "No recipe: No law could be fitted" in text
    assert 'id="budget"' not in html
    assert set(embedded(html)["figures"]) >= {"frontier", "isoflop-full"}


def test_runs_of_several_settings_are_refused(tmp_path: Path) -> None:
    other = planned(BUDGETS[5], runs()[0].recipe.model, runs()[0].recipe.method, batch_pairs=32)
    folder = ledger(tmp_path / "ledger", [*runs()[:5], record(other, 4.0)])
    with pytest.raises(InputError, match="batch pairs 64 there, 32 here"):
        ReportData.open(folder)


def test_report_command(study: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    said = CliRunner().invoke(app, ["report", str(study[0]), "--law", str(study[1]), "--out", str(out)]).stdout
    assert f"MB in {out}" in said.replace("\n", "")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert "The answer" in Reader(out.read_text(encoding="utf-8")).text


def draw(study: tuple[Path, Path], name: str, out: Path | None, file_format: str | None = None) -> None:
    wanted = None if file_format is None else cli_report.FigureFormat(file_format)
    cli_report.figure(name, study[0], cli_report.Sides(law=study[1]), out, width=500, height=400, file_format=wanted)


def test_figure_command_lists_and_writes_html(
    study: tuple[Path, Path], report_data: ReportData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(study, "list", tmp_path / "of-no-use")
    assert capsys.readouterr().out.split() == list(figures(report_data))
    draw(study, "frontier", tmp_path / "frontier.html")
    assert "Loss against budget" in (tmp_path / "frontier.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("frontiers", "x.png", "must be one that there is here: frontier, "),
        ("frontier", None, "--out frontier.png"),
        ("frontier", "x.gif", "must end in .png, .svg, .pdf, .html"),
        ("all", None, "need a folder to go to; say --out figures"),
    ],
)
def test_figure_command_words_mistakes(
    study: tuple[Path, Path], tmp_path: Path, name: str, out: str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        draw(study, name, None if out is None else tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_found_before_the_ledger_is_opened(tmp_path: Path) -> None:
    """A fit takes seconds: no ledger is there, and another rule is named."""
    nowhere = (tmp_path / "none", tmp_path / "law.json")
    (tmp_path / "file").touch()
    for name, out, file_format, words in (
        ("all", "file", None, "need a folder"),
        ("frontier", "x.gif", None, "must end in"),
        ("frontier", "x.svg", "svg", "--format"),
    ):
        with pytest.raises(InputError, match=words):
            draw(nowhere, name, tmp_path / out, file_format)


def test_all_figures_go_into_one_folder(
    study: tuple[Path, Path], report_data: ReportData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(study, "all", tmp_path / "figures", "html")
    names = list(drawings(report_data))
    assert f"{len(names)} figures in" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == sorted(f"{name}.html" for name in names)


def test_all_figures_need_one_fit_and_one_browser(
    study: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """46 figures took 20 minutes where each was a fit, a browser and all figures."""
    opened: list[tuple[Path | None, ...]] = []
    started: list[int] = []
    real = ReportData.open

    def once(*places: Path) -> ReportData:
        opened.append(places)
        return real(*places)

    monkeypatch.setattr(ReportData, "open", once)

    def pictures(asked: list[dict[str, Any]], **_: Any) -> None:
        started.append(len(asked))
        for each in asked:
            each["path"].write_bytes(b"drawn")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", pictures)
    draw(study, "all", tmp_path / "figures", "pdf")
    assert len(opened) == 1
    assert started == [len(list((tmp_path / "figures").glob("*.pdf")))]
    assert started[0] > 20


def test_figures_as_png_and_svg(study: tuple[Path, Path], tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("chromium", "chrome", "google-chrome")):
        pytest.skip("PNG and SVG need Chromium: apt-get install chromium")
    draw(study, "isoflop-full", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1000, 800)
        colours = picture.convert("RGB").getcolors(1_000_000)
    assert colours is not None
    assert len(colours) > 50  # not blank
    draw(study, "isoflop-full", tmp_path / "a.svg")
    draw(study, "isoflop-full", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "IsoFLOP profiles, full" in svg


def test_without_plotly_the_command_says_what_to_install(study: tuple[Path, Path]) -> None:
    code = (
        "import sys\n"
        "sys.modules['plotly'] = None\n"
        f"sys.argv = ['isoembed', 'figure', 'frontier', {str(study[0])!r}, '--out', 'frontier.html']\n"
        "from isoembed.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "isoembed: This needs plotly, which is not installed: pip install 'isoembed[report]'.\n"


def test_a_damaged_law_is_named(study: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "law.json").write_text("{}")
    with pytest.raises(InputError, match="is not a law"):
        ReportData.open(study[0], tmp_path / "law.json")
    assert LawSet.load(study[1]).laws


#: names that leave an attribute, an element or a script, act as a link, or turn a line about
HOSTILE = (
    '" onmouseover="window.hacked=1" x="',
    "' onfocus='window.hacked=1' autofocus='",
    '<a href="javascript:window.hacked=1">x</a>',
    "<svg onload=window.hacked=1>",
    "--><!--<script>",
    "{{ 7 * 7 }}${7 * 7}",
    "\u202egnp.exe",
    "&lt;script&gt;&#60;img src=x&#62;",
)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """A ledger in which every name is one of `HOSTILE`."""
    records = []
    for number, run in enumerate(runs()):
        text = HOSTILE[number % len(HOSTILE)]
        data = run.recipe.data.model_copy(update={"source": text})
        renamed = run.recipe.model_copy(update={"data": data})
        scores = {f"{text}/ndcg@10": 0.5, "task/ndcg@10": 1.0 / (run.heldout.loss if run.heldout else 1.0)}
        records.append(record(renamed, run.heldout.loss if run.heldout else 1.0).model_copy(
            update={"scores": scores, "machine": {text: text}, "versions": {text: text}}
        ))  # fmt: skip
    folder = tmp_path_factory.mktemp("attacked")
    return ReportData.open(ledger(folder, records), None)


def only_ours(html: str, scripts: int) -> None:
    """No element, handler or link in `html` but those of the template."""
    elements = Reader(html).elements
    assert [tag for tag, _ in elements].count("script") == scripts
    assert not {"img", "svg", "iframe", "object"} & {tag for tag, _ in elements}
    assert not any(name.startswith("on") or name == "autofocus" for _, named in elements for name in named)
    assert not any("javascript:" in (value or "").lower() for _, named in elements for value in named.values())


def test_hostile_names_stay_text_in_the_page_and_in_every_figure(attacked: ReportData, tmp_path: Path) -> None:
    only_ours(page(attacked), 3)
    made = {name: tmp_path / f"{name}.html" for name in drawings(attacked)}
    write_figures({made[name]: each for name, each in figures(attacked).items()}, width=300, height=200)
    for name in made:
        only_ours((tmp_path / f"{name}.html").read_text(), 3)
