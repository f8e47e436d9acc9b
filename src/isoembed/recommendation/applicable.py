"""Which laws apply to a request: all at the settings of their runs, at another batch or context those that were checked
there and hold, counting steps, and under options that gained by the tasks all for their order alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from isoembed.core import InputError
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.notes import reason
from isoembed.fitting.transfer import TransferCheck, tokens_to_law_units
from isoembed.options import PLAIN
from isoembed.recipe import SetupNote
from isoembed.recommendation.candidates import methods_on
from isoembed.recommendation.notes import Kind, RecipeNote, note
from isoembed.recommendation.objectives import gained
from isoembed.recommendation.request import CompleteRequest

#: in what a law's runs may differ from what is asked: the family is checked apart, other data change the level of the
#: loss and not the order of recipes
_OF_LEVEL = ("family", "heldout", "data", "tokenizer")


@dataclass(frozen=True)
class Applicable:
    """The laws that apply to a request, what a token of it is in theirs, and what is to be said about that."""

    laws: LawSet
    token_worth: float = 1.0
    notes: tuple[RecipeNote, ...] = ()


def applies_to(laws: LawSet, request: CompleteRequest) -> bool:
    """Whether `laws` hold for what is asked: its settings, and a method that it allows."""
    differs = differences(laws, request)
    holding = laws.laws if not differs or _is_advised(laws, request, differs) else _holding(laws, request, differs)
    return any(methods_on(law, request, model) for law in holding for model in request.all_sizes)


def applicable(laws: LawSet, request: CompleteRequest, *, other_settings: bool) -> Applicable:
    """All laws at their own settings; at a batch or context that was checked those that hold there, D counting steps.

    Raises InputError for another family, and at other settings unless `other_settings` or what differs is advised.
    """
    differs = differences(laws, request)
    if not differs:
        return Applicable(laws)
    holding = _holding(laws, request, differs)
    if not holding:
        failed = [
            reason(f"failed-{at.verdict}", law=law.method or law.law, why=at.facts)
            for law, at in checks(laws, request)
            if at is not None and at.verdict != "holds"
        ]
        why = (*differs.values(), *failed)
        advised = _is_advised(laws, request, differs)
        if other_settings or advised:
            both: tuple[Kind, ...] = ("assumed" if advised else "warning", "no-forecast")
            return Applicable(laws, notes=tuple(note(kind, "other-settings", differences=why) for kind in both))
        raise InputError(
            f"A law holds for the settings of its runs: {'; '.join(map(str, why))}. Ask for those, check it against "
            "runs there (`isoembed validate`), fit a law to runs of yours, or say `other_settings`."
        )
    factor = tokens_to_law_units(laws.settings, request.step_tokens)
    notes = [note("known", "steps", worth=factor)]
    for law, at in checks(laws, request):
        name = law.method or law.law
        if at is not None and at.verdict == "holds":
            notes.append(note("known", "checked", law=name, seen=at.seen))
        else:
            against = (reason("unchecked-there"),) if at is None else at.facts
            notes.append(note("warning", "left-out", law=name, why=against))
    return Applicable(LawSet(laws=tuple(holding)), factor, tuple(notes))


def _is_advised(laws: LawSet, request: CompleteRequest, differs: Collection[str]) -> bool:
    """Whether nothing differs from the plain runs of the laws but options that gained by the tasks beside such runs:
    who takes advice keeps the order of recipes."""
    asked = _without_measured_width(laws, request).options
    return set(differs) == {"options"} and laws.settings.options == PLAIN and gained(asked)


def _without_measured_width(laws: LawSet, request: CompleteRequest) -> CompleteRequest:
    """The request without its dimensions, where what they cost was measured beside the laws' runs."""
    known = {each.dimensions for law in laws.laws for each in law.widths}
    measured = laws.settings.options.dimensions is None and request.options.dimensions in known
    return request.projected(None) if measured else request


def checks(laws: LawSet, request: CompleteRequest) -> list[tuple[LawFile, TransferCheck | None]]:
    """Each law with what was seen of it at the request's batch and context."""
    return [(law, law.at(request.batch_pairs, request.context_tokens)) for law in laws.laws]


def _holding(laws: LawSet, request: CompleteRequest, differs: Collection[str]) -> list[LawFile]:
    """The laws that were seen to hold at the request's batch and context, where it differs in these alone; without
    their alternatives, which were not checked there."""
    if not set(differs) <= {"batch_pairs", "context_tokens"}:
        return []
    holding = [law for law, at in checks(laws, request) if at is not None and at.verdict == "holds"]
    return [law.model_copy(update={"alternatives": ()}) for law in holding]


def differences(laws: LawSet, request: CompleteRequest) -> dict[str, SetupNote]:
    """Where the request's settings differ from those of the law's runs; raises InputError for another
    family."""
    settings = laws.settings
    if settings.family is None:
        raise InputError(
            "A law speaks for one family, and this one's table named none: it serves fits and figures. Fit it again "
            f"with `isoembed fit` and its `family`, if its losses are contrastive ones of {request.family.name} models."
        )
    if not request.family.is_called(settings.family):
        raise InputError(
            f"A law holds for its own family: this one was measured on {settings.family}; got {request.family.name}. "
            "No family's rule follows from another's exponents: run a pilot, or leave the law out."
        )
    differs = settings.differences(_without_measured_width(laws, request).settings)
    return {name: each for name, each in differs.items() if name not in _OF_LEVEL}
