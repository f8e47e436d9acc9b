"""Counts of models that no table holds, kept between commands: counting needs torch and transformers, looking up does
not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from isoembed.cache import cached_place
from isoembed.core import expanded, write_atomically
from isoembed.families.base import ModelSpec
from isoembed.families.stored import file_hash, gguf_file

#: raised when counting changes, so that what was counted before is counted again
_VERSION = 4


def counted(source: str, count: Callable[[str, int | None], ModelSpec], *, depth: int | None = None) -> ModelSpec:
    """The spec of the model at `source`, a hub id, a folder or a GGUF file, cut to its first `depth` blocks: from the
    cache, else by `count`, and then kept.

    An entry goes by the bytes of the model's config.json, or of the file: what changed is counted anew.  A hub id whose
    configuration is not on this machine yet is counted, which fetches it.  A cache that cannot be written or read is
    done without.
    """
    if (found := _cached(source, depth)) is not None:
        return found
    spec = count(source, depth)
    file = _entry(source, depth)  # again: counting may have fetched the configuration
    if file is not None:
        try:
            write_atomically(file, spec.model_dump_json() + "\n")
        except OSError:
            return spec
    return spec


def _cached(source: str, depth: int | None) -> ModelSpec | None:
    file = _entry(source, depth)
    if file is None:
        return None
    try:
        return ModelSpec.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _entry(source: str, depth: int | None) -> Path | None:
    """Where the counts of `source` are kept; None where its configuration is not on this machine."""
    try:
        if (file := gguf_file(source)) is not None:
            content = file_hash(file).encode()
        elif (config := _config(source)) is not None:
            content = config.read_bytes()
        else:
            return None
    except OSError:
        return None
    digest = hashlib.sha256(f"{_VERSION} {source} {depth}\n".encode() + content).hexdigest()
    return cached_place(f"models/{digest[:32]}.json")


def _config(source: str) -> Path | None:
    folder = expanded(source)
    if folder.is_dir():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
