"""Model families known without a download.  Any other hub id or folder is counted by `isoembed.encoder.shapes`."""

from isoembed.core import InputError
from isoembed.families.base import Dense, Family, ModelSpec, RateRule
from isoembed.families.nano import NANO
from isoembed.families.pythia import PYTHIA

FAMILIES = (NANO, PYTHIA)

__all__ = ["FAMILIES", "NANO", "PYTHIA", "Dense", "Family", "ModelSpec", "RateRule", "family_named"]


def family_named(name: str) -> Family:
    """The built-in family called `name`."""
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise InputError(f"`family` must be one of {known}; got {name!r}. For another model give its hub id or folder.")
