"""What mkdocs calls while it builds the site: commands run in one scratch folder per page, and equations become MathML.

markdown-exec runs the blocks of a page that say `exec` in the order in which they stand.  A `console` block shows each
command and what it printed; `isoembed` itself runs in this process, so that torch is imported once for all pages.  A
command that ends with another status than its block says fails the build (`strict`).
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown_exec import ExecutionError, base_format, code_block, formatters
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
#: what the repository ships and pages read, under these names
SHIPPED = ("nano_study.jsonl.gz", "nano_claim.csv")
#: columns of a code block on a page
WIDTH = "100"
_scratch: list[tempfile.TemporaryDirectory[str]] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Commands in `console` fences; equations in fences named `math` and inline code that begins with `#!math`."""
    formatters["console"] = _console
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _block})
    inline = config["mdx_configs"].setdefault("pymdownx.inlinehilite", {}).setdefault("custom_inline", [])
    inline.append({"name": "math", "class": "math", "format": _inline})
    return config


def on_pre_build(config: MkDocsConfig) -> None:
    """Plain output of one width, and nothing from the network."""
    os.environ |= {"COLUMNS": WIDTH, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    _scratch.append(tempfile.TemporaryDirectory(prefix="isoembed-docs-"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> None:
    """Blocks of this page run in a folder of its own, with what ships beside it."""
    folder = Path(_scratch[-1].name) / page.file.name
    folder.mkdir(exist_ok=True)
    for name in SHIPPED:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(ROOT / "benchmarks" / "results" / name)
    os.chdir(folder)


def on_post_build(config: MkDocsConfig) -> None:
    """Leave nothing behind."""
    os.chdir(ROOT)
    _scratch.pop().cleanup()


def _console(**options: Any) -> Any:
    return base_format(language="console", run=_transcript, **options)


def _transcript(code: str, returncode: int = 0, **_: Any) -> str:
    """The block's commands, each followed by what it printed; all but the last must end with 0."""
    commands = [f"$ {command}".rstrip() for command in f"\n{code}".split("\n$ ")[1:]]
    shown = ""
    for command in commands:
        printed, errors, status = _run(command.removeprefix("$ ").replace("\\\n", " "))
        shown += f"{command}\n{printed}{errors if returncode else ''}"
        if status != (returncode if command is commands[-1] else 0):
            raise ExecutionError(code_block("text", f"{shown}{errors}"), status)
    return shown


def _run(command: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit status; a pipe after `isoembed` is the shell's."""
    ours, _, piped = command.partition(" | ")
    if not ours.startswith("isoembed "):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        return done.stdout, done.stderr, done.returncode
    printed, errors, status = _isoembed(shlex.split(ours))
    if piped:
        done = subprocess.run(["sh", "-c", piped], input=printed, capture_output=True, text=True, check=False)
        return done.stdout, errors + done.stderr, status or done.returncode
    return printed, errors, status


def _isoembed(arguments: list[str]) -> tuple[str, str, int]:
    from isoembed.cli import main

    printed, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv, status = arguments, 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    sys.argv = before
    return printed.getvalue(), errors.getvalue(), status


def _block(source: str, *_: Any, **__: Any) -> str:
    equations = (convert(line, display="block") for line in source.splitlines() if line.strip())
    return f'<div class="math">{"".join(equations)}</div>'


def _inline(source: str, *_: Any, **__: Any) -> str:
    return convert(source)
