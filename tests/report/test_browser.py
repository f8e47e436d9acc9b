"""The page in a real browser: the slider, the table, the figures, at three widths, light and dark."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from isoembed.report.data import ReportData
from isoembed.report.page import page
from isoembed.report.slider import recommended, stop_budgets
from isoembed.report.terminal.layout import si
from tests.report.planted import SCRIPT, planted_evidence

WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1400}


class Browser:
    """A headless Chromium with the page open."""

    def __init__(self, file: Path) -> None:
        options = Options()
        chromium = shutil.which("chromium")
        assert chromium is not None
        options.binary_location = chromium
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.url = file.as_uri()

    def open(self, width: int = 1400, *, scheme: str = "light") -> None:
        """The page anew, at a width and in a colour scheme, with everything drawn that is near."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "hover", "value": "hover"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(self.url)
        self.until("return document.documentElement.dataset.ready && window.Plotly")

    def until(self, script: str, *arguments: Any) -> Any:
        """The first true answer to `script`."""
        return WebDriverWait(self.driver, 30).until(lambda driver: driver.execute_script(script, *arguments))

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def plot(self, name: str) -> WebElement:
        """A figure, scrolled to and drawn."""
        place = self.driver.find_element(By.CSS_SELECTOR, f'[data-figure="{name}"]')
        unfold = "if (arguments[0].closest('details')) arguments[0].closest('details').open = true;"
        self.driver.execute_script(f"{unfold} arguments[0].scrollIntoView({{block: 'center'}})", place)
        self.until("return arguments[0].querySelector('.scatterlayer .trace')", place)
        return place

    def errors(self) -> list[str]:
        """What the console has said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def rows(self) -> list[list[str]]:
        """The visible rows of the table of runs."""
        found: list[list[str]] = self.driver.execute_script(
            "return [...document.querySelectorAll('#table tbody tr:not([hidden])')]"
            ".map((line) => [...line.cells].map((cell) => cell.textContent))"
        )
        return found


@pytest.fixture(scope="module")
def report_data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return planted_evidence(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def started(report_data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(report_data), encoding="utf-8")
    browser = Browser(file)
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """The page as a reader opens it; whatever the test does, the console stays silent."""
    started.open()
    yield started
    assert started.errors() == []


def test_slider_shows_what_recommend_answers(browser: Browser, report_data: ReportData) -> None:
    """By keyboard over every stop: model, method, tokens, predicted loss and probabilities are those of `recommend`."""
    slider = browser["budget"]
    slider.send_keys(Keys.HOME)
    seen = 0
    for budget in stop_budgets(report_data):
        if browser["budget-text"].text != budget.stated:
            assert seen == 0  # budgets that pay for no step come first, and have no stop
            continue
        answer = recommended(report_data, budget)
        recipe = answer.recipe
        words = f"{recipe.method.label} on {recipe.model.name}, {si(recipe.train_tokens)} tokens"
        assert browser["headline"].text == words
        assert answer.loss is not None
        assert browser["predicted"].text == answer.loss.describe()
        assert answer.reach is not None
        assert browser["reach"].text == answer.reach.describe()
        assert answer.certainty is not None
        bars = browser.driver.find_elements(By.CSS_SELECTOR, "#sure .bar")
        assert [bar.text.split() for bar in bars] == [
            [name, f"{share:.3f}"] for name, share in answer.certainty.methods.items()
        ]
        assert slider.get_attribute("aria-valuetext") == budget.stated
        seen += 1
        slider.send_keys(Keys.ARROW_RIGHT)
    assert seen > 30


def test_slider_is_dragged_and_the_frontier_follows(browser: Browser) -> None:
    frontier = browser.plot("frontier")
    slider = browser["budget"]
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    before = browser["headline"].text, browser["budget-text"].text
    # headless, the thumb stands in the middle
    ActionChains(browser.driver).click_and_hold(slider).move_by_offset(500, 0).release().perform()
    after = browser["headline"].text, browser["budget-text"].text
    assert after != before
    assert float(after[1].split()[0]) > 3 * float(before[1].split()[0])
    line = browser.driver.execute_script("return arguments[0].layout.shapes.at(-1).x0", frontier)
    assert f"{line:.3g} FLOP" == after[1]


def test_device_changes_the_cost(browser: Browser) -> None:
    before = browser["cost"].text
    assert "h100" in before
    browser["device"].send_keys("t4")
    assert "t4" in browser["cost"].text
    assert browser["cost"].text != before


def test_table_sorts_and_filters(browser: Browser, report_data: ReportData) -> None:
    losses = sorted(run.heldout.loss for run in report_data.records if run.heldout)
    assert [float(row[8]) for row in browser.rows()] == pytest.approx(losses, rel=1e-3)  # the best first
    head = browser.driver.find_element(By.XPATH, "//th/button[text()='loss']")
    head.send_keys(Keys.ENTER)  # by keyboard: the same column again turns it round
    assert [float(row[8]) for row in browser.rows()] == pytest.approx(losses[::-1], rel=1e-3)
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    browser.driver.find_element(By.XPATH, "//th/button[text()='model']").click()
    models = [row[2] for row in browser.rows()]
    assert models == sorted(models)
    browser["filter"].send_keys("lora nano-113k")
    wanted = {
        run.key
        for run in report_data.records
        if run.recipe.method.name == "lora" and run.recipe.model.name == "nano-113k"
    }
    assert {row[0] for row in browser.rows()} == wanted
    assert browser["count"].text == f"{len(wanted)} of {len(report_data.records)} runs"


def test_point_and_key_open_the_runs_recipe(browser: Browser, report_data: ReportData) -> None:
    place = browser.plot("isoflop-full")
    point = place.find_element(By.CSS_SELECTOR, ".point")
    ActionChains(browser.driver).move_to_element(point).pause(0.5).click().perform()
    browser.until("return document.getElementById('run').open")
    key = browser["run-title"].text.removeprefix("Run ")
    run = next(run for run in report_data.records if run.key == key)
    assert run.recipe.method.name == "full"
    facts = browser["run-facts"].text
    assert run.recipe.model.name in facts
    assert f"{run.heldout.loss:.4g}" in facts  # type: ignore[union-attr]
    browser.driver.find_element(By.CSS_SELECTOR, "#run form button").click()
    assert not browser.driver.execute_script("return document.getElementById('run').open")
    assert browser.driver.find_element(By.CSS_SELECTOR, "tr.chosen").get_attribute("data-key") == key


def test_a_script_in_a_name_is_text(browser: Browser) -> None:
    browser["filter"].send_keys("window.hacked")
    (row,) = browser.rows()
    assert row[2] == SCRIPT
    browser.driver.find_element(By.CSS_SELECTOR, "#table tbody tr:not([hidden]) button").send_keys(Keys.ENTER)
    assert SCRIPT in browser["run-facts"].get_attribute("textContent")  # type: ignore[operator]
    browser.driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")  # draws every figure
    assert browser.driver.execute_script("return window.hacked === undefined")
    assert SCRIPT in browser.until("return document.body.textContent")


def test_nothing_is_fetched(browser: Browser) -> None:
    browser.plot("frontier")
    assert browser.driver.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_page_fits_every_width_and_is_not_blank(browser: Browser, width: int, scheme: str) -> None:
    browser.open(width, scheme=scheme)
    wide = browser.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    cut = "const box = document.getElementById('others').parentElement; return box.scrollWidth - box.clientWidth"
    assert browser.driver.execute_script(cut) <= 0  # the best of each method can be read without scrolling
    place = browser.plot("frontier")
    browser.until("return document.readyState === 'complete'")
    with Image.open(io.BytesIO(place.screenshot_as_png)) as picture:
        counts = picture.convert("L").histogram()
    assert sum(count > 0 for count in counts) > 50  # shades of grey: not blank
    ground = counts.index(max(counts))
    assert (ground > 200) == (scheme == "light")


def test_print_draws_every_figure_on_white(browser: Browser) -> None:
    browser.open(scheme="dark")
    browser.driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    grounds = browser.until(
        "const all = [...document.querySelectorAll('.plot')];"
        "return all.every((p) => p._fullLayout) && all.map((p) => p._fullLayout.paper_bgcolor)"
    )
    assert set(grounds) == {"#ffffff"}
    assert browser.driver.execute_script("return [...document.querySelectorAll('details')].every((d) => d.open)")
