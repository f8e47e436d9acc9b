"""The table of CONTRIBUTING.md, "The house, measured", for any package's source.

python scripts/measure_house.py src/isoembed
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(function: Function) -> int:
    """From its `def` to its last line; decorators not counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters_of(function: Function) -> int:
    """All that a caller may give: `self` and `cls` are not, starred ones are one each."""
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + bool(given.vararg) + bool(given.kwarg)


def types_of(tree: ast.Module) -> Iterator[str]:
    """The names of a file's classes and of its aliases of types; type variables are no aliases."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ):
                if re.fullmatch("[A-Z][a-z].*", name) and not isinstance(value, ast.Call):
                    yield name


def main(package: Path) -> None:
    """Print the table's rows for `package`."""
    files = sorted(package.rglob("*.py"))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, Function)]
    lines = sorted(map(lines_of, functions))
    parameters = list(map(parameters_of, functions))
    types = Counter(name for tree in trees.values() for name in types_of(tree))
    total = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    print(f"files; lines                            {len(files)}; {total:,}")
    print(
        f"functions; median / 95th percentile     {len(functions):,}; {statistics.median(lines):.0f} / "
        f"{lines[int(0.95 * len(lines))]}"
    )
    print(f"functions of more than 60 lines         {sum(count > 60 for count in lines)}")
    print(f"most parameters of one function         {max(parameters)}")
    print(
        f"of more than 8 parameters; more than 10 {sum(n > 8 for n in parameters)}; {sum(n > 10 for n in parameters)}"
    )
    print(f"classes or aliases of one name          {sum(count > 1 for count in types.values())}")
    print(f"files loose at the top                  {len(list(package.glob('*.py')))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
