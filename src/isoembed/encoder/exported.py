"""A sentence-transformers model folder, opened: one of ours or any other of the same parts, and no code of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import nn
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, checked, expanded
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import check_weights
from isoembed.options import Prompts, SourcePrompts

#: without it the folder is no model, so it goes first and comes last
MODULES = "modules.json"
#: our pooling names -> sentence-transformers'
POOLING_MODES = {"mean": "mean", "weighted-mean": "weightedmean", "last": "lasttoken", "first": "cls", "max": "max"}
#: sentence-transformers' name for what exported vectors are compared by
SIMILARITY: Final = "cosine"
#: what tells sentence-transformers' `Transformer` to take plain text: around it would stand the chat template of a
#: tokenizer that has one
PLAIN_TEXT: Final[dict[str, Any]] = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
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
    for name in ("Transformer", "Pooling", "Dense", "Normalize")
}
#: behind the pooling, in this order, each or none
_BEHIND: tuple[list[str], ...] = ([], ["Normalize"], ["Dense"], ["Dense", "Normalize"])
#: what config.json says of a Dense that is a linear map and nothing more; None: where it says nothing
_PLAIN_DENSE: dict[str, tuple[Any, ...]] = {
    "bias": (False,),
    "activation_function": ("torch.nn.modules.linear.Identity", "torch.nn.Identity"),
    "module_input_name": (None, "sentence_embedding"),
    "module_output_name": (None, "sentence_embedding"),
    "use_residual": (None, False),
}
#: where a folder may keep arguments for the opening of its transformer, by all names that sentence-transformers reads
_ARGUMENT_FILES = "sentence_*_config.json"
#: the only ones that a folder may name, for they are overruled: others may lead to code, kernels or files elsewhere
_PLAIN_ARGUMENTS = {"dtype", "torch_dtype", "trust_remote_code", "attn_implementation", "use_safetensors"}
#: prompts for documents, by the names under which sentence-transformers' `encode_document` looks for them
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def open_sentence_transformer(folder: Path, *, device: str | None = None) -> Any:
    """The folder's SentenceTransformer in fp32, from safetensors, running no code of the folder's.

    Raises InputError where the folder is no such model.
    """
    inner, _, *dense = module_folders(folder)
    check_weights(str(inner))
    for each in dense:
        _check_dense(each)
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
    limit = model.max_seq_length
    if not isinstance(limit, int | float) or not limit >= 1:
        raise InputError(f"{folder} must read a positive number of tokens; its `max_seq_length` is {limit!r}.")
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
    encoder = Encoder(transformer.auto_model, mode, prompts_of(model), dense_of(model))
    return encoder.to(device).eval(), transformer.tokenizer, context_of(model)


def context_of(model: Any) -> int:
    """How many tokens of a text a SentenceTransformer reads; a tokenizer without a limit of its own says 1e30."""
    return int(min(model.max_seq_length, 1 << 20))


def prompts_of(model: Any) -> Prompts:
    """What a SentenceTransformer puts in front of texts; those of sources by the names of `Prompts.named`."""
    query = model.prompts.get("query") or ""
    positive = next((model.prompts[name] for name in DOCUMENT_PROMPTS if model.prompts.get(name)), "")
    own = tuple(
        SourcePrompts(source=source, query=text or "", positive=model.prompts[f"{source}-document"] or "")
        for name, text in model.prompts.items()
        if (source := name.removesuffix("-query")) not in ("", name) and f"{source}-document" in model.prompts
    )
    pooled = model[1].include_prompt or not any((query, positive, *own))
    return Prompts(query=query, positive=positive, pooled=pooled, sources=own)


def dense_of(model: Any) -> nn.Linear | None:
    """The linear map behind a SentenceTransformer's pooling; None where there is none."""
    found: nn.Linear | None = next((module.linear for module in model if isinstance(module, Dense)), None)
    return found


def _check_dense(folder: Path) -> None:
    """Raise InputError unless the Dense in `folder` is `check_linear`'s, from safetensors."""
    check_linear(folder)
    config = json_of(folder / "config.json", missing={})
    sizes = (config.get("out_features"), config.get("in_features"))
    try:
        with safe_open(folder / "model.safetensors", "pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except Exception as error:  # of a library in Rust
        raise InputError(
            f"The Dense of {folder.parent} cannot be read as safetensors ({error}). Export it anew."
        ) from None
    if shapes != {"linear.weight": sizes}:
        raise InputError(f"{folder} is damaged: its weights are {shapes}, not {sizes}. Export the model anew.")


def check_linear(folder: Path) -> None:
    """Raise InputError unless the Dense in `folder` is a linear map without bias: anything else is another model, and
    an activation is code by its name."""
    config = json_of(folder / "config.json", missing={})
    other = [name for name, allowed in _PLAIN_DENSE.items() if config.get(name) not in allowed]
    if other:
        raise InputError(
            "A Dense of a model folder must be a linear map without bias or activation; that of "
            f"{folder.parent} has another {', '.join(other)}. Use sentence-transformers for it."
        )


def module_folders(folder: Path) -> list[Path]:
    """Those of the transformer, the pooling and, where there is one, the Dense; raises InputError unless modules.json
    names only modules that lie in `folder` and load without code of their own."""
    file = folder / MODULES
    listed = json_of(file, missing=None)
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
    if len(known) != len(types) or known not in [["Transformer", "Pooling", *rest] for rest in _BEHIND]:
        raise InputError(
            "A model folder must be sentence-transformers' own Transformer, Pooling, Dense and Normalize, in this "
            f"order, and no other code is run; {folder} is {', '.join(types)}. Use sentence-transformers for it, where "
            "you trust it."
        )
    return [folder / path for path, name in zip(paths, known, strict=True) if name != "Normalize"]


def _check_arguments(folder: Path, inner: Path) -> None:
    """Raise InputError where the folder asks for arguments of its own, or for a class other than
    SentenceTransformer."""
    kind = json_of(folder / "config_sentence_transformers.json", missing={})
    asked = set() if kind.get("model_type", "SentenceTransformer") == "SentenceTransformer" else {"model_type"}
    for file in sorted(inner.glob(_ARGUMENT_FILES)):
        for name, given in json_of(file, missing={}).items():
            if name.endswith(("_args", "_kwargs")) and not name.startswith(("tokenizer", "processor")) and given:
                asked |= {f"{name}.{key}" for key in given if key not in _PLAIN_ARGUMENTS}
    if asked:
        raise InputError(
            f"A model folder must open without arguments of its own; {folder} asks for {', '.join(sorted(asked))}. Use "
            "sentence-transformers for it, where you trust it."
        )


def json_of(file: Path, missing: Any) -> Any:
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
