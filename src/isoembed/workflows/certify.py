"""`isoembed certify`: is a model folder what it should be?"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from isoembed.core import checked, expanded
from isoembed.encoder.certificate import Certificate, ModelCheck, Origin, examine
from isoembed.encoder.config import NotADecoderError
from isoembed.encoder.exported import MODULES, module_folders
from isoembed.encoder.load import load_model, load_transformer
from isoembed.families.base import ModelSpec
from isoembed.recipe import Recipe
from isoembed.records import RECORD, RunRecord
from isoembed.workflows.job import at_hand
from isoembed.workflows.models import built_in_model, chosen


@checked
def certify(folder: str | Path, *, base: str | ModelSpec | None = None) -> Certificate:
    """Every question that there is something to compare `folder`, a sentence-transformers model, with.

    base: the model that it was trained from (folder, hub id, GGUF file, name of a built-in one, X@6 where it was cut;
        of others' models an encoder too); default: that of its record, where it is at hand.

    Runs on the CPU, reads safetensors only and runs no code of the folder's.  Raises InputError where `folder` or
    `base` is no such model.
    """
    folder, base = expanded(folder), _named(base) if isinstance(base, str) else base
    recipe = RunRecord.load(folder / RECORD).recipe if (folder / RECORD).is_file() else None
    origin = _origin(folder, base, recipe)
    found = examine(folder, origin=origin)
    if origin is not None or recipe is None:
        return found
    unseen = f"its base, {recipe.model.source}, is not here, or what is here has other weights"
    return found.model_copy(update={"checks": (*found.checks, ModelCheck(name="trained", passed=None, seen=unseen))})


def _origin(folder: Path, base: str | ModelSpec | None, recipe: Recipe | None) -> Origin | None:
    if base is None:
        recipe = None if recipe is None else at_hand(recipe, folder)
    elif recipe is None or isinstance(base, str):
        if isinstance(base, str):
            return Origin.of_model(base, _opened(base), transformer_in(base), _from(base, recipe))
        opened, cuttable = load_model(base.source, depth=base.depth), base.depth is None
        return Origin.of_model(base.name, opened, base.source, _from(base.source, recipe), cuttable=cuttable)
    else:
        if recipe.options.resize_embeddings:  # it is grown before it is compared
            base = base.model_copy(update={"vocab": recipe.model.vocab})
        recipe = recipe.model_copy(update={"model": base, "base_hash": None})
    return None if recipe is None else Origin.of(recipe)


def _named(base: str) -> ModelSpec | str:
    """A model that could be trained here, by its name in a family or cut; of any other its source."""
    try:
        family, name = chosen(None, transformer_in(base) if built_in_model(base) is None else base)
    except NotADecoderError:
        return base
    return family.models[0] if name is None else family.model(name)


def transformer_in(source: str) -> str:
    """Where the transformer of a sentence-transformers folder lies, in full: it is no built-in model, whatever it is
    called.  Any other source as it is."""
    folder = expanded(source).absolute()
    return str(module_folders(folder)[0]) if (folder / MODULES).is_file() else source


def _opened(source: str) -> nn.Module:
    """What others train from may be an encoder."""
    try:
        return load_model(transformer_in(source))
    except NotADecoderError:
        return load_transformer(transformer_in(source))


def _from(source: str, recipe: Recipe | None) -> Recipe | None:
    """`recipe` of the base at `source`."""
    if recipe is None:
        return None
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"source": source}), "base_hash": None})
