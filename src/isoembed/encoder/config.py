"""The configuration of a model, read as what it is: a text by a stranger.

No code of a model's folder runs and none is fetched from the hub, whatever the configuration asks for; sizes that no
model has are refused before anything of that size is made.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from isoembed.core import LARGEST, InputError, expanded
from isoembed.encoder.checks import adapter_error, check_unquantised
from isoembed.encoder.depth import first_blocks
from isoembed.encoder.gguf import unpacked
from isoembed.families.nano import NANO
from isoembed.families.stored import gguf_file
from isoembed.hub import hub_or_cache, is_reachable

#: entries of any architecture's config.json by a pattern of their names -> least and greatest value; the first that
#: fits.  Looked at before the configuration is built: a list of ten million layers takes a minute.
_ENTRIES = (
    (re.compile(r"^(n|num)_?(\w*_)?layers?$"), (0, 1024)),
    (re.compile(r"drop"), (0, 1)),
    (re.compile(r""), (-LARGEST, LARGEST)),
)
#: sizes, by the names that transformers gives them in every architecture -> the largest; each is at least 1
SIZES = {
    "hidden_size": 2**18,
    "num_hidden_layers": 1024,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**16,
    "intermediate_size": 2**24,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**31,
    "seq_length": 2**31,
    "max_seq_len": 2**31,
}


def resolve(source: str, field: str = "model") -> str:
    """What transformers opens for `source`: `nano/NAME` becomes the folder that ships with isoembed, a GGUF file the
    folder that it is unpacked to, a folder or a hub id stays.  Raises InputError for a folder that does not exist;
    field: what `source` was given as."""
    if source.startswith("nano/"):
        suite = resources.files("isoembed") / "assets" / "nano"
        there = sorted(f"nano/{entry.name}" for entry in suite.iterdir() if entry.is_dir()) if suite.is_dir() else []
        if source not in there and source in (spec.source for spec in NANO.models) and there:
            raise InputError(
                f"The weights of {source} are not installed: a wheel leaves out the two largest nano models. Copy the "
                f"folder src/isoembed/assets/{source} of the repository to {suite}, or install from a checkout by "
                "`pip install --editable`."
            )
        if source not in there:  # looked up, never joined: `nano/../..` leads nowhere
            raise InputError(
                f"`{field}` must be one of the nano models that ship ({', '.join(there) or 'none in this checkout'}); "
                f"got {source!r}."
            )
        return str(suite / source.removeprefix("nano/"))
    if (file := gguf_file(source)) is not None:
        return str(unpacked(file, _check_sizes))
    if expanded(source).is_dir():
        return str(expanded(source))
    if source.lower().endswith(".gguf"):
        raise InputError(f"`{field}` must be a hub id, a folder or an existing GGUF file; there is no file {source!r}.")
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise InputError(f"`{field}` must be a hub id or an existing folder; there is no folder {source!r}.")
    return source


def read_config(source: str) -> PreTrainedConfig:
    """The configuration at `source`, of whatever architecture; raises InputError for one that cannot be read, asks for
    code of its own, points to another model, is of quantised weights, or has a size that no model has.

    Which implementation of attention it names is left aside: it could name one to be fetched from the hub.
    """
    place = resolve(source)
    if (Path(place) / "adapter_config.json").is_file():  # transformers would open the model that it names
        raise adapter_error(source)
    try:
        with hub_or_cache(place):
            written, _ = PreTrainedConfig.get_config_dict(place)
            check_unquantised(source, written)
            _check_entries(written, source)
            config: PreTrainedConfig = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # whatever it raises: each architecture reads its entries its own way
        raise unreadable("configuration", source, error) from None
    _check_sizes(config, source)
    config._attn_implementation = config._experts_implementation = None
    return config


def _check_sizes(config: PreTrainedConfig, source: str) -> None:
    for name, largest in SIZES.items():
        size = getattr(config.get_text_config(), name, None)
        if isinstance(size, int) and not 1 <= size <= largest:
            raise InputError(
                f"`{name}` in the config.json of {source!r} must lie between 1 and {largest:,}; got {size}. Correct it."
            )


def _check_entries(written: Any, source: str) -> None:
    parts = [("", written)]
    while parts:
        key, value = parts.pop()
        if isinstance(value, dict):
            parts += value.items()
        elif isinstance(value, list):
            parts += [(key, each) for each in value]
        elif isinstance(value, int) or (isinstance(value, float) and "drop" in key):
            low, high = next(limits for pattern, limits in _ENTRIES if pattern.search(key))
            if not low <= value <= high:
                raise InputError(
                    f"`{key}` in the config.json of {source!r} must lie between {low} and {high}; got {value:.3g}. "
                    "Correct it."
                )


class NotADecoderError(InputError):
    """Of a model that is no decoder-only language model: nothing is trained from it."""


def load_config(source: str, *, depth: int | None = None) -> PreTrainedConfig:
    """The configuration of a text-only, decoder-only model, cut to its first `depth` blocks; raises InputError for any
    other or none."""
    config = read_config(source)
    if config.get_text_config() is not config:
        raise InputError(
            f"`model` must be text-only; {source!r} ({config.model_type}) also reads images or sound. "
            "Choose the text-only model of that family."
        )
    native = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.is_encoder_decoder or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or not native:
        kind = "encoder-decoder" if config.is_encoder_decoder else "encoder or another kind of"
        raise NotADecoderError(
            f"`model` must be a decoder-only language model; {source!r} ({config.model_type}) is an {kind} model. "
            "Choose one such as EleutherAI/pythia-70m or Qwen/Qwen3-0.6B."
        )
    config.use_cache = False
    return config if depth is None else first_blocks(config, depth, source)


def unreadable(what: str, source: str, error: Exception) -> InputError:
    """What a library said of a model's configuration, weights or tokenizer, in one line."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if "trust_remote_code" in str(error):
        reason, remedy = "it asks for code of its own", "isoembed runs none: choose a model that transformers knows."
    elif what == "weights":
        remedy = (
            "Weights must be safetensors, pickled ones are not opened: where the folder holds only *.bin files, load "
            "them where you trust them and call `save_pretrained`, which writes model.safetensors."
        )
    elif isinstance(error, OSError):
        misnamed = isinstance(error.__cause__, HFValidationError)
        if not (misnamed or expanded(source).exists() or is_reachable()):
            reason = "the model hub cannot be reached, and its cache on this machine does not hold it"
        remedy = "Check the spelling and the network, or give the path of a downloaded folder."
    else:
        remedy = f"Fetch the model again, or correct its {what}."
    return InputError(f"The {what} of {source!r} cannot be read ({reason}). {remedy}")
