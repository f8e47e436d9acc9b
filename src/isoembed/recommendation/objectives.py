"""What gained at equal FLOP beside the loss that laws go by: options of the objective, judged by task scores.

`benchmarks/quality.py --ship` writes the file that ships: of its results those that three seeds or more tell from the
plain recipe (Student's 95 % interval of the mean of the task scores excludes 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from isoembed.core import Frozen
from isoembed.options import PLAIN, Options
from isoembed.recipe import Recipe
from isoembed.recommendation.frontier import FARTHEST
from isoembed.recommendation.notes import RecipeNote, note

FILE = Path(str(files("isoembed"))) / "assets" / "objectives.json"


class Verdict(Frozen):
    """One set of options beside the plain recipe, of the same seeds and FLOP."""

    options: dict[str, Any] = Field(description="as fields of `isoembed.options.Options`")
    model: str
    method: str
    flop: float
    seeds: int
    tasks: int = Field(description="whose main scores the mean is of")
    gain: float = Field(description="of the mean score, 0 to 1")
    half: float = Field(description="of Student's 95 % interval of the gain")
    width: PositiveInt | None = Field(None, description="of the vectors that `matryoshka` has prefixes of")

    @property
    def fixed(self) -> dict[str, Any]:
        """What of the options holds for any pairs and any model."""
        return _fixed(self.options)

    def on(self, recipe: Recipe) -> dict[str, Any]:
        """The options for the recipe's model: prefixes keep their share of the width."""
        if self.width is None:
            return self.options
        share = recipe.options.width_of(recipe.model) / self.width
        return self.options | {"matryoshka": [max(1, round(each * share)) for each in self.options["matryoshka"]]}

    def is_in(self, recipe: Recipe) -> bool:
        """Whether `recipe` has all of the options."""
        return self.fixed.items() <= _fixed(dict(recipe.options)).items()

    def suits(self, recipe: Recipe) -> bool:
        """Whether the options weigh anything in the recipe's loss and may stand beside its own."""
        own = recipe.options
        if own.teacher is not None and own.teacher.weight == 1:  # distilled alone, while all was judged contrastively
            return False
        if self.width is not None and own.width_of(recipe.model) < self.width:  # on nano prefixes lost (docs/serve.md)
            return False
        try:
            Options.model_validate(own.model_dump() | self.on(recipe))
        except ValidationError:
            return False
        return True

    @property
    def place(self) -> tuple[str, str, float]:
        """Which runs it was judged in."""
        return self.model, self.method, self.flop

    def as_good_as(self, other: Verdict) -> bool:
        """Whether it gained no less, within the noise of both."""
        return self.gain + math.hypot(self.half, other.half) >= other.gain


VERDICTS = TypeAdapter(tuple[Verdict, ...])


@cache
def verdicts() -> tuple[Verdict, ...]:
    """Those that ship."""
    return VERDICTS.validate_json(FILE.read_bytes())


def gained(options: Options) -> bool:
    """Whether the options are advised, at whatever budget: a set that gained, or what is left of it where some does not
    apply, and nothing else."""
    asked = _fixed({name: value for name, value in options if value != getattr(PLAIN, name)})
    return bool(asked) and any(asked.items() <= verdict.fixed.items() for verdict in verdicts())


def objective_notes(recipe: Recipe) -> list[RecipeNote]:
    """The best of what gained at the measured budget that is nearest to the recipe's, on its own model where that was
    tried there; none beyond the reach of a law, or where the recipe has it or something as good."""
    near = [each for each in verdicts() if _away(each, recipe) <= math.log(FARTHEST) and each.suits(recipe)]
    if not near:
        return []

    def worth(verdict: Verdict) -> tuple[float, bool, float]:
        own = (verdict.model, verdict.method) == (recipe.model.name, recipe.method.label)
        return -_away(verdict, recipe), own, verdict.gain

    best = max(near, key=worth)
    if _has_as_much(recipe, best, near):
        return []
    options = tuple(f"`{name}={_written(value)}`" for name, value in best.on(recipe).items())
    told = best.model_dump(include={"model", "method", "flop", "seeds", "tasks", "gain", "half"})
    # a cluster lies within a source: against mixed batches it gains what one source a batch does, too
    code = "objective-of-sources" if "batch_by" in best.options else "objective"
    return [note("known", code, options=options, **told)]


def _has_as_much(recipe: Recipe, best: Verdict, near: Sequence[Verdict]) -> bool:
    """Whether the recipe has the options of `best`, or others as good: at the nearest budget where the same runs judged
    both, or, where none did, as far as the same model and method go."""
    own = [each for each in near if each.is_in(recipe)]
    same = [(one, each) for one in own for each in near if each.options == best.options and each.place == one.place]
    same = same or [(one, best) for one in own if one.place[:2] == best.place[:2]]
    nearest = min((_away(one, recipe) for one, _ in same), default=math.inf)
    return best.is_in(recipe) or any(one.as_good_as(other) for one, other in same if _away(one, recipe) == nearest)


def _fixed(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` without how many clusters there are, which goes by the pairs, and with whether there are prefixes in
    the place of theirs, which go by the model's width."""
    found = {name: value for name, value in options.items() if name not in ("clusters", "matryoshka")}
    return found | ({"matryoshka": True} if options.get("matryoshka") else {})


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _away(verdict: Verdict, recipe: Recipe) -> float:
    return abs(math.log(verdict.flop / recipe.total_flop))
