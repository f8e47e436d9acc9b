"""The family and the model that a user names: built-in, a hub id, a folder or a GGUF file, whole or cut."""

from __future__ import annotations

import os
from pathlib import Path

from isoembed.budget import Budget
from isoembed.core import InputError, checked, expanded
from isoembed.families import FAMILIES, NANO, Family, ModelSpec
from isoembed.families import family_named as built_in
from isoembed.families.base import check_depth
from isoembed.families.counted import counted
from isoembed.families.depth import Reference, along_depth, default_depths
from isoembed.families.known import family_of, is_built_in
from isoembed.recommendation.request import default_family


@checked
def family_named(name: Family | str | Path) -> Family:
    """The family that `name` means: a built-in one by its name, or by the name or hub id of one of its models; of any
    other hub id, of a folder or a GGUF file that model alone; of `MODEL@` that model cut at any depth, and of
    `MODEL@2,4` at these.

    A model that no table holds is counted by its configuration, which needs torch and transformers and is kept; no
    weights are loaded.  Raises InputError where there is none.
    """
    name = os.path.abspath(expanded(name)) if isinstance(name, Path) else name  # a place, whatever else is called so
    if isinstance(name, Family) or any(family.is_called(name) for family in FAMILIES):
        return built_in(name)
    asked = _reference(name)
    if asked.depths is not None:
        base, spec = _whole(asked.source, None)
        return _cut_from(base, spec, asked.depths or default_depths(spec.blocks))
    return _whole(asked.source, None)[0]


def source_of(name: str) -> str:
    """Where the built-in model called `name` lies; a folder, a file, or another text, as it is."""
    found = None if os.path.exists(expanded(name)) else built_in_model(name)
    return name if found is None else found[1].source


def chosen(
    family: str | None, model: str | None, depth: int | None = None, *, budget: Budget | None = None
) -> tuple[Family, str | None]:
    """The family, and the model's name in it where one was asked for; with neither named the family that ships, if it
    is one for the `budget`.

    A family `MODEL@` is the one along that model's depth, and a cut model is always of that family.
    """
    suite = None if family is None else _reference(family)
    asked = None if model is None else _one_depth(_reference(model), depth)
    if depth is not None and asked is None:
        raise InputError("`depth` must come with `model`; name the model too.")
    if suite is not None and suite.depths is not None:
        base, spec = _whole(suite.source, None)
        depths = suite.depths or default_depths(spec.blocks)
        if asked is None:
            return _cut_from(base, spec, depths), None
        _check_one(spec, asked)
    elif asked is None:
        if family is not None:
            return built_in(family), None
        return NANO if budget is None else default_family(budget), None
    else:
        base, spec = _whole(asked.source, family)
        depths = default_depths(spec.blocks)
        if asked.depths in (None, (spec.blocks,)):
            return base, spec.name
    cut_at = spec.blocks if asked.depths is None else asked.depths[0]
    cut_from = _cut_from(base, spec, (*depths, cut_at))
    return cut_from, _member(cut_from, cut_at)


def grown(family: Family, asked: bool) -> tuple[Family, bool]:
    """The family of one model with its token table grown, where that is `asked` and its tokenizer has more tokens; and
    whether it was.  Those that are built in never are."""
    source = family.models[0].source
    if not asked or is_built_in(source):
        return family, False
    from isoembed.encoder.shapes import spec_from_config
    from isoembed.encoder.tokenizer import missing_rows

    missing = missing_rows(source)
    if not missing:
        return family, False
    rows = family.models[0].vocab + missing
    larger = tuple(
        spec_from_config(source, depth=spec.depth, rows=rows).model_copy(
            update={"name": spec.name, "whole": spec.whole, "pretraining_rate": spec.pretraining_rate}
        )
        for spec in family.models
    )
    return family.model_copy(update={"models": larger}), True


def suite(family: str | None, names: str | None) -> tuple[Family, tuple[str, ...]]:
    """The family of a sweep and the names of its models in it; with no family named that along the depth of the one
    model of which `names` lists cuts, as X@2,X@6, or the one that ships."""
    if family is None and names and "@" in names:
        asked = [_reference(each) for each in names.split(",")]
        if any(each.depths is not None for each in asked):
            found = _along(asked)
            return found, tuple(model.name for model in found.models)
    found, _ = chosen(family, None)
    return found, members(found, names)


def _along(asked: list[Reference]) -> Family:
    """The family of these cuts, which must be of one model."""
    sources = {source_of(each.source): each.source for each in asked}
    if len(sources) > 1:
        some = " and ".join(list(sources.values())[:2])
        raise InputError(f"`models` without `family` must be cuts of one model, as X@2,X@6; got {some}.")
    base, spec = _whole(asked[0].source, None)
    depths: list[int] = []
    for each in asked:
        depths += (spec.blocks,) if each.depths is None else each.depths or default_depths(spec.blocks)
    return _cut_from(base, spec, tuple(depths))


def members(family: Family, names: str | None) -> tuple[str, ...]:
    """The names of the models of `family` that `names` lists, as a,b; of all where it lists none."""
    if not names:
        return tuple(model.name for model in family.models)
    found = []
    for text in names.split(","):
        asked = _reference(text)
        if family.along == "depth" and asked.depths is not None and len(asked.depths) == 1:
            _check_one(family.models[0], asked)
            found.append(_member(family, asked.depths[0]))
        else:
            found.append(family.model(text).name)
    return tuple(dict.fromkeys(found))


def _cut_from(base: Family, spec: ModelSpec, depths: tuple[int, ...]) -> Family:
    for depth in depths:
        check_depth(depth, spec.blocks, spec.name)
    alike = base.name != "custom"  # the blocks of all that is built in, which arithmetic cuts
    return along_depth(base, spec, depths, None if alike else lambda depth: _named_after(spec, depth))


def _named_after(spec: ModelSpec, depth: int) -> ModelSpec:
    """`spec` cut, counted from its configuration, by the name and with the peak of the whole."""
    cut = counted(spec.source, _count, depth=depth)
    named = {"name": f"{spec.name}@{depth}", "whole": spec.name}
    return cut.model_copy(update={**named, "pretraining_rate": spec.pretraining_rate})


def _check_one(spec: ModelSpec, asked: Reference) -> None:
    """Raise InputError unless `asked` is a cut of the model that `spec` is, or is a cut of, by its name in tables or by
    where it lies."""
    name = _whole(spec.source, None)[1].name
    if asked.source != name and _whole(asked.source, None)[1].source != spec.source:
        raise InputError(f"`model` must be a cut of {name}, as {name}@2; got {asked.source}.")


def _member(family: Family, depth: int) -> str:
    for model in family.models:
        if model.blocks == depth:
            return model.name
    depths = ", ".join(str(model.blocks) for model in family.models)
    raise InputError(f"`model` must be a cut of {family.name} at one of the depths {depths}; got {depth}.")


def _reference(text: str) -> Reference:
    return Reference.parse(text, is_place=lambda place: os.path.exists(expanded(place)))


def _one_depth(asked: Reference, depth: int | None) -> Reference:
    """`asked` with what `depth` says of it."""
    if asked.depths is not None and len(asked.depths) != 1:
        raise InputError(
            f"`model` must be one model, as {asked.source}@6; several depths are a family: give `family` "
            f"{asked.source}@{','.join(map(str, asked.depths))}."
        )
    if depth is None:
        return asked
    if asked.depths is not None and asked.depths != (depth,):
        raise InputError(f"`depth` must be that of the model's name; got {depth} and @{asked.depths[0]}. Give one.")
    return Reference(source=asked.source, depths=(depth,))


def built_in_model(name: str, family: str | None = None) -> tuple[Family, ModelSpec] | None:
    """The built-in model of that name or hub id, whatever its capitals, as the hub reads them too; as it is written
    where something of that name lies here."""
    exact = os.path.exists(expanded(name))
    meant = name if exact else name.rstrip("/").casefold()
    for known in FAMILIES:
        for spec in known.models:
            names = [spec.name, spec.source]
            if meant in (names if exact else map(str.casefold, names)) and (family is None or known.is_called(family)):
                return known, spec
    return None


def _whole(source: str, family: str | None) -> tuple[Family, ModelSpec]:
    """The model at `source` and its family.  A hub id, folder or file is counted from its configuration."""
    if (found := built_in_model(source, family)) is not None:
        return found
    if family is not None:
        return built_in(family), built_in(family).model(source)
    place = expanded(source)
    if place.exists():  # the same from any working directory; in the hub's cache a file is a link to one without suffix
        linked = place.is_file() and place.suffix.casefold() == ".gguf"
        source = str(place.parent.resolve() / place.name if linked else place.resolve())
    custom = family_of(counted(source, _count))
    return custom, custom.models[0]


def _count(source: str, depth: int | None) -> ModelSpec:
    from isoembed.encoder.shapes import spec_from_config

    return spec_from_config(source, depth=depth)
