"""GGUF files, as llama.cpp has them: read once by transformers, dequantised, and kept as a folder of safetensors."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.utils import SAFE_WEIGHTS_NAME

from isoembed.cache import cached_place
from isoembed.core import InputError, write_atomically
from isoembed.encoder.quiet import quiet
from isoembed.families.base import StoredFile
from isoembed.families.stored import file_hash

#: raised when what is kept changes
_VERSION = 1
#: more than any model has
_MOST_BLOCKS = 1024
#: says what a folder was made from; written last
_FACTS = "gguf.json"


def unpacked(file: Path, check: Callable[[PreTrainedConfig, str], None]) -> Path:
    """The folder with `file`'s weights in fp32, configuration and tokenizer: in the user's cache, by the file's hash,
    made where it is not there yet.

    check: raises InputError for a configuration, of that source, that no model has, before one of that size is made.
    Raises InputError where the package `gguf` is missing or the file cannot be read.
    """
    sha256 = file_hash(file)
    folder = cached_place(f"gguf/{sha256[:32]}-{_VERSION}")
    if (folder / _FACTS).is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{file.name} needs the package gguf to be read: pip install 'isoembed[train]'.")
    stage = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        stage.mkdir(parents=True)
        _convert(file, stage, sha256, check)
        _keep(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return folder


def stored_file(folder: Path) -> StoredFile:
    """Hash and quantisation of the file that `folder` was unpacked from, as its record and card name them."""
    return StoredFile.model_validate_json((folder / _FACTS).read_bytes())


def _convert(file: Path, folder: Path, sha256: str, check: Callable[[PreTrainedConfig, str], None]) -> None:
    """Write what `file` holds to `folder` as transformers reads it, with our note of where it came from."""
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # its bar heeds no setting
            _check_blocks(file)
            config = AutoConfig.from_pretrained(**place)
            check(config, str(file))
            model, report = AutoModel.from_pretrained(**place, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(**place)
            quantisation = _quantisation(file)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything, and each reader raises something else
        reason = str(error).strip().split("\n")[0].replace(f"{file} ", "") or type(error).__name__
        raise InputError(
            f"{file} cannot be read as a GGUF model ({reason.rstrip('.')}). Fetch it again, or choose a decoder of an "
            "architecture that transformers reads from GGUF."
        ) from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(
            f"{file} must set every weight; {len(report['missing_keys'])} are missing ({some}). Fetch it again."
        )
    # not by `save_pretrained`, which refuses what was read from a quantised file
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    facts = StoredFile(quantisation=quantisation, sha256=sha256)
    write_atomically(folder / _FACTS, facts.model_dump_json(indent=1) + "\n")


def _check_blocks(file: Path) -> None:
    """Raise InputError for a file of more blocks than any model has: a list of ten million takes a minute."""
    facts, _ = read_gguf_metadata(str(file))
    blocks = facts.get(f"{facts['general.architecture']}.block_count")
    if not isinstance(blocks, int) or not 1 <= blocks <= _MOST_BLOCKS:
        raise InputError(f"{file} must state 1 to {_MOST_BLOCKS} blocks; got {blocks}. Fetch it again.")


def _quantisation(file: Path) -> str:
    """The type of most of the weights: `Q4_1`."""
    from gguf import GGUFReader

    held: dict[str, int] = {}
    for tensor in GGUFReader(file).tensors:
        held[tensor.tensor_type.name] = held.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(held, key=lambda kind: held[kind])


def _keep(stage: Path, folder: Path) -> None:
    """Move the finished `stage` to `folder`, on the disk before it has that name; of rivals one wins."""
    for each in (*stage.iterdir(), stage):
        opened = os.open(each, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    try:
        stage.rename(folder)
    except OSError:
        if not (folder / _FACTS).is_file():
            raise
