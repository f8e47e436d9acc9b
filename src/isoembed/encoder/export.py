"""The encoder as a sentence-transformers model folder, written by that library's own classes, and read back."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder
from isoembed.records import RunRecord

#: our pooling names -> sentence-transformers'
POOLING_MODES = {"mean": "mean", "last": "lasttoken"}
#: present in every folder written here: such a folder may be replaced
MARKER = "isoembed.json"


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    A kill while the block runs leaves the old folder whole.
    """
    partial, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def export(
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    context_tokens: int,
    card: str,
    record: RunRecord | None = None,
    keep_adapter: bool = False,
) -> None:
    """Write `folder` so that `SentenceTransformer(folder).encode(texts)` gives the vectors of `embed`.

    Weights are fp32 safetensors with LoRA merged into them (on a copy: `encoder` stays as it is); `card` becomes
    README.md, `record` record.json; with `keep_adapter` the LoRA adapter alone is kept under `adapter/`.

    Raises InputError where `folder` holds something that was not written here, or there is no adapter to keep.
    """
    folder = folder.resolve()
    _check_target(folder)
    if keep_adapter and not isinstance(encoder.model, PeftModel):
        raise InputError("`keep_adapter` needs a model trained with LoRA, and this one has no adapter; leave it out.")
    with replace_folder(folder) as partial:
        # 1. the transformers model and its tokenizer, which is where sentence-transformers reads its first module from
        source = partial / ".source"
        _plain(encoder.model).save_pretrained(source)
        _for_saving(tokenizer, context_tokens).save_pretrained(source)

        # 2. Transformer + Pooling + Normalize.  The modality is named, so that a tokenizer with a chat template still
        # takes plain text.
        transformer = Transformer(
            str(source),
            max_seq_length=context_tokens,
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        )
        pooling = Pooling(transformer.get_embedding_dimension(), POOLING_MODES[encoder.pooling])
        model = SentenceTransformer(
            modules=[transformer, pooling, Normalize()], similarity_fn_name="cosine", device="cpu"
        )
        model.save(str(partial), create_model_card=False)
        shutil.rmtree(source)

        # 3. what belongs beside it
        (partial / "README.md").write_text(card, encoding="utf-8")
        if record is not None:
            record.save(partial / "record.json")
        if keep_adapter:
            adapted: Any = encoder.model
            adapted.save_pretrained(str(partial / "adapter"), save_embedding_layers=False)
        marker = {"pooling": encoder.pooling, "context_tokens": context_tokens}
        (partial / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")


def load_exported(folder: Path, *, device: str = "cpu") -> tuple[Encoder, PreTrainedTokenizerBase, int]:
    """Encoder, tokenizer and context length of a sentence-transformers folder: one of ours, or any other that is a
    transformer with mean or last-token pooling.

    Reads safetensors only and runs no code of the folder's.  Raises InputError where the folder is no such model.
    """
    _check_modules(folder)
    try:
        model: Any = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(
            f"{folder} cannot be read as a sentence-transformers model: {error}. Export it anew."
        ) from error
    transformer, pooling = model[0], model[1]
    mode = next((ours for ours, theirs in POOLING_MODES.items() if theirs == pooling.pooling_mode), None)
    if mode is None:
        raise InputError(
            f"A model folder must pool by mean or last token; {folder} has {pooling.pooling_mode!r}. "
            "Use sentence-transformers for it."
        )
    if list(transformer.modality_config) != ["text"] or model.default_prompt_name is not None:
        raise InputError(
            f"A model folder must take plain text; {folder} puts a prompt or a chat template around it. "
            "Use sentence-transformers for it."
        )
    # a tokenizer without a limit of its own says 1e30
    context_tokens = int(min(model.max_seq_length, 1 << 20))
    return Encoder(transformer.auto_model, mode).to(device).eval(), transformer.tokenizer, context_tokens


def _plain(model: nn.Module) -> Any:
    """The transformers model to save: `model` itself where it is plain fp32, else an fp32 copy with LoRA merged."""
    if isinstance(model, PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    is_fp32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return model if is_fp32 else copy.deepcopy(model).float()


def _for_saving(tokenizer: PreTrainedTokenizerBase, context_tokens: int) -> PreTrainedTokenizerBase:
    """A copy that pads on the right, as training did, and cuts at `context_tokens`."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = context_tokens
    return tokenizer


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The model must be written to a folder; {folder} is a file. Name another one.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise InputError(
            f"The model must be written to a new or empty folder, or over an earlier export; {folder} holds other "
            "files. Name another one."
        )


def _check_modules(folder: Path) -> None:
    """Raise InputError unless modules.json names only modules that load without weights or code of their own."""
    file = folder / "modules.json"
    try:
        modules = [str(module["type"]).rpartition(".")[2] for module in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        raise InputError(
            f"A model folder must hold modules.json; {folder} does not. Name a folder that isoembed or "
            "sentence-transformers wrote."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file} is damaged: it is not a list of modules. Export the model anew.") from None
    if modules not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"A model folder must be Transformer, Pooling and Normalize; {folder} is {', '.join(modules)}. "
            "Use sentence-transformers for it."
        )
