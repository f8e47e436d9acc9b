"""The parts of a decoder-only transformers model, found by module type: what is counted and what methods train.

Names differ between architectures and mislead ("emb" is in a LoRA adapter's name too), module types do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from isoembed.core import InputError


def owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Full name, owning module and value of each parameter, in order of registration, a shared one once."""
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        for name, value in owner.named_parameters(prefix, recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield name, owner, value


def is_embedding(owner: nn.Module) -> bool:
    """Token tables, learned positions and every subclass (Gemma's scaled table, OPT's shifted positions)."""
    return isinstance(owner, nn.Embedding)


def is_norm(owner: nn.Module) -> bool:
    """LayerNorm, RMSNorm and every architecture's own class of either: all are named so, and hold vectors only."""
    return type(owner).__name__.endswith("Norm") and all(value.ndim == 1 for value in owner.parameters(recurse=False))


def is_experts(owner: nn.Module) -> bool:
    """A block's experts as transformers stacks them: every parameter has one row an expert, the matrices are 3-D."""
    count, values = getattr(owner, "num_experts", None), list(owner.parameters(recurse=False))
    return any(value.ndim == 3 for value in values) and all(value.shape[0] == count for value in values)


def is_bias(parameter: str) -> bool:
    """A bias vector, by its full name: `bias` is torch's own name for it in dense layers and norms alike."""
    return parameter.rsplit(".", 1)[-1] == "bias"


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, first to last: the one outermost list of as many modules as the configuration has layers."""
    layers = getattr(model.config, "num_hidden_layers", None)
    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    outermost = [
        part
        for name, part in lists.items()
        if len(part) == layers and not any(name.startswith(f"{other}.") for other in lists)
    ]
    if len(outermost) != 1:
        raise InputError(
            f"A model must hold its decoder blocks in one list; {type(model).__name__} has {len(outermost)} lists of "
            f"{layers} modules. Choose a plain decoder-only language model."
        )
    return outermost[0]


def dense_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Full name -> (inputs, outputs) of each dense layer inside the blocks: `nn.Linear`, and `Conv1D` as in GPT-2."""
    inside = set(blocks_of(model).modules())
    layers = {}
    for name, module in model.named_modules():
        if module not in inside:
            continue
        if isinstance(module, nn.Linear):
            layers[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            layers[name] = (module.nx, module.nf)
    return layers


class _FirstBlockReached(Exception):  # noqa: N818 - a signal, not an error
    pass


def entry_modules(model: Any) -> set[nn.Module]:
    """The modules that run before the first block (embeddings, OPT's input projection, Bloom's first norm).

    Found by running two tokens up to the first block, for the order in which modules are registered says nothing.
    Works on the meta device: given embeddings and a cache, transformers looks at no values of ids and positions, and
    for attention of a name that it does not know it makes no mask.
    """
    called: set[nn.Module] = set()

    def note(module: nn.Module, _: object) -> None:
        if module is first:
            raise _FirstBlockReached
        called.add(module)

    first = blocks_of(model)[0]
    own = model.config._attn_implementation
    if own == "sdpa":  # architectures without it, such as MPT, need the mask that they get for `eager`
        model.config._attn_implementation = "none"
    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            ids_BT = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
            model(inputs_embeds=model.get_input_embeddings()(ids_BT), use_cache=True)
    except _FirstBlockReached:
        return called
    finally:
        model.config._attn_implementation = own
        for hook in hooks:
            hook.remove()
    raise InputError(f"{type(model).__name__} never ran its first block; choose a plain decoder-only language model.")
