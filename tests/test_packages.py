"""What is imported is declared, in the extra whose commands need it; what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zlib
from pathlib import Path

import pytest

from isoembed.cli import boundary
from isoembed.core import not_installed
from tests.test_architecture import DECIDE, GROUND, SOURCE, is_type_checking, part

PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: packages whose module has another name
MODULES = {"pyyaml": "yaml"}
#: not imported by a statement: tensorboard is by its name, bitsandbytes works through accelerate
BY_NAME = {"tensorboard", "accelerate"}
#: how methods are applied to a model: imported when one is
APPLIED = {Path("methods/adapters.py"), Path("methods/parts.py")}


def names(requirements: list[str]) -> set[str]:
    """`["torch>=2.8", "isoembed[hub]"]` -> the modules of these, extras of this package followed."""
    found: set[str] = set()
    for requirement in requirements:
        if own := re.match(r"isoembed\[(.+)\]", requirement):
            found |= set().union(*(names(EXTRAS[extra]) for extra in own[1].split(",")))
        else:
            name = re.split(r"[<>=\[]", requirement)[0].replace("-", "_")
            found.add(MODULES.get(name, name))
    return found


def imported(node: ast.AST, *, lazily: bool) -> set[str]:
    """Packages of others that the code below `node` imports, types alone left out."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            found.add(child.module.split(".")[0])
        elif isinstance(child, ast.Import):
            found |= {name.name.split(".")[0] for name in child.names}
        elif not is_type_checking(child) and (lazily or not isinstance(child, ast.FunctionDef)):
            found |= imported(child, lazily=lazily)
    return found - sys.stdlib_module_names - {"isoembed"}


def of(file: Path, *, lazily: bool) -> set[str]:
    return imported(ast.parse(file.read_text(encoding="utf-8")), lazily=lazily)


CORE = names(PROJECT["dependencies"])
FILES = sorted(SOURCE.rglob("*.py"))


def test_deciding_needs_the_small_install_alone() -> None:
    for file in FILES:
        if part(file) in GROUND | DECIDE | {"cli"}:
            heavy = of(file, lazily=False) - CORE
            assert not heavy or file.relative_to(SOURCE) in APPLIED, (file, heavy)


def test_every_import_is_declared_and_every_package_imported() -> None:
    used = set().union(*(of(file, lazily=True) for file in FILES))
    declared = CORE | set().union(*(names(EXTRAS[extra]) for extra in EXTRAS if extra not in {"dev", "docs"}))
    assert used - declared == set()
    assert declared - used - BY_NAME == set()


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("sentence_transformers.util", "train"), ("datasets", "hub"), ("plotly.io", "report")],
)
def test_an_absent_package_is_one_line_that_names_its_extra(module: str, extra: str) -> None:
    line = boundary.line_of(ModuleNotFoundError(name=module))
    assert line is not None
    assert line.endswith(f"which is not installed: pip install 'isoembed[{extra}]'.")
    assert not_installed("no_package_of_ours") is None


def test_a_wheel_stays_small() -> None:
    """Under 8 MB: what is left out of it is listed; a new model, or a pattern that fits nothing, would fail here."""
    tools = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["tool"]
    left_out, kept = set[Path](), set[Path]()
    for pattern in tools["hatch"]["build"]["targets"]["wheel"]["exclude"]:
        found = set(SOURCE.parents[1].glob(pattern.removeprefix("!")))
        assert found, pattern
        (kept if pattern.startswith("!") else left_out).update(found)
    sizes = {
        file: len(zlib.compress(file.read_bytes(), 1))
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not ({file, *file.parents} & left_out - kept)
    }
    assert SOURCE / "assets" / "nano" / "nano-28k" / "tokenizer.json" in sizes
    assert sum(sizes.values()) < 8e6
