"""A model that is here as a folder or a file, known for one of the built-in families by its shape."""

from __future__ import annotations

from isoembed.families import FAMILIES
from isoembed.families.base import BORROWED_RATES, Family, ModelSpec


def is_built_in(source: str) -> bool:
    """Whether a built-in family has its model from there."""
    return any(source == spec.source for family in FAMILIES for spec in family.models)


def family_of(spec: ModelSpec) -> Family:
    """The family of the model counted as `spec`, with it alone.

    Where width, blocks, heads, feed-forward layers and vocabulary are those of a built-in model, that model's family
    with its rates, and its name and pretraining peak.  Where only the vocabulary is smaller, as a trimmed one is, the
    same under the name it has.  Else `custom`, with rates borrowed from others.
    """
    for family in FAMILIES:
        for known in family.models:
            if spec.same_shape(known):
                named = {"name": known.name, "pretraining_rate": known.pretraining_rate}
                return family.model_copy(
                    update={
                        "models": (spec.model_copy(update=named),),
                        "about": f"the model at {spec.source}, {known.name} by its shape",
                    }
                )
    for family in FAMILIES:
        for known in family.models:
            if spec.is_trimmed(known):
                return family.model_copy(
                    update={
                        "models": (spec.model_copy(update={"pretraining_rate": known.pretraining_rate}),),
                        "about": f"the model at {spec.source}, {known.name} by its shape, with fewer tokens",
                    }
                )
    return Family(name="custom", models=(spec,), rates=BORROWED_RATES, about=f"the model at {spec.source}")
