"""Who imports whom (docs: two towers, one hinge), and what must start in a blink."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from isoembed.laws import law_named
from isoembed.laws.files import LawSet
from isoembed.laws.runs import group_runs
from isoembed.laws.study import study
from tests.laws.ledgers import runs

SOURCE = Path(__file__).parents[1] / "src" / "isoembed"
FOUNDATION = {"core", "budget", "estimates", "flops", "families", "methods", "recipe", "records", "scratch"}
DECIDE = {
    "laws",
    "catalogue",
    "constraints",
    "request",
    "recommendation",
    "rules",
    "frontier",
    "measured",
    "recommend",
    "sweep",
}
EXECUTE = {"data", "encoder", "training", "evaluation", "search"}
MAY_IMPORT = {
    **dict.fromkeys(FOUNDATION, FOUNDATION),
    **dict.fromkeys(DECIDE, FOUNDATION | DECIDE),
    **dict.fromkeys(EXECUTE, FOUNDATION | EXECUTE),
    "report": FOUNDATION | DECIDE | {"report"},
    "workflows": FOUNDATION | DECIDE | EXECUTE | {"report", "workflows"},
    "cli": FOUNDATION
    | DECIDE
    | EXECUTE
    | {"report", "workflows", "cli_boundary", "cli_options", "cli_pilot", "cli_report", "cli_sweep", "terminal"},
    "cli_boundary": FOUNDATION,
    "cli_options": FOUNDATION,
    "cli_pilot": FOUNDATION | DECIDE | EXECUTE | {"report", "workflows", "cli_sweep", "terminal"},
    "cli_report": FOUNDATION | DECIDE | {"report", "cli_options", "terminal"},
    "cli_sweep": FOUNDATION | DECIDE | EXECUTE | {"report", "workflows", "cli_options", "terminal"},
    "terminal": set(),
    "__main__": {"cli"},
    "__init__": FOUNDATION | DECIDE | EXECUTE | {"workflows"},
}


def part(file: Path) -> str:
    """`training/loop.py` -> `training`."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST) -> set[str]:
    """Parts of isoembed that the code below `node` imports, types alone left out."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module and child.module.startswith("isoembed."):
            found.add(child.module.split(".")[1])
        elif isinstance(child, ast.ImportFrom) and child.module == "isoembed":
            found |= {name.name for name in child.names}
        elif not is_type_checking(child):
            found |= imports(child)
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_the_right_way(file: Path) -> None:
    assert imports(ast.parse(file.read_text(encoding="utf-8"))) <= MAY_IMPORT[part(file)]


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with two methods' laws."""
    hoffmann = law_named("hoffmann")
    groups = group_runs(runs(), [hoffmann])
    file = tmp_path_factory.mktemp("law") / "law.json"
    LawSet(laws=tuple(study([hoffmann], group, source="planted", draws=200, by=()) for group in groups)).save(file)
    return str(file)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipe", "--budget", "1e17", "--family", "pythia"],
        ["recipe", "--budget", "1e12", "--json"],
        ["recipe", "--budget", "1e12", "--law", "LAW"],
        ["models", "--family", "qwen3"],
    ],
    ids=["help", "recipe", "json", "law", "models"],
)
def test_starts_without_torch(arguments: list[str], law: str) -> None:
    """An import of torch, transformers or scipy anywhere on the way would cost seconds: it is made to fail here."""
    arguments = [law if argument == "LAW" else argument for argument in arguments]
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'datasets', 'scipy', 'sentence_transformers', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['isoembed', *{arguments!r}]\n"
        "from isoembed.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_pickle_no_eval(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not names & {"eval", "exec"}
    assert not modules & {"pickle", "dill", "cloudpickle"}
    assert not attributes & {"torch.load", "torch.save"}
