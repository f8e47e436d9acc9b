"""The family and the model that a command line names: built-in, a hub id or a folder."""

from __future__ import annotations

from isoembed.budget import Budget
from isoembed.core import expanded
from isoembed.families import FAMILIES, NANO, Family, ModelSpec, family_named
from isoembed.families.base import BORROWED_RATES
from isoembed.families.counted import counted
from isoembed.recommendation.recommend import default_family

#: the family that is one model of the user's
_CUSTOM = "custom"


def chosen(family: str | None, model: str | None, budget: Budget | None = None) -> tuple[Family, str | None]:
    """The family, and the model's name where one was asked for.  A hub id or folder is counted from its config; with
    neither named the family that ships, if it is one for the `budget`."""
    for known in FAMILIES:
        for spec in known.models:
            if model in (spec.name, spec.source) and (family is None or known.is_called(family)):
                return known, spec.name
    if family is not None:
        return family_named(family), model
    if model is None:
        return default_family(budget) if budget is not None else NANO, None
    if expanded(model).is_dir():
        model = str(expanded(model).resolve())  # the same folder from any working directory
    spec = counted(model, _count)
    return Family(name=_CUSTOM, models=(spec,), rates=BORROWED_RATES, about=f"the model at {model}"), spec.name


def _count(source: str) -> ModelSpec:
    from isoembed.encoder.shapes import spec_from_config

    return spec_from_config(source)


def grown(family: Family, asked: bool) -> tuple[Family, bool]:
    """The family of one model with its token table grown, where that is `asked` and it is too small; and whether it
    was.  Those of built-in families never are."""
    if not asked or family.name != _CUSTOM:
        return family, False
    from isoembed.encoder.shapes import spec_from_config
    from isoembed.encoder.tokenizer import missing_rows

    spec = family.models[0]
    missing = missing_rows(spec.source)
    if not missing:
        return family, False
    larger = spec_from_config(spec.source, rows=spec.vocab + missing)
    return family.model_copy(update={"models": (larger,)}), True
