"""What is said of a base model where it lies: the facts that a fine-tuned model's card hands on."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, metadata_load

from isoembed.core import Frozen, expanded
from isoembed.families.stored import gguf_file
from isoembed.hub import hub_or_cache

#: `organisation/name` as the hub writes it
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: how the hub spells licences and languages; what is spelled otherwise is not handed on
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


class BaseCard(Frozen):
    """None and (): nobody says."""

    hub_id: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()


@lru_cache(maxsize=8)
def base_card(source: str) -> BaseCard:
    """Of the base model at `source`: a nano model, a GGUF file, a folder or a hub id, with its README.md's front matter
    where that can be had.  What cannot be read says nothing."""
    if source.startswith("nano/"):
        return BaseCard(license="cc-by-sa-4.0", languages=("en",))
    if (file := gguf_file(source)) is not None:
        return _of_gguf(file)
    folder = expanded(source)
    on_hub = not folder.is_dir() and HUB_ID.fullmatch(source) is not None
    try:
        if on_hub:
            with hub_or_cache():
                readme = Path(hf_hub_download(source, "README.md"))
        else:
            readme = folder / "README.md"
        said: dict[str, Any] = metadata_load(readme) or {}
    except Exception:  # no README.md, no network, YAML of a stranger
        said = {}
    languages = said.get("language")
    return _stated(said.get("license"), languages, hub_id=source if on_hub else None)


def _of_gguf(file: Path) -> BaseCard:
    if importlib.util.find_spec("gguf") is None:
        return BaseCard()
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    names = ("license", "languages", "base_model.0.repo_url")
    licence, languages, address = (
        fields[f"general.{name}"].contents() if f"general.{name}" in fields else None for name in names
    )
    base = str(address).removeprefix("https://huggingface.co/")
    return _stated(licence, languages, hub_id=base if HUB_ID.fullmatch(base) else None)


def _stated(licence: object, languages: object, *, hub_id: str | None) -> BaseCard:
    """As far as the hub would understand it."""
    each = languages if isinstance(languages, list) else [languages]
    return BaseCard(
        hub_id=hub_id,
        license=licence if isinstance(licence, str) and _LICENSE.fullmatch(licence) else None,
        languages=tuple(code for code in each if isinstance(code, str) and _LANGUAGE.fullmatch(code)),
    )
