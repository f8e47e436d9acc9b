"""How a model computes, by its configuration: what two models must have in common beside their tensors to be one."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedConfig

from isoembed.core import fingerprint

#: fields that say what a model is called, how it is stored, trained, told its classes or asked for its outputs
_ASIDE = re.compile(
    r"^_|name_or_path$|architectures$|^auto_map$|^(torch_)?dtype$|^torchscript$|^transformers_version$"
    r"|^quantization_config$|^use_cache$|^output_|^return_dict|_token_ids?$|^(id2label|label2id|num_labels)$"
    r"|^problem_type$|^finetuning_task$|^task_specific_params$|^summary_|^init(ializer)?_|drop|_loss_coef$"
    r"|^pretraining_tp$|^tokenizer_class$"
    r"|^tie_\w+_embeddings$|^chunk_size_feed_forward$|^is_(encoder_)?decoder$|^gradient_checkpointing$|^is_causal$"
)
#: of those the ones that do change what is computed, in training or where a folder says so: two models of one training
#: may differ in them, one model before and after may not
_OF_ONE = re.compile(r"drop|^is_(encoder_)?decoder$")
#: the attention direction, under one name whether config.json has it or not
CAUSAL = "is_causal"


def computing(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `config` that change what a model of given tensors computes, as JSON has them; those without a
    value are left out."""
    found = _fields(config).items()
    return {CAUSAL: _is_causal(config), **{name: each for name, each in found if each is not None and _computes(name)}}


def computing_hash(config: PreTrainedConfig) -> str:
    """16 hex digits over the fields that the architecture has and that are not at its defaults, dropout among them.

    What others write into config.json beside these does not count.  A version of transformers that keeps a field in
    another place may give another hash.
    """
    fields = _fields(config)
    try:
        defaults = _fields(type(config)())
    except Exception:  # an architecture without defaults: every field counts
        defaults = dict.fromkeys(fields)
    return fingerprint(
        {"model_type": config.model_type, CAUSAL: _is_causal(config), "fields": _beside(fields, defaults)}
    )


def _beside(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What of `fields` is not as in `defaults`, which have all that are read; of nested ones too."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in defaults or value == defaults[name] or not (_computes(name) or _OF_ONE.search(name)):
            continue
        if isinstance(value, dict) and isinstance(defaults[name], dict) and defaults[name]:
            found |= {f"{name}.{part}": each for part, each in _beside(value, defaults[name]).items()}
        else:
            found[name] = value
    return found


def _computes(name: str) -> bool:
    return not _ASIDE.search(name)


def _is_causal(config: PreTrainedConfig) -> bool:
    return getattr(config, CAUSAL, True) is not False


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    """As JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return found


def first_apart(one: dict[str, Any], two: dict[str, Any], *, but: Collection[str] = ()) -> tuple[str, Any, Any] | None:
    """The first field, `but` for some, in which two `computing` differ, with both values; None where they are alike."""
    for name in {**one, **two}:
        if name not in but and one.get(name) != two.get(name):
            return name, one.get(name), two.get(name)
    return None
