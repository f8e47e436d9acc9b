"""The documentation of this Python environment: pairs from the docstrings of the standard library and of the packages
that isoembed itself trains with, or of all that are installed, read with `ast`, never by importing.

    summary                   ->  body              (the first paragraph, the prose after it)
    owner and parameter name  ->  description       (`minimize tol`)

Deterministic for an environment: files in the order of their dotted names, no dependence on paths, dates or the hash
seed.  No query and no positive occurs twice, so boilerplate does not pile up.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from isoembed.core import fingerprint
from isoembed.data.normalize import normalized
from isoembed.data.pair import Pair
from isoembed.data.sources import docstring_text
from isoembed.data.sources.base import RowOptions, Source
from isoembed.data.sources.docstring_text import DocText, read_docstring

#: never read: tests, copies of other packages, this package
SKIPPED_FOLDERS = re.compile(
    r"tests?|_?testing|idle_test|_?vendor(ed)?|extern(als)?|third_party|lib2to3|idlelib|turtledemo|__pycache__|isoembed"
)
SKIPPED_FILES = re.compile(r"(test_.*|.*_tests?|conftest|.*_pb2(_grpc)?|setup)\.py")
#: share of a file that must be triple-quoted text of LONG bytes or more for the file to be worth parsing: what is left
#: out would be more than half of the time for three in ten summaries and one in ten parameters
DENSITY = 0.2
LONG = 120
_TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""', re.DOTALL)
#: below this many files other processes cost more than they save
PARALLEL_FILES = 512
#: what `pip install isoembed[train]` brings, with what it needs, by the names that are imported: read by default, so
#: that pairs do not depend on what else is installed
# fmt: off
PACKAGES = frozenset((
    "annotated_types", "bm25s", "certifi", "click", "filelock", "fsspec", "hf_xet", "httpx", "httpx2",
    "huggingface_hub", "idna", "jinja2", "joblib", "markdown_it", "markupsafe", "mdurl", "mpmath", "narwhals",
    "networkx", "numpy", "packaging", "peft", "psutil", "pyarrow", "pydantic", "pydantic_core", "pygments", "regex",
    "requests", "rich", "safetensors", "scipy", "sentence_transformers", "setuptools", "shellingham", "sklearn",
    "sympy", "threadpoolctl", "tokenizers", "torch", "tqdm", "transformers", "typer", "typing_extensions",
    "typing_inspection", "urllib3", "xxhash", "yaml",
))
# fmt: on
#: of the packages that isoembed trains with, of all that are installed
NAMES = ("docstrings", "docstrings:all")
#: parameter names that say nothing
IGNORED = frozenset({"self", "cls", "args", "kwargs"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented module, class or function."""

    title: str
    group: str
    text: DocText


class Docstrings(Source):
    """Pairs from docstrings; `group` is the top-level package.

    `roots` are the folders that hold packages; None: the standard library and site-packages of this interpreter, and of
    these only `PACKAGES` unless `everything` is asked for.
    """

    def __init__(self, roots: tuple[Path, ...] | None = None, *, everything: bool = False) -> None:
        super().__init__()
        self.label = NAMES[everything]
        self.packages = None if everything or roots is not None else PACKAGES | sys.stdlib_module_names
        self.roots = roots if roots is not None else environment_roots()

    @classmethod
    def named(cls, spec: str, options: RowOptions) -> Self | None:
        return cls(everything=spec == NAMES[1]) if spec in NAMES else None

    @classmethod
    def absolute(cls, spec: str) -> str | None:
        return spec if spec in NAMES else None

    def fingerprint(self) -> str:
        rules = [Path(str(file)).read_bytes() for file in (__file__, docstring_text.__file__)]
        contents = [
            (name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in modules(self.roots, self.packages)
        ]
        return fingerprint([[hashlib.sha256(rule).hexdigest() for rule in rules], contents])

    def pairs(self) -> Iterator[Pair]:
        queries: set[str] = set()
        positives: set[str] = set()
        for entry in entries(self.roots, self.packages):
            owner = _owner(entry.title)
            candidates = [(entry.text.summary, entry.text.body)] if entry.text.body else []
            candidates += [(f"{owner} {name}", text) for name, text in entry.text.parameters if name not in IGNORED]
            for query, positive in candidates:
                same_query, same_positive = normalized(query), normalized(positive)
                if same_query in queries or same_positive in positives:
                    self.skipped["duplicate"] += 1
                elif same_query in same_positive:
                    self.skipped["query within positive"] += 1
                else:
                    queries.add(same_query)
                    positives.add(same_positive)
                    yield Pair(query, positive, group=entry.group)


def documents(roots: tuple[Path, ...] | None = None) -> Iterator[tuple[str, str]]:
    """(title, summary and body) of all that is public, for search: `scipy.optimize.minimize`.  Each text once."""
    seen: set[str] = set()
    for entry in entries(roots if roots is not None else environment_roots()):
        text = f"{entry.text.summary} {entry.text.body}".strip()
        if entry.title.rpartition(".")[2].startswith("_") or normalized(text) in seen:
            continue
        seen.add(normalized(text))
        yield entry.title, text


def environment_roots() -> tuple[Path, ...]:
    """The folders of the standard library and of the installed packages."""
    paths = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return tuple(Path(path) for path in dict.fromkeys(map(os.path.realpath, paths)))


def modules(roots: tuple[Path, ...], packages: frozenset[str] | None = None) -> list[tuple[str, Path]]:
    """(dotted name, file) of every module worth reading, of all packages or of these, sorted by name.

    Folders whose name is no identifier (site-packages within the standard library, *.dist-info) are no packages.
    """
    found: dict[str, Path] = {}
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name.isidentifier() and not SKIPPED_FOLDERS.fullmatch(name)]
            parts = Path(folder).relative_to(root).parts
            if not parts and packages is not None:
                folders[:] = [name for name in folders if name in packages]
                files = [name for name in files if name.removesuffix(".py") in packages]
            for file in files:
                stem = file.removesuffix(".py")
                if file.endswith(".py") and stem.isidentifier() and not SKIPPED_FILES.fullmatch(file):
                    found.setdefault(".".join(parts if stem == "__init__" else (*parts, stem)), Path(folder, file))
    found.pop("", None)
    return sorted(found.items())


def entries(roots: tuple[Path, ...], packages: frozenset[str] | None = None) -> Iterator[Entry]:
    """Every documented thing in order; files are parsed in several processes where there are many."""
    found = modules(roots, packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(found) < PARALLEL_FILES or cores == 1:
        for name, file in found:
            yield from entries_of(name, file)
        return
    import joblib  # its processes need no `if __name__ == "__main__"` in the caller's script and do not fork threads

    groups = [found[start : start + 64] for start in range(0, len(found), 64)]
    parallel = joblib.Parallel(n_jobs=cores, return_as="generator", pre_dispatch=2 * cores)
    for entries in parallel(joblib.delayed(_entries_of_all)(group) for group in groups):
        yield from entries


def _entries_of_all(group: list[tuple[str, Path]]) -> list[Entry]:
    return [entry for name, file in group for entry in entries_of(name, file)]


def entries_of(module: str, file: Path) -> list[Entry]:
    """The documented things of one file; none where it has little documentation or is no valid Python."""
    source = file.read_bytes()
    if sum(len(text) for text in _TRIPLE_QUOTED.findall(source) if len(text) >= LONG) < DENSITY * len(source):
        return []
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # unknown encodings and nul bytes are among these
        return []
    group = module.partition(".")[0]
    found = []
    for names, node in _documented(tree, ()):
        docstring = ast.get_docstring(node, clean=False)
        text = read_docstring(docstring) if docstring and len(docstring) >= 40 else None
        if text is not None:
            found.append(Entry(_title(module, names), group, text))
    return found


def _parse(source: bytes) -> ast.Module:
    """The syntax tree.  The garbage collector rests: a tree is many objects at once, and looking through them again and
    again costs as much as making them."""
    resting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source)
    finally:
        if resting:
            gc.enable()


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Documented]]:
    """`node` and the classes and functions in it, with their names from the module inwards; none inside functions."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        names = names if isinstance(node, ast.Module) else (*names, node.name)
        yield names, node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                yield from _documented(child, names)


def _owner(title: str) -> str:
    """What the parameters belong to: the function, or the class where the function is a special method."""
    names = [name for name in title.split(".") if not name.startswith("__")]
    return names[-1].strip("_") if names else title


def _title(module: str, names: tuple[str, ...]) -> str:
    """The name people know: private modules and `__init__` left out."""
    package = [part for part in module.split(".") if not part.startswith("_")]
    return ".".join([*package, *(name for name in names if name != "__init__")]) or module
