"""Pairs from docstrings: what is read as prose, what is left out, and that nothing but the files matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isoembed.data.pair import Pair
from isoembed.data.sources import absolute, docstrings, open_source
from isoembed.data.sources.docstring_text import DocText, clean, read_docstring
from isoembed.data.sources.docstrings import Docstrings, documents

NUMPY = """
    Fit a straight line to the points.

    The line is the one with the least squared distance from all of the points, as given by
    :func:`~numpy.polyfit`. It is found in one pass::

        fit(x, y)

    See the formula below:

    .. math:: y = a x + b

    Parameters
    ----------
    points : array_like, shape (n, 2)
        The points to which the line is to be fitted, in any order.

        .. versionadded:: 1.2
    mode : {'a', 'b'}, optional
        Short.
    copy : bool
        Whether to copy the points or to work on them in place (the default).
        Ignored where they are of another type.

    Returns
    -------
    line : tuple
        The slope and the intercept of the line that was found by the fit.

    Notes
    -----
    The sum of the squares is accumulated in double precision, whatever the type of the points is.

    Examples
    --------
    >>> fit([[0, 0]])
"""

GOOGLE = """Open the archive for reading and check that it is whole.

    Args:
        path (`str` or `Path`, *optional*): Where the archive lies on the disk,
            or in the cache of the user.
        mode: how to open it, as for the built-in function of this name.

    Returns:
        The opened archive, ready to be read from the start to the end.
    """

REST = """Send the request to the server and wait for the answer.

    :param url: the address of the server to which the request is to be sent,
        without a slash at the end
    :param int retries: how many times to try again before the request is given up
    :returns: the answer of the server as it came over the wire
    """


def test_numpy_style() -> None:
    """Code, formulas, directives, returns and examples are left out; what leads to them is cut."""
    assert read_docstring(NUMPY) == DocText(
        "Fit a straight line to the points.",
        "The line is the one with the least squared distance from all of the points, as given by numpy.polyfit. "
        "The sum of the squares is accumulated in double precision, whatever the type of the points is.",
        (
            ("points", "The points to which the line is to be fitted, in any order."),
            (
                "copy",
                "Whether to copy the points or to work on them in place (the default). "
                "Ignored where they are of another type.",
            ),
        ),
    )


def test_google_style() -> None:
    text = read_docstring(GOOGLE)
    assert text is not None
    assert text.summary == "Open the archive for reading and check that it is whole."
    assert text.body == ""
    assert text.parameters == (
        ("path", "Where the archive lies on the disk, or in the cache of the user."),
        ("mode", "how to open it, as for the built-in function of this name."),
    )


def test_rest_style() -> None:
    text = read_docstring(REST)
    assert text is not None
    assert text.body == ""
    assert text.parameters == (
        ("url", "the address of the server to which the request is to be sent, without a slash at the end"),
        ("retries", "how many times to try again before the request is given up"),
    )


@pytest.mark.parametrize(
    "docstring",
    [
        "x = compute(a, b)[0] + {'k': v}",  # code
        "Sure.",
        ">>> 1 + 1\n2",
        "\\alpha \\beta \\gamma is the formula of it",
        "这是一个用中文写的说明, 不是英文",
        "",
    ],
)
def test_not_prose(docstring: str) -> None:
    assert read_docstring(docstring) is None


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("see :class:`~a.b.C` and :py:meth:`run <a.run>`", "see a.b.C and run"),
        ("the `guide <https://x.org>`_ and [guide](https://x.org) [1]_", "the guide and guide"),
        ("**bold** *slanted* ``code`` 2 * 3 * 4", "bold slanted code 2 * 3 * 4"),
        ("<Tip>\n\n- one\n- two\n\n</Tip>", "one two"),
    ],
)
def test_clean(marked: str, plain: str) -> None:
    assert clean(marked) == plain


LONG = "It does so for all of the values that are given to it, one after the other, and in that order."


def package(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def function(name: str, summary: str, body: str = LONG) -> str:
    return f'def {name}():\n    """{summary}\n\n    {body}\n    """\n'


FILES: dict[str, str | bytes] = {
    "alpha/__init__.py": function("first", "Sort the values by size."),
    "alpha/_hidden.py": "try:\n    import x\nexcept ImportError:\n    pass\nclass Table:\n"
    '    def __init__(self, rows):\n        """Make a table of the rows.\n\n'
    "        Parameters\n        ----------\n        rows : list\n"
    '            The rows that the table is made of, from the first to the last.\n        """\n'
    "        def inner():\n"
    f'            """Not documentation that anybody can reach.\n\n            Inner: {LONG}"""\n',
    "alpha/tests/test_first.py": function("test", "Tests are not documentation."),
    "alpha/test_more.py": function("test", "Tests are not documentation at all."),
    "beta.py": function("again", "Sort the Values  by size.", f"Another body of the same summary. {LONG}"),
    "gamma/_vendor/alpha.py": function("copied", "Copies are not read."),
    "gamma/broken.py": function("broken", "Never seen by anybody.") + "def (:\n",
    "gamma/latin.py": b"# -*- coding: latin-1 -*-\n"
    + function("cafe", "Serve a caf\xe9 to the guest.", LONG.replace("one", "each")).encode("latin-1"),
    "gamma/unknown.py": b"# -*- coding: nosuch -*-\n" + function("x", "Never seen either by us.").encode(),
    "gamma/zero.py": b"\0" + function("x", "Never seen either by anybody.").encode(),
    "gamma/sparse.py": function("rare", "Hardly documented at all.") + "value = 1\n" * 200,
    "isoembed/__init__.py": function("own", "This package is not read."),
    "not-a-package/x.py": function("x", "No identifier, no package."),
}


def test_environment(tmp_path: Path) -> None:
    """Which files are read, in which order, under which titles; repeated and unreachable texts are left out."""
    source = Docstrings((package(tmp_path, FILES),))
    assert [(pair.query, pair.group) for pair in source] == [
        ("Sort the values by size.", "alpha"),
        ("Table rows", "alpha"),
        ("Serve a café to the guest.", "gamma"),
    ]
    assert source.skipped == {"duplicate": 1}
    assert next(iter(source)) == Pair("Sort the values by size.", LONG, group="alpha")
    titles = [title for title, _ in documents((tmp_path,))]
    assert titles == ["alpha.first", "alpha.Table", "beta.again", "gamma.latin.cafe"]


def test_answer_does_not_hold_the_question(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.py": function("f", "Sort the values by size.", f"Sort the  Values by size. {LONG}")
    }
    source = Docstrings((package(tmp_path, {**files, "b.py": function("g", "Another summary of it.")}),))
    assert [pair.query for pair in source] == ["Another summary of it."]
    assert source.skipped == {"query within positive": 1}


def test_fingerprint(tmp_path: Path) -> None:
    """Follows names within the packages and contents; not the folder, the dates or what is not read."""
    one = Docstrings((package(tmp_path / "one", FILES),))
    two = Docstrings((package(tmp_path / "two", dict(reversed(FILES.items()))),))
    os.utime(tmp_path / "two" / "beta.py", (0, 0))
    assert one.fingerprint() == two.fingerprint()
    package(tmp_path / "two", {"alpha/tests/other.py": "x = 1"})
    assert one.fingerprint() == two.fingerprint()
    package(tmp_path / "two", {"beta.py": function("again", "Sort them in another way.")})
    assert one.fingerprint() != two.fingerprint()


def test_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes give the same pairs in the same order."""
    files: dict[str, str | bytes] = {
        f"p{n % 5}/m{n}.py": function("f", f"Do the thing of number {n} now.", f"{n} is its number. {LONG}")
        for n in range(200)
    }
    source = Docstrings((package(tmp_path, files),))
    alone = list(source)
    assert len(alone) == 200
    monkeypatch.setattr(docstrings, "PARALLEL_FILES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert list(source) == alone


def test_no_dependence_on_hash_seed_or_folder(tmp_path: Path) -> None:
    package(tmp_path / "site", FILES)
    script = (
        "import pathlib, sys; from isoembed.data.sources.docstrings import Docstrings;"
        "source = Docstrings((pathlib.Path(sys.argv[1]),)); print(source.fingerprint(), *source)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-P", "-c", script, str(tmp_path / "site")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=folder,
            check=True,
            capture_output=True,
        ).stdout
        for seed, folder in (("1", tmp_path), ("2", tmp_path / "site"))
    }
    assert len(seen) == 1


def test_real_modules_are_read_without_importing() -> None:
    """The standard library's own files parse; reading a module that would act when imported does not run it."""
    names = dict(docstrings.modules(docstrings.environment_roots()))
    assert "antigravity" in names  # importing it opens a browser
    found = docstrings.entries_of("heapq", names["heapq"])
    assert {entry.title for entry in found} >= {"heapq.merge", "heapq.nlargest"}
    assert "antigravity" not in sys.modules


def test_by_default_other_installed_packages_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo from a wheel and from a clone trained different models, on whatever was installed."""
    for name in ("numpy", "pandas", "isoembed"):
        package(tmp_path, {f"{name}/__init__.py": function("f", f"A thing in {name}.", f"{LONG} It is {name}'s.")})
    monkeypatch.setattr(docstrings, "environment_roots", lambda: (tmp_path,))
    assert {pair.group for pair in open_source("docstrings").pairs()} == {"numpy"}
    everything = open_source("docstrings:all")
    assert {pair.group for pair in everything.pairs()} == {"numpy", "pandas"}
    assert everything.fingerprint() != open_source("docstrings").fingerprint()
    assert absolute("docstrings:all") == "docstrings:all"
