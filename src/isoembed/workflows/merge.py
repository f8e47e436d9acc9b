"""One model from several: the average of their weights, at the cost of no further training and of one model to serve.

Models that were fine-tuned from one base lie close enough together for their mean to be a good model, often a better
one than each (Wortsman et al. 2022, "Model soups", arXiv 2203.05482); averaged with the base itself it forgets less
(WiSE-FT, arXiv 2109.01903).  Nothing promises so for a given run: score it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from torch import nn

from isoembed.cache import cache_folder, working_folder
from isoembed.core import Frozen, InputError, checked, expanded
from isoembed.encoder.card import escape, hub_labels, use_of
from isoembed.encoder.computing import computing, first_apart
from isoembed.encoder.dense import encoder_of
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.encoder.exported import MODULES
from isoembed.encoder.load import load_base, weights_hash
from isoembed.options import Prompts
from isoembed.records import RECORD, RunRecord
from isoembed.workflows.job import at_hand, check_place


class Part(Frozen):
    """A model that went into the average."""

    name: str
    weights_hash: str
    share: float


class Merged(Frozen):
    """What was averaged, and the hash of what came of it."""

    parts: tuple[Part, ...]
    weights_hash: str


@checked
def merge(
    models: Sequence[str | Path],
    out: str | Path,
    *,
    shares: Sequence[float] | None = None,
    base: float | None = None,
) -> Merged:
    """Write the weighted mean of the weights of `models`, folders of one base's fine-tunings, to the folder `out`.

    shares: of each model, above 0; they are scaled to a sum of 1.  Default: equal ones.
    base: share of the untrained base, between 0 and 1, which the first model's record.json names; default: none.

    The first model gives tokenizer, pooling, prompts and context; the others must have the same.  Sums are in float64.
    Raises InputError where models differ in more than the values of their weights, or are of several bases by their
    record.json, where one is named twice, where `out` holds a trained model, and as `Embedder.save` does.
    """
    out, folders = expanded(out), [expanded(model) for model in models]
    _check(folders, out, shares, base)
    check_place(out, working_folder(out, cache_folder()), resume=None)
    base_hash = _one_base(folders)
    given = [1.0] * len(folders) if shares is None else list(shares)
    left = 1.0 - (base or 0.0)
    parts = [(folder.name, left * share / sum(given)) for folder, share in zip(folders, given, strict=True)]
    first = Embedder.load(folders[0], device="cpu")
    model = _parts(first.encoder)
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in _weights(model).items()}
    found = []
    for folder, (name, share) in zip(folders, parts, strict=True):
        other = first if folder == folders[0] else Embedder.load(folder, device="cpu")
        _check_alike(first, other, folders[0], folder)
        found.append(_added(total, _parts(other.encoder), name, share, str(folder)))
    if base:
        found.append(_added(total, *_untrained(folders[0], base_hash), base, "the base"))
    for name, value in _weights(model).items():
        value.copy_(total[name])
    first.save(out, card=_card(found, first.encoder.prompts))
    return Merged(parts=tuple(found), weights_hash=weights_hash(model))


def _check(folders: Sequence[Path], out: Path, shares: Sequence[float] | None, base: float | None) -> None:
    """Before anything is opened."""
    if len(folders) + bool(base) < 2:
        raise InputError("An average needs two models, or one and a share of its `base`; got one model.")
    if shares is not None and (len(shares) != len(folders) or not all(0 < share < float("inf") for share in shares)):
        raise InputError(f"`shares` must be one number above 0 for each of the {len(folders)} models; got {shares}.")
    if base is not None and not 0 < base < 1:
        raise InputError(f"The share of the `base` must lie between 0 and 1; got {base:g}.")
    for folder in folders:
        if not (folder / MODULES).is_file():
            raise InputError(f"{folder} is no sentence-transformers model; name folders that `run` or `train` wrote.")
        if folder.resolve() == out.resolve():
            raise InputError(f"`out` must be another folder than the models'; got {out} for both.")
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise InputError(
                f"A model must be named once; got {folder} {count} times. Name others, or weigh it by `shares`."
            )


def _one_base(folders: Sequence[Path]) -> str | None:
    """The hash of the base's weights, as the records have it; None where none does.  Raises InputError where they have
    several: the mean of models from different bases is noise."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        if not (folder / RECORD).is_file():
            continue
        recipe = RunRecord.load(folder / RECORD).recipe
        if recipe.base_hash is not None:
            found.setdefault(recipe.base_hash, (folder, recipe.model.name))
    if len(found) > 1:
        (one, (first, name)), (two, (second, other)) = list(found.items())[:2]
        raise InputError(
            f"Models that are averaged must be trained from one base; {first} is from {name} with weights {one}, "
            f"{second} from {other} with weights {two}. Merge models of one base."
        )
    return next(iter(found), None)


def _check_alike(first: Embedder, other: Embedder, one: Path, two: Path) -> None:
    configs: list[Any] = [base_of(each.encoder.model).config for each in (first, other)]
    maps = [each.encoder.dense for each in (first, other)]
    facts = {
        "pooling": (first.encoder.pooling, other.encoder.pooling),
        "prompts": (first.encoder.prompts, other.encoder.prompts),
        "projection": tuple("none" if dense is None else f"to {dense.out_features}" for dense in maps),
        "context": (first.context_tokens, other.context_tokens),
        "tokenizer": tuple(each.tokenizer.backend_tokenizer.to_str() for each in (first, other)),
        "architecture": tuple(config.model_type for config in configs),
    }
    if (apart := first_apart(*map(computing, configs))) is not None:
        field, here, there = apart
        facts[f"`{field}` in config.json"] = (here, there)  # behind the others, which say it in plainer words
    for what, (here, there) in facts.items():
        if here != there:
            said = "" if what == "tokenizer" else f" ({here} and {there})"
            raise InputError(f"Models that are averaged must have one {what}; {one} and {two} differ{said}.")


def _parts(encoder: Encoder) -> nn.Module:
    """What is averaged of an encoder: its model, with the projection beside it where it has one."""
    model = base_of(encoder.model)
    return model if encoder.dense is None else nn.ModuleDict({"model": model, "projection": encoder.dense})


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is averaged: every tensor of numbers, the model's own memory."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _added(total: Mapping[str, torch.Tensor], model: nn.Module, name: str, share: float, place: str) -> Part:
    """Add `share` of the model's weights to `total`, in place."""
    state = _weights(model)
    odd = sorted(state.keys() ^ total.keys()) or [key for key in total if state[key].shape != total[key].shape]
    if odd:
        raise InputError(f"Models that are averaged must have the same tensors; {place} differs in {odd[0]}.")
    for key, value in total.items():
        value.add_(state[key].double(), alpha=share)
    return Part(name=name, weights_hash=weights_hash(model), share=share)


def _untrained(folder: Path, base_hash: str | None) -> tuple[nn.Module, str]:
    """The base that the model in `folder` is from, and its name.  Raises InputError where its weights have another hash
    than `base_hash`, that of the records."""
    try:
        recipe = RunRecord.load(folder / RECORD).recipe
    except InputError as error:
        raise InputError(f"A share of the `base` needs the record of the first model's run: {error}") from None
    here = at_hand(recipe, folder)
    if here is None:
        raise InputError(
            f"A share of the `base` needs it: {recipe.model.source}, with the weights that were trained, must be here "
            f"or beside {folder}. Put it there."
        )
    if here.base_hash is None:  # that of the other models' records
        here = here.model_copy(update={"base_hash": base_hash})
    return _parts(encoder_of(load_base(here), here)), here.model.name


def _card(parts: Sequence[Part], prompts: Prompts) -> str:
    rows = "\n".join(f"| {escape(part.name)} | {part.share:.4g} | `{part.weights_hash}` |" for part in parts)
    sections = [
        f"---\n{ModelCardData(**hub_labels('merge')).to_yaml()}\n---",
        f"# A mean of {len(parts)} models",
        "The weights are the weighted mean of those of models fine-tuned from one base.",
        f"| model | share | hash of its weights |\n|---|---|---|\n{rows}",
        "It was not scored when it was written.",
        f"## Use\n\n```python\n{use_of(prompts)}```",
    ]
    return "\n\n".join(sections) + "\n"
