"""Model families known without a download.  `isoembed.workflows.models` names any other model's."""

from __future__ import annotations

from isoembed.core import InputError, checked
from isoembed.families.base import Dense, Family, ModelSpec, RateRule
from isoembed.families.bloom import BLOOM
from isoembed.families.gemma3 import GEMMA3
from isoembed.families.gpt2 import GPT2
from isoembed.families.llama3 import LLAMA3
from isoembed.families.nano import NANO
from isoembed.families.olmo2 import OLMO2
from isoembed.families.opt import OPT
from isoembed.families.pythia import PYTHIA
from isoembed.families.qwen3 import QWEN3, QWEN3_EMBEDDING
from isoembed.families.smollm import SMOLLM2, SMOLLM3

FAMILIES = (NANO, PYTHIA, QWEN3, QWEN3_EMBEDDING, GEMMA3, SMOLLM2, SMOLLM3, OLMO2, LLAMA3, GPT2, OPT, BLOOM)

__all__ = ["FAMILIES", "NANO", "PYTHIA", "Dense", "Family", "ModelSpec", "RateRule", "family_named"]


@checked
def family_named(name: Family | str) -> Family:
    """The built-in family called `name`, in capitals or not; a family itself as it is.

    Raises InputError naming those there are where there is none such.
    """
    if isinstance(name, Family):
        return name
    for family in FAMILIES:
        if family.is_called(name):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise InputError(
        f"`family` must be one of {known}, or MODEL@ for the cuts of a model; got {name!r}. A hub id, folder or GGUF "
        "file is named as `model`."
    )
