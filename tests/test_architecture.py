"""Who imports whom (two towers, one hinge; nothing in a circle), and what must start in a blink."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.sweep.advance import plan_sweep
from tests.fitting.ledgers import runs
from tests.sweep.fake import request

SOURCE = Path(__file__).parents[1] / "src" / "isoembed"
GROUND = {
    *("cache", "core", "budget", "estimates", "flops", "families", "hub", "methods", "notes", "options"),
    *("published", "recipe", "records", "scratch"),
}
DECIDE = {"laws", "fitting", "recommendation", "sweep", "pilot"}
EXECUTE = {"data", "encoder", "training", "evaluation"}
BOTH = GROUND | DECIDE | EXECUTE
#: what each room may import beside itself
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "laws": GROUND,
    "fitting": GROUND | {"laws"},
    "recommendation": GROUND | {"laws", "fitting"},
    "pilot": GROUND | {"laws", "fitting"},
    "sweep": GROUND | {"laws", "fitting", "recommendation", "pilot"},
    "data": GROUND,
    "encoder": GROUND | {"data"},
    "training": GROUND | {"data", "encoder"},
    "evaluation": GROUND | {"data", "encoder", "training"},
    "workflows": BOTH,
    "report": GROUND | DECIDE,
    "cli": BOTH | {"workflows", "report"},
    "__main__": {"cli"},
    "__init__": BOTH | {"workflows"},
}


def part(file: Path) -> str:
    """`training/loop.py` -> `training`."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST) -> set[str]:
    """What the code below `node` imports of isoembed, as dotted names, inside functions too; types alone left out."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "isoembed":
            found |= {f"{child.module}.{name.name}" for name in child.names}
        elif isinstance(child, ast.Import):
            found |= {name.name for name in child.names if name.name.startswith("isoembed.")}
        elif not is_type_checking(child):
            found |= imports(child)
    return found


def rooms(names: set[str]) -> set[str]:
    """`isoembed.training.loop.run` -> `training`."""
    return {name.split(".")[1] for name in names}


FILES = sorted(SOURCE.rglob("*.py"))
NAMES = {file: ".".join(("isoembed", *file.relative_to(SOURCE).with_suffix("").parts)) for file in FILES}
IMPORTS = {file: imports(ast.parse(file.read_text(encoding="utf-8"))) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_the_right_way(file: Path) -> None:
    assert rooms(IMPORTS[file]) <= MAY_IMPORT[part(file)] | {part(file)}


def test_nothing_imports_in_a_circle() -> None:
    """Neither modules nor rooms, lazily or not; a `CycleError` names the circle."""
    by_name = {NAMES[file].removesuffix(".__init__"): IMPORTS[file] for file in FILES}
    modules = {
        name: {found if found in by_name else found.rpartition(".")[0] for found in names} & by_name.keys() - {name}
        for name, names in by_name.items()
    }
    tuple(TopologicalSorter(modules).static_order())
    by_room: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        by_room[part(file)] |= rooms(IMPORTS[file]) - {part(file)}
    tuple(TopologicalSorter(by_room).static_order())


def test_no_two_types_have_one_name() -> None:
    """`Rows` was a value of laws, an array of row numbers and a pair of tensors."""
    types_of = runpy.run_path(str(SOURCE.parents[1] / "scripts" / "measure_house.py"))["types_of"]
    places: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for name in types_of(ast.parse(file.read_text(encoding="utf-8"))):
            places[name].append(str(file.relative_to(SOURCE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_function_takes_more_than_ten_parameters(file: Path) -> None:
    """More are a missing value: options grouped as `Setup`, `Execution` or the command line's option groups."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name not in ("self", "cls")]) <= 10, node.name


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with two methods' laws."""
    hoffmann = law_named("hoffmann")
    groups = group_runs(runs(), [hoffmann])
    file = tmp_path_factory.mktemp("law") / "law.json"
    LawSet(laws=tuple(study([hoffmann], group, source="planted", draws=200, by=()) for group in groups)).save(file)
    return str(file)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a planned sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    plan_sweep(folder, request())
    return str(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipe", "--budget", "1e17", "--family", "pythia"],
        ["recipe", "--budget", "1e12", "--json"],
        ["recipe", "--budget", "1e12", "--law", "LAW"],
        ["models", "--family", "qwen3"],
        ["sweep", "status", "SWEEP"],
        ["sweep", "list", "SWEEP"],
        ["sweep", "retry", "SWEEP"],
        ["sweep", "plan", "--out", "SWEEP"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_starts_without_torch(arguments: list[str], law: str, planned: str) -> None:
    """An import of torch, transformers or scipy anywhere on the way would cost seconds: it is made to fail here."""
    arguments = [{"LAW": law, "SWEEP": planned}.get(argument, argument) for argument in arguments]
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
