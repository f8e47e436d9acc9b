"""One model as a family along its depth: its first blocks, so many or so many, with all that runs before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from isoembed.core import Frozen, InputError
from isoembed.families.base import Family, ModelSpec

#: a number of blocks as it is written
_DEPTH = re.compile(r"0|[1-9][0-9]{0,8}")


class Reference(Frozen):
    """A model, or a family, as a user names it."""

    source: str
    #: None: the model whole; else the depths to choose from, () for `default_depths`
    depths: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str, *, is_place: Callable[[str], bool] = lambda _: False) -> Reference:
        """`NAME` whole, `NAME@6` cut to its first 6 blocks, `NAME@2,4,8` at one of these depths, `NAME@` at any.

        A folder or file whose own name ends so (`is_place`) is meant itself.
        """
        source, at, depths = text.rpartition("@")
        if not at or is_place(text):
            return cls(source=text)
        listed = depths.split(",") if depths else []
        if not source or not all(_DEPTH.fullmatch(each) for each in listed):
            raise InputError(
                f"What follows the @ of a model must be a number of blocks, as NAME@6, or several, as NAME@2,4,8; got "
                f"{text!r}."
            )
        return cls(source=source, depths=tuple(dict.fromkeys(map(int, listed))))


def default_depths(blocks: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ... and all: powers of two, and one and a half times them."""
    found = {base << power for power in range(blocks.bit_length()) for base in (1, 3)}
    return (*sorted(depth for depth in found if depth < blocks), blocks)


def along_depth(
    base: Family, model: ModelSpec, depths: Iterable[int], cut: Callable[[int], ModelSpec] | None = None
) -> Family:
    """`model` of the family `base` as a family whose models are its cuts at `depths`, smallest first.

    cut: depth -> counts of the cut model, where its blocks differ; default: by arithmetic.  Learning rates are those of
    `base`, some of which nobody measured on cuts (`RateRule.along`).
    """
    models = tuple(model if depth == model.blocks else (cut or model.first)(depth) for depth in sorted(set(depths)))
    return base.model_copy(
        update={
            "name": f"{model.name}@",
            "models": models,
            "along": "depth",
            "about": f"{model.name} cut to its first blocks, the final norm kept ({base.about})",
            "method_rule": None,
        }
    )
