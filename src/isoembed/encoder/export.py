"""The encoder as a sentence-transformers model folder, written by that library's own classes, and read back."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, checked, expanded, write_atomically
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import check_weights
from isoembed.encoder.tokenizer import plain
from isoembed.encoder.verify import check_written, digests
from isoembed.methods.qlora import unpacked
from isoembed.recipe import Prompts
from isoembed.records import RunRecord

if TYPE_CHECKING:
    from isoembed.encoder.embedder import Embedder

#: our pooling names -> sentence-transformers'
POOLING_MODES = {"mean": "mean", "weighted-mean": "weightedmean", "last": "lasttoken", "first": "cls", "max": "max"}
#: sentence-transformers' pooling modes -> the keys it had for them before 5.4
EARLIER_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
#: the modules of a model folder, in their order, each by the paths that sentence-transformers has had for it: any other
#: path is code of somebody else's, which its versions before 6 import from the folder unasked
KNOWN_MODULES = {
    name: (
        f"sentence_transformers.models.{name}",
        f"sentence_transformers.models.{name}.{name}",
        f"sentence_transformers.base.modules.{name.lower()}.{name}",
        f"sentence_transformers.sentence_transformer.modules.{name.lower()}.{name}",
    )
    for name in ("Transformer", "Pooling", "Normalize")
}
#: where a folder may keep arguments for the opening of its transformer, by all names that sentence-transformers reads
_ARGUMENT_FILES = "sentence_*_config.json"
#: the only ones that a folder may name, for they are overruled: others may lead to code, kernels or files elsewhere
_PLAIN_ARGUMENTS = {"dtype", "torch_dtype", "trust_remote_code", "attn_implementation", "use_safetensors"}
#: prompts for documents, by the names under which sentence-transformers' `encode_document` looks for them
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
#: lists what an export wrote into a folder: that much of it may be replaced by another export
MARKER = "isoembed.json"
#: where an export is written, before it takes the place of an earlier one
STAGE = ".export.partial"
#: without it the folder is no model, so it goes first and comes last
MODULES = "modules.json"


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """An empty folder at `place`, gone when the block ends; what a killed process left there is removed."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def export(
    embedder: Embedder, folder: Path, *, card: str, record: RunRecord | None = None, keep_adapter: bool = False
) -> None:
    """Make `folder` a model: `SentenceTransformer(folder).encode(texts)` gives the vectors of `embedder`, where there
    are prompts `encode_query` and `encode_document` do, or `encode` with `prompt_name` "query" or "document".

    Weights are fp32 safetensors with LoRA merged into them (on a copy: `embedder` stays as it is); `card` becomes
    README.md, `record` record.json; with `keep_adapter` the LoRA adapter alone is kept under `adapter/`.

    Replaces an earlier export and leaves everything else in `folder` alone.  The model is written whole, read again and
    compared with `embedder` before the earlier one is touched; a kill while files move leaves a folder that is no
    model, never a mixture of two.

    Raises ExportError where tensors, token ids or vectors of the two differ, and InputError where a file of that name
    is there and no export wrote it, or there is no adapter to keep.
    """
    encoder = embedder.encoder
    if keep_adapter and not isinstance(encoder.model, PeftModel):
        raise InputError("`keep_adapter` needs a model trained with LoRA, and this one has no adapter; leave it out.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The model must be written to a folder; {folder} is a file. Name another one.")
    with scratch_folder(folder / STAGE) as stage:
        # 1. Transformer + Pooling + Normalize
        with scratch_folder(stage / ".source") as source:
            weights = _save_source(embedder, source)
            _sentence_transformer(embedder, source).save(str(stage), create_model_card=False)

        _speak_to_servers(stage, POOLING_MODES[encoder.pooling], embedder.context_tokens)

        # 2. is it what was trained?
        written = open_sentence_transformer(stage, device="cpu")
        check_written(written, embedder, weights=weights)
        del written

        # 3. what belongs beside it
        (stage / "README.md").write_text(card, encoding="utf-8")
        if record is not None:
            record.save(stage / "record.json")
        if keep_adapter:
            _save_adapter(encoder.model, stage / "adapter")
        _publish(stage, folder)


def clear_export(folder: Path) -> None:
    """Remove what a killed export left beside the model in `folder`."""
    shutil.rmtree(folder / STAGE, ignore_errors=True)


def _save_adapter(model: Any, folder: Path) -> None:
    """The adapter alone, with its base by name: a path of this machine leads nobody to it."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's form of a card, empty but for that path
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    base = settings["base_model_name_or_path"]
    if base is not None and Path(base).is_absolute():
        settings["base_model_name_or_path"] = Path(base).name
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _save_source(embedder: Embedder, source: Path) -> dict[str, str]:
    """Write model and tokenizer to `source` as transformers' own folder; the digests of the tensors."""
    model = _plain(embedder.encoder.model)
    model.save_pretrained(source)
    saved = plain(embedder.tokenizer)
    saved.padding_side = "right"
    saved.save_pretrained(source)
    return digests(model)


def _sentence_transformer(embedder: Embedder, source: Path) -> SentenceTransformer:
    """The model in `source` as sentence-transformers builds it."""
    transformer = Transformer(
        str(source),
        max_seq_length=embedder.context_tokens,
        # named, so that a tokenizer with a chat template still takes plain text
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    prompts, mode = embedder.encoder.prompts, POOLING_MODES[embedder.encoder.pooling]
    pooling = Pooling(embedder.dimensions, mode, include_prompt=prompts.pooled)
    return SentenceTransformer(
        modules=[transformer, pooling, Normalize()],
        prompts={"query": prompts.query, "document": prompts.positive},
        similarity_fn_name="cosine",
        device="cpu",
    )


def _speak_to_servers(stage: Path, mode: str, context_tokens: int) -> None:
    """Say where pooling and context lie in the words of sentence-transformers before 5.4 too, which it still reads, and
    what the tokenizer is in those of transformers before 5.

    Servers that look for those words alone (vLLM before its pull request 54533, text-embeddings-inference) would else
    take the last token of a decoder, without a warning, whatever it was trained with.
    """
    modules = json.loads((stage / MODULES).read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    tokenizer_file = stage / modules[0]["path"] / "tokenizer_config.json"
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if tokenizer["tokenizer_class"] == "TokenizersBackend":  # names in transformers before 5, which 5 still reads
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    if extra := tokenizer.pop("extra_special_tokens", None):
        tokenizer["additional_special_tokens"] = extra
    pooling_file = stage / modules[1]["path"] / "config.json"
    pooling = json.loads(pooling_file.read_text(encoding="utf-8"))
    pooling |= {key: theirs == mode for theirs, key in EARLIER_POOLING_KEYS.items()}
    settings_file = stage / "sentence_bert_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) | {
        "max_seq_length": context_tokens,
        "do_lower_case": False,
    }
    for file, content in (
        (stage / MODULES, modules),
        (tokenizer_file, tokenizer),
        (pooling_file, pooling),
        (settings_file, settings),
    ):
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plain(model: nn.Module) -> Any:
    """The transformers model to save: `model` itself where it is plain fp32, else an fp32 copy with LoRA merged, 4-bit
    weights unpacked first (merged into 4 bits, an adapter would be rounded away)."""
    if isinstance(model, PeftModel):
        merged: Any = unpacked(model)
        model = merged.merge_and_unload()
    is_fp32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return model if is_fp32 else copy.deepcopy(model).float()


def _publish(stage: Path, folder: Path) -> None:
    """Move everything in `stage` into `folder`, in place of what an earlier export moved there."""
    earlier = _entries(folder)
    names = sorted({entry.name for entry in stage.iterdir()} | {MARKER}, key=lambda name: (name == MODULES, name))
    foreign = [name for name in names if name not in earlier and (folder / name).exists()]
    if foreign:
        raise InputError(
            f"The model must not replace files that no export wrote; {folder} holds {', '.join(foreign)}. "
            "Name another folder, or move them away."
        )
    write_atomically(folder / MARKER, json.dumps(sorted({*earlier, *names})) + "\n")
    for name in sorted(earlier - {MARKER}, key=lambda name: name != MODULES):
        if (folder / name).is_dir() and not (folder / name).is_symlink():  # a link goes, what it leads to stays
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    for name in names:
        if name != MARKER:
            (stage / name).rename(folder / name)
    write_atomically(folder / MARKER, json.dumps(names) + "\n")


def _entries(folder: Path) -> set[str]:
    """What an earlier export wrote into `folder`: names of entries right in it, never paths that lead elsewhere."""
    try:
        names = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    plain = isinstance(names, list) and all(
        isinstance(name, str) and Path(name).name == name not in ("", "..") for name in names
    )
    return set(names) if plain else set()


def open_sentence_transformer(folder: Path, *, device: str | None = None) -> Any:
    """The folder's SentenceTransformer in fp32, from safetensors, running no code of the folder's.

    Raises InputError where the folder is no such model.
    """
    inner = folder / _transformer_of(folder)
    check_weights(str(inner))
    _check_arguments(folder, inner)
    # None: as transformers chooses, whatever the folder's configuration names
    model_kwargs = {"attn_implementation": None, "experts_implementation": None, "trust_remote_code": False}
    try:
        model: Any = SentenceTransformer(
            str(folder),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32, **model_kwargs},
        )
    except Exception as error:  # whatever it raises: what is in the folder is read by three libraries
        raise InputError(
            f"{folder} cannot be read as a sentence-transformers model: {error}. Export it anew."
        ) from error
    return model


@checked
def load_exported(folder: str | Path, *, device: str | None = None) -> tuple[Encoder, PreTrainedTokenizerBase, int]:
    """Encoder, tokenizer and context length of a sentence-transformers folder: one of ours, or any other that is a
    transformer with one of our poolings.

    Reads safetensors only and runs no code of the folder's.  Raises InputError where the folder is no such model.
    """
    folder = expanded(folder)
    model = open_sentence_transformer(folder, device=device)
    transformer, pooling = model[0], model[1]
    mode = next((ours for ours, theirs in POOLING_MODES.items() if theirs == pooling.pooling_mode), None)
    if mode is None:
        raise InputError(
            f"A model folder must pool by {', '.join(POOLING_MODES.values())}; {folder} has {pooling.pooling_mode!r}. "
            "Use sentence-transformers for it."
        )
    if list(transformer.modality_config) != ["text"] or model.default_prompt_name is not None:
        raise InputError(
            f"A model folder must take plain text; {folder} puts a prompt or a chat template around it. "
            "Use sentence-transformers for it."
        )
    # a tokenizer without a limit of its own says 1e30
    context_tokens = int(min(model.max_seq_length, 1 << 20))
    query = model.prompts.get("query") or ""
    positive = next((model.prompts[name] for name in DOCUMENT_PROMPTS if model.prompts.get(name)), "")
    pooled = pooling.include_prompt or not (query or positive)
    prompts = Prompts(query=query, positive=positive, pooled=pooled)
    return Encoder(transformer.auto_model, mode, prompts).to(device).eval(), transformer.tokenizer, context_tokens


def _transformer_of(folder: Path) -> str:
    """The subfolder of the transformer; raises InputError unless modules.json names only modules that lie in `folder`
    and load without weights or code of their own, but for the transformer."""
    file = folder / MODULES
    listed = _json_of(file, missing=None)
    if listed is None:
        raise InputError(
            f"A model folder must hold {MODULES}; {folder} does not. Name a folder that isoembed or "
            "sentence-transformers wrote."
        )
    try:
        types = [str(module["type"]) for module in listed]
        paths = [str(module["path"]) for module in listed]
        if any(path == ".." or Path(path).name != path for path in paths):
            raise ValueError("a module's path leads elsewhere")
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is damaged: it is not a list of modules in that folder. Export the model anew."
        ) from None
    known = [name for kind in types for name, paths_of in KNOWN_MODULES.items() if kind in paths_of]
    if len(known) != len(types) or known not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            "A model folder must be sentence-transformers' own Transformer, Pooling and Normalize, and no other code "
            f"is run; {folder} is {', '.join(types)}. Use sentence-transformers for it, where you trust it."
        )
    return paths[0]


def _check_arguments(folder: Path, inner: Path) -> None:
    """Raise InputError where the folder asks for arguments of its own, or for a class other than
    SentenceTransformer."""
    kind = _json_of(folder / "config_sentence_transformers.json", missing={})
    asked = set() if kind.get("model_type", "SentenceTransformer") == "SentenceTransformer" else {"model_type"}
    for file in sorted(inner.glob(_ARGUMENT_FILES)):
        for name, given in _json_of(file, missing={}).items():
            if name.endswith(("_args", "_kwargs")) and not name.startswith(("tokenizer", "processor")) and given:
                asked |= {f"{name}.{key}" for key in given if key not in _PLAIN_ARGUMENTS}
    if asked:
        raise InputError(
            f"A model folder must open without arguments of its own; {folder} asks for {', '.join(sorted(asked))}. Use "
            "sentence-transformers for it, where you trust it."
        )


def _json_of(file: Path, missing: Any) -> Any:
    """What is in a JSON file of a model's folder, of the kind of `missing`, which it is where there is no file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return missing
    except (ValueError, RecursionError):
        value = None
    if value is None or (isinstance(missing, dict) and not isinstance(value, dict)):
        raise InputError(
            f"{file} is damaged: it is not what isoembed or sentence-transformers writes there. Export the model anew."
        )
    return value
