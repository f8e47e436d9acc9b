"""What mkdocs calls while it builds the site: a scratch folder a page, where its commands run, and equations.

markdown-exec runs the blocks of a page that say `exec` in the order in which they stand, in the working directory; a
command that fails fails the build (`strict`).  Equations become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
#: what the repository ships and pages read, under these names
SHIPPED = ("nano_study.jsonl.gz", "nano_claim.csv")
#: columns of a code block on a page
WIDTH = "92"
_scratch: list[tempfile.TemporaryDirectory[str]] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Equations: a fence named `math`, and inline code that begins with `#!math`."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _block})
    inline = config["mdx_configs"].setdefault("pymdownx.inlinehilite", {}).setdefault("custom_inline", [])
    inline.append({"name": "math", "class": "math", "format": _inline})
    return config


def on_pre_build(config: MkDocsConfig) -> None:
    """The commands of this checkout, plain and of one width."""
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
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


def _block(source: str, *_: Any, **__: Any) -> str:
    equations = (convert(line, display="block") for line in source.splitlines() if line.strip())
    return f'<div class="math">{"".join(equations)}</div>'


def _inline(source: str, *_: Any, **__: Any) -> str:
    return convert(source)
