"""README and docs as a user follows them: every command shown exists, their Python runs, their JSON tables are true.

Blocks of the docs that say `exec` are run when the site is built (`make docs`), which fails where one fails.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import isoembed
from isoembed.cli import app
from isoembed.records import Ledger
from isoembed.workflows import sweep

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "benchmarks" / "results" / "nano_study.jsonl.gz"
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(info string, content) of every fenced block."""
    for match in re.finditer(r"^```(\S.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield match[1], match[2]


def shown_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `isoembed` command in the page's blocks, pipes and comments left out."""
    for info, content in blocks(page):
        language = info.split()[0]
        if language not in ("sh", "bash", "console", "text"):
            continue
        for line in content.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ")
            if command == line and language in ("console", "text"):
                continue  # output
            words = shlex.split(command.split(" | ")[0], comments=True)
            if "isoembed" in words[:6]:  # also behind `torchrun ... -m`
                yield words[words.index("isoembed") + 1 :]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below `command`, with its name as typed."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed command or option, or a value of the wrong type, fails here; nothing is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text('out = "there"\n')
    for words in shown_commands(page):
        name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
        assert name is not None, words
        arguments = words[len(name.split()) :]
        whole = get_command(app).make_context("isoembed", ["models"])
        COMMANDS[name].make_context(name, [word for word in arguments if word not in ("--debug", "...")], parent=whole)


def test_commands_are_found_in_pages() -> None:
    """The test above is no good if it finds nothing."""
    found = {page.name: len(list(shown_commands(page))) for page in PAGES}
    assert found["README.md"] >= 1
    assert found["study.md"] > 8
    assert found["tutorial.md"] > 4


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_code_of_the_docs_is_run_when_they_are_built(page: Path) -> None:
    for info, _ in blocks(page):
        if info.split()[0] in ("python", "console"):
            assert 'exec="1"' in info, f"a block of {page.name} is never run: {info}"


def test_every_public_name_stands_on_the_page_of_python() -> None:
    """13 of them did not."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = [entry.rpartition(".")[2] for entry in re.findall(r"^::: (isoembed\S+)$", page, re.MULTILINE)]
    assert set(isoembed.__all__) - set(shown) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json(name: str) -> None:
    assert "--json" in [option for parameter in COMMANDS[name].params for option in parameter.opts]


# ---- the tables of docs/json.md, against what is printed --------------------------------------------------------


def documented() -> dict[str, set[str]]:
    """Command -> the keys in the first column of its table."""
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {
        match[1]: {
            key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
        }
        for section in sections
        if (match := re.match(r"`(.+)`\n", section))
    }


def test_every_command_has_its_table() -> None:
    assert set(documented()) == set(COMMANDS)


def printed(*arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, a model trained on them, a task and a planned sweep."""
    folder = tmp_path_factory.mktemp("docs")
    rows = [{"anchor": f"what is item {n}?", "positive": f"item {n} costs {n * 7} coins"} for n in range(300)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "documents.jsonl").write_text('{"title": "A", "text": "item 3 costs 21 coins"}\n')
    (folder / "categories.csv").write_text("task,category\na,one\nb,one\n")
    (folder / "scores.csv").write_text("a,b\n" + "".join(f"{n},{n * n % 7}\n" for n in range(9)))
    task = folder / "tasks" / "sts" / "coins"
    task.mkdir(parents=True)
    (task / "test.jsonl").write_text("".join(
        json.dumps({"s1": "item 1", "s2": f"item {n}", "score": n}) + "\n" for n in range(3)
    ))  # fmt: skip
    return folder


def elsewhere(folder: Path) -> Path:
    """Runs of the ledger that ships, as if their batch had been another."""
    for run in Ledger.open(LEDGER).records()[:2]:
        recipe = run.recipe.model_copy(update={"batch_pairs": 64})
        Ledger(folder).add(run.model_copy(update={"recipe": recipe, "key": recipe.key}))
    return folder


@pytest.fixture(scope="module")
def values(place: Path) -> dict[str, Any]:
    """What each command prints."""
    categories = str(place / "categories.csv")
    pairs, demo, ledger = str(place / "pairs.jsonl"), str(place / "demo"), str(place / "ledger")
    job = ["--budget", "1e9", "--method", "full", "--model", "nano-28k", "--data", pairs, "--batch-pairs", "16"]
    found = {
        "recipe": printed("recipe", "--budget", "1e13"),
        "models": printed("models", "--family", "nano"),
        "data inspect": printed("data", "inspect", pairs),
        "run": printed("run", *job, "--out", demo),
        "train": printed("train", *job, "--out", str(place / "other")),
        "eval": printed("eval", demo, "--data", str(place / "tasks")),
        "data mine": printed("data", "mine", demo, pairs, "--out", str(place / "mined.jsonl")),
        "published": printed("published"),
        "merge": printed("merge", demo, "--base", ".5", "--out", str(place / "mean")),
        "trim": printed("trim", "nano/nano-28k", pairs, "--out", str(place / "trimmed")),
        "certify": printed("certify", demo),
        "push": printed("push", demo, "acme/demo", "--dry-run"),
        "cache": printed("cache"),
        "search": printed("search", demo, "item", "--documents", str(place / "documents.jsonl"))[0],
        "fit": printed(
            *("fit", str(LEDGER), "--law", "hoffmann", "--bootstrap", "0", "--holdout", "none"),
            *("--out", str(place / "law.json")),
        )["laws"][0],
        "validate": printed("validate", str(place / "law.json"), str(elsewhere(place / "elsewhere"))),
        "figure": printed("figure", "frontier", str(LEDGER), "--out", str(place / "frontier.html")),
        "report": printed("report", str(LEDGER), "--out", str(place / "report.html")),
        "ledger correlate": printed("ledger", "correlate", str(LEDGER))[0],
        "ledger subset": printed("ledger", "subset", str(place / "scores.csv"), "--categories", categories)[0],
        "ledger export": printed("ledger", "export", str(LEDGER), str(place / "runs.csv")),
        "sweep plan": printed(
            *("sweep", "plan", "--out", ledger, "--data", pairs, "--models", "nano-28k", "--methods", "full"),
            *("--budgets", "3e8", "--batch-pairs", "16", "--min-steps", "1", "--rate-steps", "none"),
        ),
        "sweep status": printed("sweep", "status", ledger),
        "sweep list": printed("sweep", "list", ledger)[0],
    }
    found["sweep show"] = printed("sweep", "show", ledger, "")  # the beginning of the one key there is
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_sweep", lambda *_, **__: None)  # as if stopped at once
        found["sweep run"] = printed("sweep", "run", ledger, status=130)
    found["sweep retry"] = printed("sweep", "retry", ledger)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_keys_printed_are_the_keys_documented(name: str, values: dict[str, Any]) -> None:
    assert set(values[name]) == documented()[name]


def test_python_of_the_readme_runs(place: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`demo` is the folder that the README trains."""
    assert values["run"]["out"] == str(place / "demo")
    monkeypatch.chdir(place)
    found = [content for info, content in blocks(ROOT / "README.md") if info == "python"]
    assert found
    for content in found:
        exec(compile(content, "README.md", "exec"), {})


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the values at the ends of its cells, figures among them, show themselves."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path / "docs")
    cells = json.loads((ROOT / "docs" / "first-study.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "clear the outputs: they age, and hold paths"
    names: dict[str, Any] = {}
    shown = []
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        code = ast.parse("".join(cell["source"]))
        last = code.body[-1]
        if isinstance(last, ast.Expr):
            code.body.pop()
        exec(compile(code, "notebook", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
            shown.append(type(value).__name__)
            assert getattr(value, "_repr_html_", lambda value=value: repr(value))()
    assert shown.count("Figure") == 2
