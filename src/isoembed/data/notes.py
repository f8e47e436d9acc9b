"""What a reader should know of pairs, as facts; their sentences stand here alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from isoembed.notes import Note


class DataNote(Note):
    """One fact of pairs that were read and split."""

    kind: Literal["remark", "warning"]

    sentences: ClassVar = {
        # what was read
        "damaged": ("The tokens of an earlier run were damaged ({damage}); they were made again.",),
        "in-order": ("Fields of {source} taken in their order", "query {query}, positive {positive}."),
        "unread": ("Fields of {source} not read", "{fields}."),
        "skipped": ("{rows:@row} skipped", "{reason}."),
        "duplicates": ("{pairs} duplicate pairs removed.",),
        "wordless": (
            "Warning",
            "{wordless:,} of {pairs:,} pairs have a text without a letter or digit; a search by words (BM25) finds "
            "none of these.",
        ),
        "few-texts": (
            "Warning",
            "few different texts ({variety} in {pairs:,} pairs)",
            "a pair shares one with {share:.0%} of the others of a batch, which then are no negatives of it.",
        ),
        "one-text": (
            "Training needs texts to tell apart; all {pairs:,} pairs of {source} have the same {side}. Bring other "
            "pairs.",
        ),
        # how they were split
        "groups-too-large": ("No group is small enough to be held out whole; pairs of one group lie on both sides.",),
        "of-heldout-groups": ("{pairs} pairs belong to held-out groups and are not used.",),
        "overlap": ("Overlap", "{pairs} training pairs dropped, a text of theirs is held out too."),
        "few-heldout": ("{pairs:,} held-out pairs, {wanted:,} wanted", "losses compare less sharply."),
        "none-left": (
            "Training needs pairs that are not held out too; none of the {pairs} of {source} is left. Bring more data, "
            "or a held-out source without them.",
        ),
        # hard negatives, batches
        "negatives": ("{negatives} hard negatives, {each:.2f} a pair.",),
        "negatives-heldout": ("{negatives} hard negatives left out", "they are texts of held-out pairs."),
        "sources-mixed": (
            "{sources} sources mixed",
            "`batch_by=source` gained .03 to .08 in trials.",  # of a mean of task scores (docs/objectives.md)
        ),
        "sources-told": (
            "Warning",
            "prompts of sources tell the texts of a mixed batch apart, which lowers the loss and taught a model less "
            "here; give `batch_by=source` too.",
        ),
        "source-a-batch": ("One source a batch; of an epoch", "{parts:;}."),
        "batches-of": ("{source} {batches:,} of {whole:,} batches ({pairs:,} pairs)",),
        "few-of-a-cluster": (
            "Warning",
            "{whole:,} of {batches:,} batches are of one cluster; lower `clusters`, of which most fill no batch.",
        ),
        "cluster-a-batch": (
            "One cluster a batch, of {clusters:,}",
            "{whole:,} of {batches:,} batches of a pass, the others of what is left of several; the clusters took "
            "{flop:.2g} FLOP, which no budget pays.",
        ),
    }


def remark(code: str, **fields: Any) -> DataNote:
    """What was done with the pairs."""
    return DataNote(kind="remark", code=code, fields=fields)


def warning(code: str, **fields: Any) -> DataNote:
    """What may make the pairs bad ones to train on."""
    return DataNote(kind="warning", code=code, fields=fields)
