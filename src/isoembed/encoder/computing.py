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
    r"|^pretraining_tp$"
    r"|^tie_\w+_embeddings$|^chunk_size_feed_forward$|^is_(encoder_)?decoder$|^gradient_checkpointing$|^is_causal$"
)
#: the attention direction, under one name whether config.json has it or not
CAUSAL = "is_causal"


def computing(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `config` that change what a model of given tensors computes, as JSON has them; those without a
    value are left out."""
    return _of_fields(config, config.to_dict())


def computing_hash(config: PreTrainedConfig) -> str:
    """16 hex digits over what `computing` has and the architecture's defaults have not: a version of transformers that
    knows further fields gives the same."""
    return fingerprint(_of_fields(config, config.to_diff_dict()))


def _of_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(fields, default=str))
    found = {name: value for name, value in plain.items() if value is not None and not _ASIDE.search(name)}
    return {CAUSAL: getattr(config, CAUSAL, True) is not False, **found}


def first_apart(one: dict[str, Any], two: dict[str, Any], *, but: Collection[str] = ()) -> tuple[str, Any, Any] | None:
    """The first field, `but` for some, in which two `computing` differ, with both values; None where they are alike."""
    for name in {**one, **two}:
        if name not in but and one.get(name) != two.get(name):
            return name, one.get(name), two.get(name)
    return None
