"""Open any decoder-only language model and its tokenizer: hub id, folder, GGUF file, or a nano model that ships with
isoembed.

Safetensors only, no pickle, no code from the hub or from a model's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from isoembed.core import InputError
from isoembed.encoder.checks import adapter_error, check_finite, check_places, of_pooler
from isoembed.encoder.config import load_config, read_config, resolve, unreadable
from isoembed.encoder.depth import first_blocks
from isoembed.encoder.quiet import quiet
from isoembed.hub import hub_or_cache
from isoembed.methods.parts import blocks_of, is_embedding, owned_parameters
from isoembed.recipe import Recipe


def load_model(
    source: str,
    *,
    depth: int | None = None,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
) -> nn.Module:
    """The base model at `source` without language-modelling head, in evaluation mode, on the CPU; of its blocks the
    first `depth`, or all.

    `random_init` takes the configuration alone and draws weights from `seed`, the caller's random state untouched.
    Raises InputError where there are no safetensors weights, or where they leave a parameter unset.
    """
    whole = load_config(source)
    config = whole if depth is None else first_blocks(whole, depth, source)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if random_init:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn: nn.Module = AutoModel.from_config(config, trust_remote_code=False, **options)
            return drawn.eval()
    model = _with_weights(source, whole, config=config, **options).eval()
    if depth is not None and len(blocks_of(model)) != depth:
        raise InputError(f"{source!r} does not build the {depth} blocks that it is cut to. Leave the model whole.")
    check_finite(source, model)
    return model


def load_transformer(source: str) -> nn.Module:
    """Any text model at `source` without its head, an encoder too, to be looked at and not trained.  Raises InputError
    where there are no safetensors weights, or where they leave a parameter unset."""
    config = read_config(source)
    return _with_weights(source, config, config=config, dtype=torch.float32).eval()


def load_base(recipe: Recipe) -> nn.Module:
    """What `recipe` starts from: the base model, its token table grown where the recipe says so.

    Raises InputError where its weights are not those that the recipe was made for.
    """
    base = load_model(recipe.model.source, depth=recipe.model.depth)
    if recipe.base_hash not in (None, weights_hash(base)):
        raise InputError(f"The weights of {recipe.model.source} are not those the recipe was made for; make it anew.")
    return grow_table(base, recipe.model.vocab) if recipe.options.resize_embeddings else base


def grow_table(model: nn.Module, rows: int) -> nn.Module:
    """`model` with so many rows in its token table, in place; new ones are drawn about the mean of the others, as
    transformers does it, and always the same.  Raises InputError where the architecture does not allow it."""
    return _resize_table(model, rows, "`resize_embeddings`", "grow")


def trim_table(model: nn.Module, kept: Sequence[int]) -> nn.Module:
    """`model` with these rows of its token table alone, in this order, in place, and its configuration's special tokens
    renumbered.  Raises InputError where the architecture does not allow it, or keeps a second table of tokens."""
    whole: Any = model
    table = whole.get_input_embeddings()
    rows, vectors_VD = whole.config.vocab_size, table.weight.detach()[list(kept)].clone()
    others = [owner for _, owner, value in owned_parameters(model) if is_embedding(owner) and len(value) == rows]
    if any(owner is not table for owner in others):
        raise InputError("A vocabulary can be trimmed where a model has one table of tokens; this has several.")
    _resize_table(model, len(kept), "A trimmed vocabulary", "shrink")
    with torch.no_grad():
        whole.get_input_embeddings().weight.copy_(vectors_VD)
    place = {old: new for new, old in enumerate(kept)}
    for field, value in special_ids(whole.config).items():
        found = [place[each] for each in value if each in place]
        setattr(whole.config, field, None if not found else found if len(value) > 1 else found[0])
    return model


def special_ids(config: PreTrainedConfig) -> dict[str, list[int]]:
    """The token ids that `config` names, by its fields: `eos_token_id` -> [2].  Some write -1 where there is none."""
    found = {field: value for field, value in vars(config).items() if field.endswith("_token_id") and value is not None}
    listed = {field: value if isinstance(value, list) else [value] for field, value in found.items()}
    real = {field: [each for each in ids if each >= 0] for field, ids in listed.items()}
    return {field: ids for field, ids in real.items() if ids}


def _resize_table(model: nn.Module, rows: int, what: str, change: str) -> nn.Module:
    """what, change: of the refusal, as "`resize_embeddings`" and "grow"."""
    table: Any = model
    drawn = not any(value.is_meta for value in model.parameters())  # else there is no mean
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            table.resize_token_embeddings(rows, mean_resizing=drawn)
        except Exception as error:  # whatever it raises: each architecture keeps its table its own way
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise InputError(
                f"{what} needs an architecture whose token table can {change}; {table.config.model_type}'s "
                f"cannot ({reason}). Leave it out, or choose another model."
            ) from None
    return model


def check_weights(source: str) -> None:
    """Raise InputError unless the safetensors weights at `source` can be read and set every parameter, as `load_model`
    would; names and shapes are looked at, no value is loaded."""
    whole = read_config(source)
    _with_weights(source, whole, config=whole, device_map="meta")


def _with_weights(source: str, whole: PreTrainedConfig, **options: Any) -> nn.Module:
    """whole: the configuration of all that is stored, of which the one in `options` may be a cut."""
    place = resolve(source)
    with hub_or_cache(place):
        if find_adapter_config_file(place) is not None:  # on the hub too, where the base it names would be opened
            raise adapter_error(source)
    try:
        with quiet(), hub_or_cache(place):
            model, report = AutoModel.from_pretrained(
                place,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                **options,
            )
    except Exception as error:  # whatever it raises: weights and architecture do not fit in many ways
        raise unreadable("weights", source, error) from None
    check_places(source, report, whole, cut=_cut_off(model, whole))
    loaded: nn.Module = model
    return loaded


def _cut_off(model: nn.Module, whole: PreTrainedConfig) -> tuple[str, range] | None:
    """The name of the list of blocks, and the indices of those of `whole` that `model` lacks; None for no cut."""
    depth, blocks = (getattr(config, "num_hidden_layers", 0) for config in (model.config, whole))
    if depth == blocks:
        return None
    held = blocks_of(model)
    return next(name for name, part in model.named_modules() if part is held), range(depth, blocks)


def attend_both_ways(model: nn.Module) -> nn.Module:
    """`model` with every token attending to the whole text, in place.

    The first step of LLM2Vec (BehnamGhader et al. 2024, arXiv 2404.05961, section 2.1); its second, training on masked
    tokens, is not done here.

    transformers builds its masks by the configuration's `is_causal`, which is saved with the model, so an export reads
    texts the same way.  Whether this architecture heeds it is tried: raises InputError where the first token's output
    does not depend on the last token, with and without padding.
    """
    config: Any = model.config
    config.is_causal = False
    if not (looks_ahead(model) and looks_ahead(model, padded=True)):
        raise InputError(
            f"`bidirectional` needs an architecture whose attention can look ahead; {config.model_type}'s does "
            "not. Leave it out, or choose another model."
        )
    return model


def looks_ahead(model: nn.Module, *, padded: bool = False) -> bool:
    """Whether the first token's output depends on the last token: tried on two texts of three tokens, `padded` or
    not."""
    config: Any = model.config
    ids_BT = torch.tensor([[1, 2, 3, 0], [1, 2, 4, 0]], device=next(model.parameters()).device) % config.vocab_size
    mask_BT = torch.tensor([[1, 1, 1, 0]] * 2, device=ids_BT.device)
    length = 4 if padded else 3
    try:
        with torch.no_grad():
            told = {"input_ids": ids_BT[:, :length], "attention_mask": mask_BT[:, :length]}
            hidden_BTD = model(**told).last_hidden_state
    except Exception:  # an architecture that takes its mask for granted (MPT) fails in its own way without one
        return False
    return not torch.equal(hidden_BTD[0, 0], hidden_BTD[1, 0])


def weights_hash(model: nn.Module) -> str:
    """16 hex digits over names, shapes, types and bytes of all parameters but a pooler's, and of what is stored beside
    them, as experts' correction biases; the precision that they were loaded in counts."""
    digest = hashlib.sha256()
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    stored = [(name, value) for name, value in model.state_dict().items() if name not in every]
    for name, value in sorted([*model.named_parameters(), *stored], key=lambda each: each[0]):
        if of_pooler(name):
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
