"""What a reader of scores should know, as facts; their sentences stand here alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from isoembed.notes import Note


class ScoreNote(Note):
    """One fact of a task's files, or of a system on it."""

    kind: Literal["remark"] = "remark"

    sentences: ClassVar = {
        "own": ("{queries:,} of the queries are documents under the same id, and no candidates for themselves",),
        "absent": (
            "{documents:@relevant document} of the judgments not in the corpus, as {first!r}",
            "counted as never found",
        ),
        "unknown": ("judgments of {queries:,} queries that are not in queries.jsonl, as {first!r}, left out",),
        "nothing-found": ("{system} finds nothing for any query", "it has no score"),
        # read from JSON of before there were notes
        "text": ("{text}",),
    }


def remark(code: str, **fields: Any) -> ScoreNote:
    """What a reader of the scores should know."""
    return ScoreNote(code=code, fields=fields)
