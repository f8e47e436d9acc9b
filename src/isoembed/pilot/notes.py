"""What a pilot's planner warns of, and why it goes on or stops, as facts; their sentences stand here alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from isoembed.notes import Note


class PilotNote(Note):
    """One fact that speaks against a decision, or why the next runs are these or none."""

    kind: Literal["warning", "reason"]

    sentences: ClassVar = {
        # warnings
        "few-runs-of-method": ("no law", "{runs} runs of {method}; the {law} law needs {least}"),
        "unfit": ("no law", "{error}"),
        "no-runs-of-method": ("no law", "no runs of {methods}"),
        "few-runs": ("{runs} runs of {steps} steps or more; {least} are the least", "fall back on the family's rule"),
        "not-good": ("law of {method}", "{status}"),
        "far": ("the target is {ratio:.0f} x beyond the largest pilot run",),
        # reasons
        "settled": (
            "{decisions} decisions in a row for the same candidate, at an expected regret below {tolerance:.2%}",
        ),
        "allowance": ("the cheapest run left costs {flop:.3g} FLOP, the allowance has {left:.3g}",),
        "all-run": ("every run below the target budget has been made",),
        "start": ("start", "enough runs to fit a law"),
        "no-law": ("no method that could run has a law",),
        "largest-cut": ("largest cut of the {criterion} per FLOP",),
    }


def warning(code: str, **fields: Any) -> PilotNote:
    """What speaks against a decision."""
    return PilotNote(kind="warning", code=code, fields=fields)


def reason(code: str, **fields: Any) -> PilotNote:
    """Why the next runs are these, or none."""
    return PilotNote(kind="reason", code=code, fields=fields)
