"""What a checkpoint must be, so that the model that is read is the one that was saved: no adapter, not quantised, a
place for every tensor and a tensor for every place, finite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from isoembed.core import InputError

#: what stands on top of a language model, or beside it, and is not part of it: heads for tokens, classes, rewards, and
#: the drafts of tokens ahead that some models bring for serving
_BESIDE = re.compile(
    r"(lm_head|embed_out|mlm_head|cls|predictions|vocab_\w+|score|classifier|qa_outputs|v_head|value_head|reward_head)\."
    r"|(.*\.)?mtp(_layers)?\."
)
#: on top of an encoder's first token, for its classes: no pooling of ours reads it, and many are saved without
_POOLER = re.compile(r"(.*\.)?pooler\.(dense\.)?(weight|bias)")
#: tables that earlier versions of transformers saved, and now compute: masks and rotary angles
_COMPUTED = re.compile(
    r"(.*\.)?((attn|attention)\.(bias|masked_bias|causal_mask)|rotary_emb\.(inv_freq|cos_cached|sin_cached)"
    r"|position_ids)"
)
#: how quantised weights are stored
_QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_(scale|zero_point|packed|shape)\w*|weight\.(absmax|quant_map|quant_state.*)"
    r"|(\w+_)?(blocks|scales))$"
)

_UNQUANTISED = (
    "Choose the model that it was made of, in 16 or 32 bits (`method=qlora` quantises it to 4 bits for the training)."
)


def adapter_error(source: str) -> InputError:
    """For a folder or hub id with an adapter.  It is neither merged nor left out, and the base it names is not
    followed: only its owner knows whether the weights beside it have it already."""
    return InputError(
        f"`model` must be a whole model; {source!r} holds an adapter (adapter_config.json). Merge it first with peft's "
        "`merge_and_unload` and save the result with `save_pretrained`, or take the adapter's files away where the "
        "weights beside them have it already."
    )


def check_unquantised(source: str, written: Mapping[str, Any]) -> None:
    """Raise InputError where a config.json, as `written`, says that the weights are quantised."""
    stated = written.get("quantization_config") or written.get("compression_config")
    if stated:
        method = stated.get("quant_method") if isinstance(stated, Mapping) else None
        kind = method if isinstance(method, str) else "says its config.json"
        raise InputError(
            f"`model` must have unquantised weights; those of {source!r} are quantised ({kind}). {_UNQUANTISED}"
        )


def of_pooler(name: str) -> bool:
    """Whether the tensor of that name is of an encoder's pooler, which no embedding reads; where the weights leave it
    unset, it is drawn anew at each opening, so that it is no part of what a model is."""
    return _POOLER.fullmatch(name) is not None


def check_places(source: str, report: Mapping[str, Any], config: Any, *, cut: tuple[str, range] | None = None) -> None:
    """Raise InputError where transformers' loading `report` names a parameter that the weights leave unset, or a tensor
    that the architecture has no place for, but for heads, what is computed anew, and blocks that were not asked for.

    config: of the whole model; cut: the name of its list of blocks, and the indices of those left out.
    """
    missing = sorted(key for key in report["missing_keys"] if not of_pooler(key))
    extra = sorted(
        key for key in report["unexpected_keys"] if not (_dispensable(key, config) or (cut and _left_out(key, *cut)))
    )
    packed = [key for key in extra if _QUANTISED.search(key)]
    if packed:
        raise InputError(f"`model` must have unquantised weights; {source!r} has {some(packed)}. {_UNQUANTISED}")
    prefix = _prefix(missing, extra)
    if prefix:
        raise InputError(
            f"The weights of {source!r} must have the names that transformers gives them; theirs begin with "
            f"{prefix!r}, as a wrapper saved them. Save the model inside the wrapper with `save_pretrained`."
        )
    if missing:
        raise InputError(
            f"The weights of {source!r} must set every parameter; {len(missing)} are missing ({some(missing)}). "
            "Fetch the model again, or correct the architecture in its config.json."
        )
    if extra:
        raise InputError(
            f"The weights of {source!r} must all have a place in the architecture of its config.json; {len(extra)} "
            f"have none ({some(extra)}), and without them it is another model. Correct config.json (its number of "
            "layers, its biases), or fetch the model again."
        )


def check_finite(source: str, model: nn.Module) -> None:
    """Raise InputError where a weight is NaN or infinite."""
    for name in not_finite(model):
        raise InputError(
            f"Every weight must be a finite number; {name!r} of {source!r} holds NaN or infinity. Fetch the model "
            "again, or choose another one."
        )


def not_finite(model: nn.Module) -> Iterator[str]:
    """The names of parameters that hold NaN or infinity."""
    for name, value in model.named_parameters():
        if value.numel() and not torch.stack(torch.aminmax(value.detach())).isfinite().all():
            yield name


def _dispensable(key: str, config: Any) -> bool:
    if _BESIDE.match(key) or _COMPUTED.fullmatch(key):
        return True
    drafts = getattr(config, "num_nextn_predict_layers", None)  # blocks behind the last, as DeepSeek's
    block = re.match(r"(?:model\.)?layers\.(\d+)\.", key)
    return block is not None and bool(drafts) and 0 <= int(block[1]) - config.num_hidden_layers < drafts


def _left_out(key: str, blocks: str, indices: range) -> bool:
    found = re.match(rf"(?:\w+\.)*?{re.escape(blocks)}\.(\d+)\.", key)
    return found is not None and int(found[1]) in indices


def _prefix(missing: Sequence[str], extra: Sequence[str]) -> str:
    """What stands before the name of a missing tensor among those without a place; "" where nothing does."""
    found = next((key for key in extra if missing and key.endswith("." + missing[0])), None)
    return "" if found is None else found.removesuffix(missing[0])


def some(names: Sequence[str]) -> str:
    """The first three of `names`."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
