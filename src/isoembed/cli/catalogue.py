"""`isoembed models`: the models that there are, and what they cost."""

from __future__ import annotations

from isoembed.cli import terminal
from isoembed.cli.options import AsJson, NameOptions
from isoembed.families import FAMILIES


def models(asked: NameOptions, as_json: AsJson = False) -> None:
    """List families; or one family's or one model's counts, FLOP a token and memory to train, method by method."""
    from isoembed.recommendation.catalogue import facts
    from isoembed.report.terminal.models import families_text, models_text

    if asked.family is None and asked.model is None:
        if as_json:
            terminal.print_json(
                [
                    {"family": known.name, "about": known.about, "models": [spec.name for spec in known.models]}
                    for known in FAMILIES
                ]
            )
        else:
            terminal.console().print(families_text(FAMILIES))
        return
    family, name = asked.chosen()
    found = [each for each in facts(family) if name in (None, each.name)]
    if as_json:
        shown = [each.model_dump(mode="json") for each in found]
        terminal.print_json({"family": family.name, "about": family.about, "models": shown})
    else:
        terminal.console().print(models_text(family, found))
